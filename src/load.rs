//! From a checkpoint and its plan to weights in memory, and to files that hold them for the next start.
mod loader;
pub mod packed;
mod refine;

pub use loader::{Loaded, load_arriving};
pub use refine::SPAN;

use crate::{Checkpoint, Error, planner::Plan};

/// Reads and quantizes every tensor of the plan; where its survey has text, with error feedback for the inputs that the text gives. `done` is
/// told the number of weights that each piece had, from the threads that do the work.
///
/// # Errors
/// Where the checkpoint cannot be read, a weight is not finite (the tensor is named), or the plan is another checkpoint's.
pub fn load(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    plan.belongs_to(checkpoint)?;
    match plan.survey.text() {
        Some(text) => refine::refine(checkpoint, plan, text, done),
        None => loader::quantized(checkpoint, plan, done),
    }
}
