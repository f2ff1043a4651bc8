//! Peak memory of the whole process against its budget, on a checkpoint three times as large.
use crate::cli;
use std::{fs::File, time::Duration};

/// `RAM_RUN_BIG` names a checkpoint with Mixtral-8x7B's layer shapes and 2 layers (6.3 GB); `.ci/run` makes one.
#[test]
fn a_checkpoint_three_times_the_budget_stays_under_it() {
    let Some(model) = std::env::var_os("RAM_RUN_BIG") else {
        eprintln!("skipped: RAM_RUN_BIG names no 6 GB checkpoint; .ci/run makes one with make_synth_moe.py");
        return;
    };
    let model = model.to_str().expect("UTF-8");
    let text = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(text.path(), "the river flows through a town in the north ".repeat(200)).expect("written");
    let common = ["--model", model, "--budget", "2GB", "--cache", "off"];
    let eval = ["eval-ppl", "wikitext2", "--text", text.path().to_str().expect("UTF-8"), "--window", "512", "--max-windows", "2", "--json"];
    for command in [&["plan", "--json"][..], &["generate", "the river", "--max-tokens", "8", "--json"], &eval] {
        let (report, seen) = peak(&[&common[..], command].concat());
        // A plan is the same in every run, so it does not say what the run took.
        let told = report["peak_rss"].as_u64().unwrap_or(seen);
        let peak = told.max(seen);
        eprintln!("{}: peak {peak} of 2000000000", command[0]);
        assert!(peak < 2_000_000_000, "{}: {peak}", command[0]);
        if command[0] == "plan" {
            assert!(report["memory"]["total"].as_u64() <= Some(2_000_000_000));
            assert!(report["weight_bytes"].as_u64() >= Some(1_500_000_000), "a budget is there to be used: {}", report["memory"]);
        }
        // Only what comes after the report is written can go unsaid.
        assert!(seen < told + (1 << 20), "a run that says {told} had {seen}");
    }
}

/// A command's report, and the largest peak that its process showed while it ran.
fn peak(args: &[&str]) -> (serde_json::Value, u64) {
    let out = tempfile::NamedTempFile::new().expect("a file");
    let mut child = cli::command(args).stdout(File::create(out.path()).expect("opens")).spawn().expect("runs");
    let status = format!("/proc/{}/status", child.id());
    let mut seen = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait().expect("waited for") {
            break ended;
        }
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
        seen = seen.max(kilobytes << 10);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(ended.success(), "{args:?}");
    (serde_json::from_reader(File::open(out.path()).expect("opens")).expect("JSON"), seen)
}
