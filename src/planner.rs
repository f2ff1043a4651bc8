//! What every tensor gets: curves from its weights, what an error in it costs, and the division of the bytes that a budget leaves.
mod allocate;
mod budget;
mod plan;
mod rd_curve;
mod sensitivity;
mod shares;

pub use allocate::{Choice, allocate};
pub use budget::{Limit, Memory, logits_bytes};
pub use plan::{Entry, Measured, Method, Pin, Plan, Request, check, choose, measure, outline, plan};
pub use rd_curve::{Curve, Point, curves, trellis_menu};
