//! Formats, quantizers and dequantizing matrix products: bytes in, numbers out; no files, no layer names.

mod activations;
mod affine;
mod arena;
mod attention;
mod codec;
mod dense;
mod dot;
mod effort;
mod embed;
mod experts;
mod format;
mod import;
pub mod isa;
mod levels;
mod linear;
mod pack;
mod plain;
mod quantize;
mod rotate;
mod search;
#[cfg(test)]
mod tests;
pub mod training;
mod trellis;

pub use activations::input_error;
pub use arena::{ALIGN, Arena, Matrix};
pub use attention::{Attention, KvElement, attention, attention_at};
pub use effort::Effort;
pub use embed::embed;
pub use experts::{Experts, experts, experts_at};
pub use format::{Format, FormatError, Scheme};
pub use import::{Groups, place};
pub use linear::{linear, linear_at};
pub use quantize::{dequantize_row, quantize, quantize_at, relative_error};
