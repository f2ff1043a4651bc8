//! What flags take, which commands they act on, and what help, manual and completions say of it.
use crate::cli::{command, json, refused, stdout};

#[test]
fn a_bad_number_names_its_flag_before_anything_is_read() {
    for (line, words) in [
        ("--budget -1 plan", ["--budget", "'-1' is no size"]),
        ("--budget=-1 plan", ["--budget", "'-1' is no size"]),
        ("-b -1GB plan", ["--budget", "'-1GB' is no size"]),
        ("--weights -1 plan", ["--weights", "like 24GB"]),
        ("--budget 0 plan", ["--budget", "like 24GB"]),
        ("--budget 24XB plan", ["--budget", "24GB"]),
        ("--budget --dense plan", ["--budget", "24GB"]),
        ("--budget 24 GB plan", ["--budget", "as one word, --budget 24GB"]),
        ("--threads 0 plan", ["--threads", "1 or more"]),
        ("--threads -1 plan", ["--threads", "1 or more"]),
        ("--ctx 0 plan", ["--ctx", "1 or more"]),
        ("--ctx 18446744073709551615 plan", ["--ctx", "or less"]),
        ("bench -d", ["--depth", "a value is required"]),
        ("bench -d -1", ["--depth", "0 or more"]),
        ("bench -d 18446744073709551615", ["--depth", "or less"]),
        ("bench -r 0", ["--repeat", "1 or more"]),
        ("bench -p 0", ["--prompt", "1 or more"]),
        ("bench -p 16,0", ["--prompt", "1 or more"]),
        ("bench -n 0", ["--generate", "1 or more"]),
        ("eval-ppl --window 0", ["--window", "2 or more"]),
        ("eval-ppl --window 1", ["--window", "2 or more"]),
        ("eval-ppl --window 64 --stride 0", ["--stride", "1 or more"]),
        ("eval-ppl --max-windows 0", ["--max-windows", "1 or more"]),
        ("compare --max-windows -1", ["--max-windows", "1 or more"]),
        ("generate x --max-tokens 0", ["--max-tokens", "1 or more"]),
        ("generate x --max-tokens -1", ["--max-tokens", "1 or more"]),
        ("generate x --temp -1", ["--temp", "0 or more"]),
        ("generate x --temp=-1", ["--temp", "0 or more"]),
        ("generate x --temp nan", ["--temp", "0 or more"]),
        ("generate x --temp inf", ["--temp", "0 or more"]),
        ("generate x --temp warm", ["--temp", "a number"]),
        ("chat --temp -inf", ["--temp", "0 or more"]),
        ("generate x --top-k -1", ["--top-k", "0 or more"]),
        ("generate x --top-p 2", ["--top-p", "above 0 and at most 1"]),
        ("generate x --top-p 0", ["--top-p", "above 0 and at most 1"]),
        ("generate x --min-p -0.1", ["--min-p", "from 0 to 1"]),
        ("generate x --repeat-penalty 0", ["--repeat-penalty", "above 0"]),
        ("generate x --seed -1", ["--seed", "0 or more"]),
        ("cache gc --keep -1", ["--keep", "like 24GB"]),
    ] {
        // That there is no such model is not what is said.
        let model = if line.starts_with("cache") { &[][..] } else { &["--model", "/nowhere"] };
        refused(&[model, &line.split(' ').collect::<Vec<_>>()].concat(), 2, &words);
    }
}

#[test]
fn lengths_that_do_not_fit_the_context_name_the_flags_that_gave_them() {
    for (line, words) in [
        ("bench -d 4000", ["--depth 4000 and --prompt 512", "made for 4096"]),
        ("bench -n 5000", ["--generate 5000:", "made for 4096"]),
        ("--ctx 100 bench", ["--prompt 512:", "--ctx has 100"]),
    ] {
        refused(&line.split(' ').collect::<Vec<_>>(), 2, &words);
    }
}

#[test]
fn sizes_are_understood_as_a_person_means_them() {
    let budget = |size: &str| json(&["--budget", size, "plan", "--json"])["memory"]["budget"].as_u64();
    for size in ["64M", "64 MB", "64m", "6.4e7", "0.064G", "64e6"] {
        assert_eq!(budget(size), Some(64_000_000), "{size}");
    }
    for size in ["64Mi", "64 MiB"] {
        assert_eq!(budget(size), Some(64 << 20), "{size}");
    }
}

