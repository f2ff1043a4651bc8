//! No instruction sets: scalar kernels are compiled alone.
use super::{Kernel, Level};

/// Whether this machine has them.
pub fn available(_: Level) -> bool {
    false
}

/// What no machine gets to, as none of these levels is available.
pub fn run<K: Kernel>(level: Level, _: K) -> K::Out {
    panic!("{level:?}: this build has scalar kernels alone")
}
