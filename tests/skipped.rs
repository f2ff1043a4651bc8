//! Not a test: says at the end of a run what the integration tests left out on this machine, and why (`tests/it/skips.rs`).
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

fn main() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/skipped");
    let notes = fs::read_to_string(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    let mut by_reason: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (test, why) in notes.lines().filter_map(|line| line.split_once('\t')) {
        by_reason.entry(why).or_default().insert(test);
    }
    for (why, tests) in by_reason {
        println!("SKIPPED, as {why}: {}", tests.into_iter().collect::<Vec<_>>().join(", "));
    }
    let lack: Vec<_> = ram_run::Level::ALL.into_iter().filter(|level| !level.available()).collect();
    if !lack.is_empty() {
        println!("SKIPPED, as this machine's processor lacks them: kernels for {lack:?}");
    }
}
