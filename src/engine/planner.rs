//! What every tensor gets: curves from its weights, what an error in it costs, and the division of the bytes that a budget leaves.
mod allocate;
mod budget;
mod items;
mod method;
mod plan;
mod rd_curve;
pub mod refining;
mod sensitivity;
mod shares;
mod target;

pub use allocate::{Choice, allocate};
pub use budget::{KEPT, Limit, Memory, logits_bytes};
pub use method::Method;
pub use plan::{Entry, Measured, Pin, Plan, Request, check, choose, measure, outline, plan};
pub use rd_curve::{Curve, Point, curves, trellis_menu};
pub use target::{Shared, Target};
