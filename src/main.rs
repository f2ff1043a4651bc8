//! The command line: words in, words out.
mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
