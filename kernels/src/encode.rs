//! Weights into packed bytes.
mod affine;
mod coder;
mod coding;
mod effort;
mod error;
mod feedback;
mod grid;
mod import;
mod pack;
mod plain;
mod quantize;
mod search;
pub mod training;
mod trellis;

pub use effort::Effort;
pub use error::relative_error;
pub use feedback::{Feedback, Moments};
#[cfg(test)]
pub use grid::Grid;
pub use import::{Groups, place};
#[cfg(test)]
pub use pack::{pack, planes};
pub use quantize::{quantize, quantize_at, quantize_with};
