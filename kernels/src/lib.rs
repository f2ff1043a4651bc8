//! Formats, quantizers and dequantizing matrix products: bytes in, numbers out; no files, no layer names.

// Whoever adds a scheme is told every place that has to know it: none may take it for another.
#![warn(clippy::wildcard_enum_match_arm)]

mod arena;
#[cfg(test)]
mod attention_tests;
mod decode;
#[cfg(test)]
mod delta_tests;
mod encode;
#[cfg(test)]
mod feedback_tests;
mod format;
#[cfg(test)]
mod grid_tests;
pub mod isa;
#[cfg(test)]
mod latent_tests;
mod ops;
#[cfg(test)]
mod oracle;
mod peak;
mod product;
mod team;
#[cfg(test)]
mod tests;

pub use arena::{ALIGN, Arena, Matrix, resize};
pub use decode::{E2M1, Lifted, dequantize_row, dequantize_rows, embed, lift};
pub use encode::training;
pub use encode::{Effort, Feedback, Groups, Moments, place, quantize, quantize_at, quantize_with, relative_error};
pub use format::{Format, FormatError, Scheme};
pub use ops::rotate::{block as rotation, mix, split_mix};
pub use ops::{
    Checkpoints, DeltaLayer, DeltaShape, DeltaWeights, Heads, KvElement, KvLayer, Look, NormedRow, NotFinite, PAGE, Pairs, RowNorm, Same, TAPS,
    Tiled, Turn, Values, Watch, add_tiles, attend, attend_numbers, attention, attention_at, bound, centre, delta_net, delta_numbers, divergence,
    finite, gate_heads, log_sum_exp,
};
pub use peak::{float_peak, integer_peak};
pub use product::{
    ClampedGlu, Experts, Glu, Inputs, Mixture, PANEL_BYTES, Product, Products, Routed, Rows, Taken, experts, experts_at, input_error, linear,
    linear_at,
};
pub use team::{Team, team};
