//! A line of progress on stderr: rewritten in place on a terminal, silent elsewhere.
use std::{
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Progress of one piece of work.
pub struct Progress {
    what: &'static str,
    total: u64,
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    done: u64,
    start: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Nothing is shown before the first `add`.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { what, total, terminal, state: Mutex::new(State { done: 0, start: Instant::now(), shown: None }) }
    }

    /// `more` of the total is done; at most ten lines a second are drawn.
    pub fn add(&self, more: u64) {
        self.show(more, "");
    }

    /// The same with a word on how it stands.
    pub fn show(&self, more: u64, note: &str) {
        let Ok(mut s) = self.state.lock() else { return };
        s.done += more;
        if !self.terminal || s.shown.is_some_and(|t| t.elapsed() < Duration::from_millis(100)) {
            return;
        }
        s.shown = Some(Instant::now());
        let share = s.done as f64 / self.total.max(1) as f64;
        let left = s.start.elapsed().as_secs_f64() * (1.0 / share.max(1e-9) - 1.0);
        let line = format!("{} {:.0} %, {left:.0} s left {note}", self.what, 100.0 * share);
        // A line that wraps could not be rewritten.
        let width = terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(w, _)| usize::from(w.0));
        let line: String = line.chars().take(width.saturating_sub(1)).collect();
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.state.lock().is_ok_and(|s| s.shown.is_some()) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
