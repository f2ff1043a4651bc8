//! A line of progress on stderr: rewritten in place on a terminal, silent elsewhere, gone at the end.
use super::escape;
use indicatif::{ProgressBar, ProgressStyle};

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
