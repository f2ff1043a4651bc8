//! Peak memory of the whole process against its budget.
use crate::cli;
use std::{
    io::{Seek, Write},
    process::{Command, Output},
    time::Duration,
};

/// `RAM_RUN_BIG` names a checkpoint with Mixtral-8x7B's layer shapes and 2 layers (6.3 GB); `.ci/run` makes one.
#[test]
fn a_checkpoint_three_times_the_budget_stays_under_it() {
    let Some(model) = std::env::var_os("RAM_RUN_BIG") else {
        crate::skips::skip("RAM_RUN_BIG names no 6 GB checkpoint (.ci/run makes one)");
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

/// What a command prints and says, and the largest peak that its process showed while it ran.
pub fn watch(mut command: Command) -> (Output, u64) {
    let [out, err] = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
    let mut child = command.stdout(out.reopen().expect("opens")).stderr(err.reopen().expect("opens")).spawn().expect("runs");
    let status = format!("/proc/{}/status", child.id());
    let mut seen = 0;
    let status = loop {
        if let Some(ended) = child.try_wait().expect("waited for") {
            break ended;
        }
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
        seen = seen.max(kilobytes << 10);
        std::thread::sleep(Duration::from_millis(2));
    };
    let [stdout, stderr] = [out, err].map(|file| std::fs::read(file.path()).expect("read"));
    (Output { status, stdout, stderr }, seen)
}

/// A command's report, and its peak.
fn peak(args: &[&str]) -> (serde_json::Value, u64) {
    let (out, seen) = watch(cli::command(args));
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    (serde_json::from_slice(&out.stdout).expect("JSON"), seen)
}

/// Commands that load no model: a machine of the size that is asked about is enough for them.
#[test]
fn commands_without_a_model_take_little() {
    for threads in [1, 2, 64] {
        for args in [&["inspect"][..], &["inspect", "--json"], &["doctor", "-b", "64MB"], &["cache", "ls"]] {
            let mut command = cli::command(args);
            command.env("RAYON_NUM_THREADS", threads.to_string());
            let (out, seen) = watch(command);
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            assert!(seen < 64_000_000, "{args:?}, {threads} threads: {seen}");
        }
    }
}

/// Every command that has a budget, with what it reads from stdin: asked with far too little it says what is the least, works with that
/// and stays below it, and is refused one byte less. Threads come by rayon's variable, since the flag stops at what the machine has.
#[test]
fn the_least_budget_works_and_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_string();
    let text = path("text");
    std::fs::write(&text, "the river flows through a town in the north . \n".repeat(4000)).expect("written");
    let scored = ["--text", &text, "--window", "512", "--max-windows", "3"];
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["plan"],
        vec!["plan", "--objective", "ram"],
        vec!["plan", "--uniform", "a4g64", "--ctx", "77"],
        vec!["generate", "The river", "--max-tokens", "30"],
        vec!["generate", "--file", &text, "--max-tokens", "30", "--ctx", "200"],
        vec!["chat", "--max-tokens", "20"],
        vec!["bench", "-r", "2", "-p", "600", "-n", "8", "--parallel", "1,4"],
        vec!["generate", "The river", "--max-tokens", "8", "--backend", "candle"],
    ];
    for more in [&["eval-ppl"][..], &["eval-ppl", "--kl"], &["compare", "--at", "a4g64"]] {
        commands.push([more, &scored].concat());
    }
    let copy = crate::bad_input::copy("qwen2-shared-bf16");
    for (model, commands) in [(None, &commands[..]), (copy.path.to_str(), &commands[..4])] {
        for (threads, args) in [1, 2, 64].iter().flat_map(|threads| commands.iter().map(move |args| (threads, args))) {
            let run = |budget: u64| {
                let mut command = cli::command(&["--budget", &budget.to_string()]);
                command.args(model.iter().flat_map(|m| ["--model", m])).args(args).env("RAYON_NUM_THREADS", threads.to_string());
                let input = tempfile::tempfile().expect("a file");
                (&input).write_all(b"hello\nand you\n").expect("written");
                (&input).rewind().expect("at its start");
                command.stdin(input);
                watch(command)
            };
            let said = |out: &Output| String::from_utf8_lossy(&out.stderr).into_owned();
            let (refused, _) = run(1000);
            assert_eq!(refused.status.code(), Some(3), "{args:?}: {}", said(&refused));
            let least: u64 =
                said(&refused).rsplit_once("--budget ").and_then(|(_, rest)| rest.trim().trim_end_matches(')').parse().ok()).expect("a number");
            let (kept, seen) = run(least);
            // A text longer than the context is refused by that, not by memory.
            let code = if args.contains(&"--file") { Some(2) } else { Some(0) };
            assert_eq!(kept.status.code(), code, "{args:?} with {least}: {}", said(&kept));
            assert!(seen > 0 && seen < least, "{args:?}, {threads} threads: {seen} of {least}");
            let (refused, _) = run(least - 1);
            assert!(said(&refused).contains(&format!("--budget {least})")), "{args:?}: {}", said(&refused));
        }
    }
}
