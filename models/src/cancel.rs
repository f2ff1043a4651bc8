//! A way to end a computation from another thread.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Asks a forward pass to end; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The pass ends before its next layer, and those after it at once.
    pub fn cancel(&self) {
        self.0.store(true, Relaxed);
    }

    /// Takes that back.
    pub fn renew(&self) {
        self.0.store(false, Relaxed);
    }

    /// Whether it was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }
}
