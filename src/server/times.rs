//! What is counted of requests, and how long their answers took: for `/metrics`.
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the buckets, in seconds: from a small model's token to a long prompt of a large one.
const BOUNDS: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// How many took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Those within each bound and above the one before, and those above all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    /// `count` times as long.
    pub fn add(&self, time: Duration, count: u64) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(count, Relaxed);
        let all = time.as_micros().saturating_mul(u128::from(count));
        self.microseconds.fetch_add(u64::try_from(all).unwrap_or(u64::MAX), Relaxed);
    }

    /// In the text format of Prometheus, which counts buckets from the first one on.
    pub fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (at, count) in self.counts.iter().enumerate() {
            sum += count.load(Relaxed);
            let bound = BOUNDS.get(at).map_or("+Inf".to_string(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {sum}", self.microseconds.load(Relaxed) as f64 / 1e6);
    }
}

/// Of all requests.
#[derive(Debug, Default)]
pub struct Times {
    /// In the queue.
    pub queued: Histogram,
    /// From being given to the first token.
    pub first: Histogram,
    /// From a token to the next, a mean of each answer.
    pub token: Histogram,
    /// Requests by route and status.
    answered: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// Routes that are counted by name; what strangers ask for is one.
const ROUTES: [&str; 15] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/messages",
    "/messages/count_tokens",
    "/models",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/embeddings",
    "/health",
    "/metrics",
    "/props",
    "/ram/status",
    "/",
];

impl Times {
    /// A request that is answered.
    pub fn answer(&self, path: &str, status: u16) {
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let route = ROUTES.into_iter().find(|route| *route == path).unwrap_or("other");
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }

    /// All of it, in the text format of Prometheus.
    pub fn write(&self, out: &mut String) {
        let _ = writeln!(out, "# HELP ramrun_requests_total Requests by route and status.\n# TYPE ramrun_requests_total counter");
        for ((route, status), count) in self.answered.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "ramrun_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        self.queued.write("ramrun_queue_seconds", "Time in the queue.", out);
        self.first.write("ramrun_time_to_first_token_seconds", "Time from a request to its first token.", out);
        self.token.write("ramrun_inter_token_seconds", "Time from a token to the next, a mean of each answer.", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_within_them() {
        let histogram = Histogram::default();
        for (milliseconds, count) in [(1, 2), (2, 1), (500_000, 1)] {
            histogram.add(Duration::from_millis(milliseconds), count);
        }
        let mut out = String::new();
        histogram.write("a", "b", &mut out);
        for line in [
            "a_bucket{le=\"0.001\"} 2",
            "a_bucket{le=\"0.003\"} 3",
            "a_bucket{le=\"300\"} 3",
            "a_bucket{le=\"+Inf\"} 4",
            "a_sum 500.004",
            "a_count 4",
        ] {
            assert!(out.lines().any(|own| own == line), "{line}: {out}");
        }
    }
}
