//! Panics of other crates as errors: what a file makes them do must not end the process, nor print a trace.
use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Whether this thread runs something whose panics are caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `run` gives, or what it panicked with; that is not printed. Other threads' panics are, as before.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !GUARDED.try_with(Cell::get).unwrap_or(false) {
                before(about);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("no reason given").lines().next().unwrap_or_default().to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| -> () { panic!("no {}", 2) }), Err("no 2".into()));
        let at = std::hint::black_box(3);
        assert!(caught(|| [1, 2][at]).expect_err("panics").contains("index"));
        // Nested, and after a panic, the thread's own panics are its own again.
        assert_eq!(caught(|| caught(|| -> () { panic!("in") })), Ok(Err("in".into())));
        assert!(!GUARDED.get());
    }
}
