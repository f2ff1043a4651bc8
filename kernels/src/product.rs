//! Matrices times tokens.
mod activations;
mod dense;
mod dot;
mod experts;
mod inputs;
mod panel;
mod products;
mod straight;
mod task;
mod tiles;

#[cfg(test)]
pub use activations::Want;
pub use activations::{Rows, input_error};
pub use experts::{ClampedGlu, Experts, Glu, Mixture, Routed, Taken, experts, experts_at};
pub use inputs::Inputs;
pub use panel::PANEL_BYTES;
pub use products::{Products, linear, linear_at};
pub use task::Product;
