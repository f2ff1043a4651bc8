//! What every tensor gets: curves from its weights, what an error in it costs, and the division of the bytes that a budget leaves.
mod allocate;
mod budget;
mod gguf;
mod items;
mod measured;
mod method;
mod parts;
mod plan;
mod rd_curve;
pub mod refining;
mod request;
mod seen;
mod sensitivity;
mod shares;
mod target;

pub use allocate::{Choice, allocate};
pub use budget::{KEPT, Limit, Memory, logits_bytes};
pub use gguf::{gguf_name, gguf_types};
pub use measured::{Measured, check, measure};
pub use method::Method;
pub use parts::{MeasuredPart, MeasuredParts, measure_part};
pub use plan::{Entry, Plan, choose, outline, plan};
pub use rd_curve::{Curve, Point, curves, trellis_menu};
pub use request::{Pin, Request};
pub use target::{Shared, Target};
