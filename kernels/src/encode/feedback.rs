//! Error feedback: codes that make up for the errors of those before them, given what inputs have in common.
mod factor;
mod moments;
mod outer;
mod survivors;

pub use factor::{BLOCK, Factor, Feedback};
pub use moments::Moments;
pub use survivors::{Survivors, ask};
