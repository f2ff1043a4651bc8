//! Flags that stand before or after a command, and the commands that each acts on: help, manual and completions show it there alone,
//! and what would do nothing is refused.
use super::args::Args;
use crate::cli::Error;
use clap::{Arg, ArgMatches, Command, CommandFactory, Id, builder::Resettable, parser::ValueSource};

#[cfg(feature = "server")]
const RUN: [&str; 5] = ["generate", "chat", "eval-ppl", "bench", "serve"];
#[cfg(not(feature = "server"))]
const RUN: [&str; 4] = ["generate", "chat", "eval-ppl", "bench"];

/// The commands that a flag does something for; none where that is all, or where it does no harm.
fn acts_on(flag: &str) -> Option<Vec<&'static str>> {
    let run_and = |more: &[&'static str]| Some([more, &RUN].concat());
    match flag {
        "model" | "revision" => run_and(&["plan", "inspect", "compare", "export", "survey", "measure", "pack"]),
        "budget" => run_and(&["plan", "doctor", "compare", "export", "pack"]),
        "weights" | "no_survey" => run_and(&["plan", "compare", "export", "pack"]),
        "pin" | "effort" => run_and(&["plan", "compare", "export", "measure", "pack"]),
        "survey" => run_and(&["plan", "compare", "export", "measure", "pack"]),
        "curves" => run_and(&["plan", "pack"]),
        "ctx" | "kv" => run_and(&["plan", "export", "pack"]),
        "uniform" | "objective" => run_and(&["plan", "measure", "pack"]),
        "dense" | "backend" => run_and(&["plan"]),
        "refine" => run_and(&["plan", "compare", "export", "pack"]),
        _ => None,
    }
}

/// Where a flag is of use; what may be typed anywhere is not shown where it means nothing.
pub fn shown_on(flag: &str, command: &str) -> bool {
    let nothing = ["cache", "completions", "config", "man"].contains(&command);
    match flag {
        "offline" => !nothing && command != "doctor",
        "threads" => !nothing && command != "inspect",
        // Whoever plans what is run next types the same flags.
        "cache" => RUN.contains(&command) || command == "export",
        "no_keep" => RUN.contains(&command) || command == "pack",
        "config_file" | "no_config" => !nothing || command == "config",
        "quiet" => ["generate", "chat", "serve"].contains(&command),
        _ => acts_on(flag).map_or(!nothing, |on| on.contains(&command)),
    }
}

fn anywhere() -> Vec<Arg> {
    Args::command().get_arguments().filter(|a| a.is_global_set()).cloned().collect()
}

/// What is parsed: every flag may stand in both places, so that [`check`] can say what is wrong with it.
pub fn command() -> Command {
    let flags = anywhere();
    Args::command().mut_subcommands(|sub| {
        let name = sub.get_name().to_string();
        // All of them, so that their order is the same everywhere.
        sub.args(flags.iter().map(|a| a.clone().hide(!shown_on(a.get_id().as_str(), &name))))
    })
}

/// What manual and completions are made from: no command has a flag that does nothing for it.
pub fn shown() -> Command {
    let flags = anywhere();
    Args::command().mut_args(|a| a.global(false)).mut_subcommands(|sub| {
        let name = sub.get_name().to_string();
        let on = flags.iter().filter(|a| shown_on(a.get_id().as_str(), &name));
        // A conflict must not name a flag that is not there.
        sub.args(on.map(|a| a.clone().global(false).conflicts_with(Resettable::<Id>::Reset)))
    })
}

/// Refuses flags that do nothing for the command, and those that contradict each other where the parser does not see it: one before
/// the command, one after.
///
/// # Errors
/// Names the flags.
pub fn check(typed: &ArgMatches) -> Result<(), Error> {
    let Some((command, own)) = typed.subcommand() else { return Ok(()) };
    let root = Args::command();
    let flags = anywhere();
    let given: Vec<&Arg> = flags.iter().filter(|a| own.value_source(a.get_id().as_str()) == Some(ValueSource::CommandLine)).collect();
    let name = |a: &Arg| format!("--{}", a.get_long().unwrap_or_default());
    for a in &given {
        if let Some(on) = acts_on(a.get_id().as_str()).filter(|on| !on.contains(&command)) {
            return Err(Error::Usage(format!("{} does nothing for {command}: leave it out; it acts on {}", name(a), on.join(", "))));
        }
        if let Some(other) = root.get_arg_conflicts_with(a).into_iter().find(|other| given.iter().any(|b| b.get_id() == other.get_id())) {
            return Err(Error::Usage(format!("{} and {} contradict each other: leave one out", name(a), name(other))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_and_command_is_there() {
        let (flags, root) = (anywhere(), Args::command());
        assert!(flags.len() > 10);
        for a in &flags {
            let on = acts_on(a.get_id().as_str()).unwrap_or_default();
            assert!(on.iter().all(|name| root.find_subcommand(name).is_some()), "{on:?}");
            assert!(a.get_help_heading().is_some(), "{} is under no heading", a.get_id());
        }
        command().debug_assert();
        shown().debug_assert();
    }

    #[test]
    fn what_does_nothing_or_contradicts_is_refused() {
        let said = |line: &str| {
            let typed = command().try_get_matches_from(format!("ram-run {line}").split(' ')).expect(line);
            check(&typed).err().map(|e| e.to_string())
        };
        for (line, words) in [
            ("doctor --pin a=t4g64", ["--pin", "doctor"]),
            ("--pin a=t4g64 doctor", ["--pin", "doctor"]),
            ("cache ls --model x", ["--model", "cache"]),
            ("--budget 24GB cache gc", ["--budget", "cache"]),
            ("inspect --dense", ["--dense", "inspect"]),
            ("compare --uniform t4g64", ["--uniform", "compare"]),
            ("man --kv f32", ["--kv", "man"]),
            ("--budget 24GB plan --weights 6MB", ["--budget", "--weights"]),
            ("--dense generate x --uniform t4g64", ["--uniform", "--dense"]),
        ] {
            let said = said(line).expect(line);
            assert!(words.iter().all(|w| said.contains(w)), "{line}: {said}");
        }
        for line in [
            "doctor -b 2GB",
            "--offline --threads 2 cache ls",
            "chat --model x --budget 24GB",
            "--model x --weights 6MB --pin a=t4g64 compare",
            "plan",
        ] {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
