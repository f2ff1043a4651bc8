//! One forward pass for Mixture-of-Experts transformers, described by data: [`Config`] says what a checkpoint is,
//! [`Config::tensors`] which tensors it has, [`Weights`] gives them, [`Transformer`] computes.
mod cache;
mod config;
mod forward;
mod forward_error;
#[cfg(test)]
mod forward_tests;
mod json;
mod ops;
mod quantization;
mod router;
mod spec;

pub use cache::KvCache;
pub use config::{Config, ConfigError};
pub use forward::{Transformer, Weights};
pub use forward_error::ForwardError;
pub use ops::floats;
pub use quantization::{Gptq, GptqModule, Mlx, MlxModule, Quantization};
pub use ram_kernels::KvElement;
pub use spec::{Kind, TensorSpec};
