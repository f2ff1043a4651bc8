//! From a checkpoint and its plan to weights in memory, and to files that hold them for the next start.
mod journal;
mod loader;
pub mod packed;
mod part;
mod records;
mod refine;

pub(crate) use loader::{Buffers, Piece, step};
pub use loader::{Loaded, load_arriving};
pub use part::{assemble, pack_part};

use crate::{Checkpoint, Error, planner::Plan};
use journal::Journal;
use std::path::Path;

/// Reads and quantizes every tensor of the plan; where its survey has text, with error feedback for the inputs that the text gives. `done` is
/// told the number of weights that each piece had, from the threads that do the work.
///
/// # Errors
/// Where the checkpoint cannot be read, a weight is not finite (the tensor is named), or the plan is another checkpoint's.
pub fn load(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    load_from(checkpoint, plan, None, done)
}

/// The same; where the plan asks for error feedback, which takes its time, matrices that are coded are kept in a file, from which a process
/// that comes after one that was stopped goes on. The file is the caller's to remove.
///
/// # Errors
/// As for [`load`].
pub fn load_resuming(checkpoint: &Checkpoint, plan: &Plan, journal: &Path, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    // One that cannot be had is done without.
    let journal = plan.survey.text().and_then(|_| Journal::open(journal, packed::VERSION, &plan.fingerprint).ok());
    load_from(checkpoint, plan, journal, done)
}

fn load_from(checkpoint: &Checkpoint, plan: &Plan, journal: Option<Journal>, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    plan.belongs_to(checkpoint)?;
    match plan.survey.text() {
        Some(text) => refine::refine(checkpoint, plan, text, journal, done),
        None => loader::quantized(checkpoint, plan, done),
    }
}
