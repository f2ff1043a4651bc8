//! Parses, calls the library, prints: results to stdout, everything else to stderr.
mod args;
mod bench;
mod bundled;
mod cache;
mod chat;
mod compare;
mod config;
mod doctor;
mod draw;
mod error;
mod escape;
mod eval;
mod export;
mod flags;
mod generate;
mod inspect;
mod man;
mod measure;
mod open;
mod output;
mod pack;
mod page;
mod plan;
mod progress;
mod prompt;
mod refine;
#[cfg(feature = "server")]
mod serve;
mod survey;

use args::{Args, Command};
use clap::FromArgMatches;
pub use error::Error;
use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

/// First argument of the process in which a chat template is rendered.
const RENDER: &str = "render-template";

/// That process, not yet started: this program again.
fn renderer() -> std::process::Command {
    let this = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    let mut command = std::process::Command::new(this.unwrap_or_else(|_| "ram-run".into()));
    command.arg(RENDER);
    command
}

/// Runs the command; errors are one line on stderr and an exit code: 1 failed, 2 usage, 3 does not fit the budget,
/// 4 model or file invalid, 5 network.
pub fn run() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == RENDER) {
        let status = ram_run::Template::serve(&mut std::io::stdin(), &mut std::io::stdout());
        return ExitCode::from(status.unwrap_or(1));
    }
    if let Some(sentence) = args::split_size(std::env::args_os().map(|word| word.to_string_lossy().into_owned())) {
        return fail(&Error::Usage(sentence));
    }
    let words = match config::complete(std::env::args_os().collect()) {
        Ok(words) => words,
        Err(e) => return fail(&e),
    };
    let parsed = flags::command().try_get_matches_from(words).and_then(|typed| Ok((Args::from_arg_matches(&typed)?, typed)));
    let (args, typed) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            if e.use_stderr() {
                // Without colours: what was typed could hold some.
                note(e.render().to_string().trim_end());
                return ExitCode::from(2);
            }
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
    };
    match flags::check(&typed).and_then(|()| command(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_broken_pipe() => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

fn command(args: &Args) -> Result<(), Error> {
    ram_run::isa().map_err(Error::Usage)?;
    if let Some(threads) = args.threads {
        let most = std::thread::available_parallelism().map_err(|e| Error::Failed(format!("the number of processors: {e}")))?;
        if threads > most {
            note(&format!("--threads {threads}: this machine has {most} processors, and no more threads are started"));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.min(most).into());
        pool.build_global().map_err(|e| Error::Failed(format!("--threads {threads}: {e}")))?;
    }
    match &args.command {
        Command::Plan(a) => plan::run(args, a),
        Command::Generate(a) => generate::run(args, a),
        Command::Chat(a) => chat::run(args, a),
        #[cfg(feature = "server")]
        Command::Serve(a) => serve::run(args, a),
        Command::EvalPpl(a) => eval::run(args, a),
        Command::Bench(a) => bench::run(args, a),
        Command::Inspect(a) => inspect::run(args, a),
        Command::Doctor(a) => doctor::run(args, a),
        Command::Cache(a) => cache::run(a),
        Command::Config(a) => config::run(args, a),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(*shell, &mut flags::shown(), "ram-run", &mut out);
            print(&String::from_utf8_lossy(&out))
        }
        Command::Man(a) => man::run(a),
        Command::Compare(a) => compare::run(args, a),
        Command::Export(a) => export::run(args, a),
        Command::Survey(a) => survey::run(args, a),
        Command::Measure(a) => measure::run(args, a),
        Command::Pack(a) => pack::run(args, a),
    }
}

/// The program's version, the packed format's, and the instruction sets that kernels may use here.
fn version() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let has = ram_run::Level::ALL.into_iter().filter(|l| l.available()).map(|l| format!("{l:?}").to_lowercase());
        format!("{} (packed format {}; kernels: {})", env!("CARGO_PKG_VERSION"), ram_run::packed::VERSION, has.collect::<Vec<_>>().join(", "))
    })
}

fn fail(e: &Error) -> ExitCode {
    note(&format!("ram-run: {e}"));
    ExitCode::from(e.exit_code())
}

/// Writes results: byte for byte, but harmless where a terminal shows them.
fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let text = if out.is_terminal() { escape::clean(text) } else { text.into() };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("stdout"))
}

/// The same, pale on a terminal.
fn print_pale(text: &str) -> Result<(), Error> {
    if !std::io::stdout().is_terminal() {
        return print(text);
    }
    write!(std::io::stdout(), "\x1b[2m{}\x1b[0m", escape::clean(text)).and_then(|()| std::io::stdout().flush()).map_err(Error::io("stdout"))
}

/// Writes a line that is no result to stderr. Where that cannot be written, nobody reads it.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escape::clean(text));
}

/// The same, pale.
fn note_pale(text: &str) {
    let _ = writeln!(std::io::stderr(), "\x1b[2m{}\x1b[0m", escape::clean(text));
}
