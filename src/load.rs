//! From a checkpoint and its plan to weights in memory, and to files that hold them for the next start.
mod loader;
pub mod packed;

pub use loader::{Loaded, load, load_arriving};
