//! Formats, quantizers and dequantizing matrix products: bytes in, numbers out; no files, no layer names.

// Whoever adds a scheme is told every place that has to know it: none may take it for another.
#![warn(clippy::wildcard_enum_match_arm)]

mod activations;
mod affine;
mod arena;
mod attention;
mod bits;
mod codec;
mod dense;
mod dot;
mod effort;
mod embed;
mod experts;
mod finite;
mod format;
mod import;
pub mod isa;
mod levels;
#[cfg(test)]
mod oracle;
mod pack;
mod panel;
mod peak;
mod plain;
mod products;
mod quantize;
mod residual;
mod rotate;
mod scores;
mod search;
mod shifts;
mod source;
mod team;
#[cfg(test)]
mod tests;
pub mod training;
mod trellis;

pub use activations::{Inputs, Rows, input_error};
pub use arena::{ALIGN, Arena, Matrix};
pub use attention::{Attention, Heads, KvElement, attend, attention, attention_at};
pub use dot::Product;
pub use effort::Effort;
pub use embed::embed;
pub use experts::{Experts, Mixture, Routed, experts, experts_at};
pub use finite::{NotFinite, Watch, finite};
pub use format::{Format, FormatError, Scheme};
pub use import::{Groups, place};
pub use panel::PANEL_BYTES;
pub use peak::integer_peak;
pub use products::{Products, linear, linear_at};
pub use quantize::{dequantize_row, dequantize_rows, quantize, quantize_at, relative_error};
pub use residual::{Turn, add_tiles, norm_rows, normed};
pub use scores::{divergence, log_sum_exp};
pub use source::{Same, Source, Tiled};
pub use team::{Team, team};