#[test]
fn flags_that_do_nothing_or_contradict_are_refused() {
    refused(&["doctor", "--pin", "a=t4g64"], 2, &["--pin", "doctor"]);
    refused(&["--pin", "a=t4g64", "doctor"], 2, &["--pin", "doctor"]);
    refused(&["cache", "ls", "--temp", "1"], 2, &["--temp"]);
    refused(&["--budget", "1GB", "cache", "ls"], 2, &["--budget", "cache", "plan"]);
    refused(&["completions", "bash", "--dense"], 2, &["--dense", "completions"]);
    refused(&["--budget", "64MB", "plan", "--weights", "6MB"], 2, &["--budget", "--weights"]);
    refused(&["--budget", "64MB", "--weights", "6MB", "plan"], 2, &["--budget", "--weights"]);
    // In both places, and with what does no harm.
    let model = ["--model", "models/tiny-qwen3-moe", "--weights", "6MB"];
    assert_eq!(stdout(&[&model[..], &["plan"]].concat()), stdout(&[&["plan", "--offline"], &model[..]].concat()));
}

/// The flags that a text shows, each at the begin of its line.
fn shown(text: &str) -> Vec<&str> {
    let starts = text.lines().filter_map(|l| l.trim_start().strip_prefix('-'));
    starts.filter_map(|l| l.split([' ', '=', ',']).find_map(|w| w.strip_prefix("--").or(w.strip_prefix('-')))).filter(|w| w.len() > 1).collect()
}

#[test]
fn help_shows_what_acts_under_headings() {
    let common = [
        "model",
        "revision",
        "offline",
        "no-keep",
        "budget",
        "weights",
        "pin",
        "uniform",
        "dense",
        "objective",
        "ctx",
        "kv",
        "effort",
        "threads",
        "cache",
    ];
    for (command, acts) in [
        (&["plan"][..], &["model", "budget", "weights", "pin", "ctx", "kv", "effort", "threads"][..]),
        (&["chat"], &["model", "budget", "no-keep", "cache", "kv"]),
        (&["generate"], &["model", "budget", "no-keep", "cache", "kv"]),
        (&["eval-ppl"], &["model", "budget", "ctx"]),
        (&["bench"], &["model", "budget", "ctx"]),
        (&["compare"], &["model", "weights", "pin", "threads"]),
        (&["inspect"], &["model", "revision", "offline"]),
        (&["doctor"], &["budget", "threads"]),
        (&["cache"], &[]),
        (&["cache", "gc"], &[]),
        (&["completions"], &[]),
        (&["man"], &[]),
    ] {
        for text in [stdout(&[command, &["--help"]].concat()), stdout(&[command, &["-h"]].concat()), stdout(&[&["help"], command].concat())] {
            let shown = shown(&text);
            for flag in acts {
                assert!(shown.contains(flag), "{command:?} {flag}: {text}");
            }
            let few = acts.len() < 4 && command != ["eval-ppl"] && command != ["bench"];
            for flag in common.iter().filter(|f| few && !acts.contains(f)) {
                assert!(!shown.contains(flag), "{command:?} {flag}: {text}");
            }
        }
    }
    let text = stdout(&["generate", "--help"]);
    let at = ["\nOptions:", "\nSampling:", "\nModel:", "\nMemory:", "\nPlan:", "\nRun:"].map(|heading| text.find(heading).expect(heading));
    assert!(at.is_sorted(), "its own first: {text}");
    assert!(text.contains("24Gi"), "{text}");
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    stdout(&["man", "--dir", pages.to_str().expect("UTF-8")]);
    for (name, has, lacks) in [
        ("ram-run", "budget", "top\\-p"),
        ("ram-run-generate", "top\\-p", "svg"),
        ("ram-run-plan", "html", "top\\-p"),
        ("ram-run-bench", "repeat", "top\\-p"),
        ("ram-run-doctor", "budget", "pin"),
        ("ram-run-cache", "ram\\-run\\-cache\\-gc", "budget"),
        ("ram-run-cache-gc", "keep", "budget"),
        ("ram-run-man", "dir", "budget"),
    ] {
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).expect(name);
        assert!(page.contains(".TH") && page.contains(has) && !page.contains(lacks), "{name}: {page}");
        let words = name.replace("ram-run", "man");
        assert_eq!(stdout(&words.split('-').collect::<Vec<_>>()), page, "{name}");
    }
    assert!(std::fs::read_to_string(pages.join("ram-run-eval-ppl.1")).is_ok());
    refused(&["man", "nothing"], 2, &["man nothing", "eval-ppl"]);
    refused(&["man", "--dir", "/dev/null/x"], 1, &["/dev/null/x"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(&["completions", shell]);
        assert!(text.contains("eval-ppl") && text.contains("max-windows") && text.contains("budget"), "{shell}");
    }
    let text = stdout(&["completions", "fish"]);
    let of = |command: &str| text.lines().filter(|l| l.contains(&format!("using_subcommand {command}\""))).map(String::from).collect::<String>();
    assert!(of("plan").contains("-l pin") && !of("doctor").contains("-l pin") && of("doctor").contains("-l budget"), "{text}");
}

#[test]
fn words_that_are_no_text_are_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let word = OsStr::from_bytes(b"\xff\xfe");
    for before in [&["generate"][..], &["--model"], &[], &["--budget", "24"]] {
        let out = command(before).arg(word).output().expect("runs");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
