//! A line of progress on stderr: rewritten in place on a terminal, silent elsewhere, gone at the end.
use super::escape;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::OnceLock;

/// Who wants to know besides: what is done, and how much of it from 0 to 1.
type Watcher = Box<dyn Fn(&str, f64) + Send + Sync>;
static WATCHER: OnceLock<Watcher> = OnceLock::new();

/// Tells all progress of this process to `watcher` too.
#[cfg(feature = "server")]
pub fn watch(watcher: impl Fn(&str, f64) + Send + Sync + 'static) {
    let _ = WATCHER.set(Box::new(watcher));
}

/// Progress of one piece of work.
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing is shown before the first `add`.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let style = ProgressStyle::with_template("{prefix} {percent} %, {eta} left {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress(ProgressBar::new(total).with_style(style).with_prefix(what))
    }

    /// `more` of the total is done.
    pub fn add(&self, more: u64) {
        self.0.inc(more);
        if let Some(watcher) = WATCHER.get() {
            watcher(&self.0.prefix(), self.0.position() as f64 / self.0.length().unwrap_or(0).max(1) as f64);
        }
    }

    /// The same with a word on how it stands.
    pub fn show(&self, more: u64, note: &str) {
        if self.0.message() != note {
            self.0.set_message(escape::clean(note).into_owned());
        }
        self.add(more);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
