//! The examples run, on the bundled model.
use std::{path::Path, process::Command};

/// What an example prints.
pub fn example(name: &str, args: &[&str]) -> String {
    // Built by `cargo test`, beside the program.
    let folder = Path::new(env!("CARGO_BIN_EXE_ram-run")).parent().expect("a folder").join("examples");
    let out = Command::new(folder.join(name)).args(args).output().expect("`cargo test` builds the examples");
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

#[test]
fn examples_do_what_they_say() {
    let chat = example("chat_loop", &[]);
    assert!(chat.contains("What is a river ?\n") && chat.contains("And a town ?\n") && chat.lines().count() >= 5, "{chat}");
    let score = example("score_text", &[]);
    let kl: f64 = score.rsplit("model ").next().and_then(|s| s.split(' ').next()?.parse().ok()).expect("a number");
    assert!(kl > 0.0 && kl < 0.05, "{score}");
    let own = example("custom_sampler", &[]);
    assert!(own.starts_with("The river") && own.len() > 40, "{own}");
    let module = example("candle_module", &[]);
    let errors: Vec<f64> = module.lines().map(|l| l.rsplit(' ').next().expect("a word").parse().expect("a number")).collect();
    assert!(errors.len() == 3 && errors[0] < 0.5 && errors.is_sorted_by(|a, b| a > b) && errors[2] < 0.01, "{module}");
    let many = example("many_at_once", &[]);
    assert!(many.lines().count() == 4 && many.contains("0: ") && many.contains("1: ") && many.contains("2: "), "{many}");
    let passes: Vec<u64> = many.lines().last().expect("a line").split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(passes.len() == 2 && passes[1] < passes[0], "{many}");
    let (first, second) = (example("under_budget", &[]), example("under_budget", &[]));
    let line = |text: &str| text.lines().nth(1).map(String::from);
    assert!(first.contains("bits per weight in") && line(&first) == line(&second), "{first}{second}");
}
