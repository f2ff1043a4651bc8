//! Transformers described by data: a [`Description`] says what a checkpoint is, [`Description::tensors`] which tensors it has, [`Weights`]
//! gives them, a [`Transformer`] computes.
mod arch;
mod backend;
mod cache;
mod cancel;
pub mod description;
mod forward_error;
mod json;
mod packed_linear;
mod parts;
mod quantization;
mod refine;
pub mod rope;
mod router;
mod survey;
mod tensors;
mod transformer;
#[cfg(test)]
mod transformer_tests;
mod weights;

pub use backend::{Channels, Coder, Cost, Observer, Work};
pub use cache::KvCache;
pub use cancel::Cancel;
pub use candle_core;
pub use description::{ConfigError, Description};
pub use forward_error::ForwardError;
pub use packed_linear::{PackedLinear, floats};
pub use quantization::{Awq, Fp8, Gptq, GptqModule, Mlx, MlxModule, PackedNumbers, Quantization};
pub use ram_kernels::KvElement;
pub use refine::{refine, refine_bytes};
pub use survey::survey;
pub use tensors::{Kind, TensorSpec};
pub use transformer::{Backend, Next, Transformer};
pub use weights::{Published, Weights};
