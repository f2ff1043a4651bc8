//! What can be typed in a chat besides a message.
use super::Think;
use crate::cli::Error;
use clap::ValueEnum;
use ram_run::Sampling;

/// The list that /help shows.
pub const HELP: &str = "\
/system TEXT   set the system message (nothing: remove it)
/clear         forget the conversation, keep the system message
/retry         answer the last message again
/undo          take back the last message and its answer
/edit [TEXT]   change the last message and answer it
/set NAME X    temp, top-k, top-p, min-p, repeat-penalty, seed, max-tokens, think (on, off, hide)
/stats         tokens, speed and memory
/plan          what every tensor got
/save FILE     the conversation as JSON
/load FILE     go on with a saved one
/exit          end (also Ctrl-D); Ctrl-C ends an answer
A line that ends with \\ goes on; \"\"\" begins and ends a message of several lines.
";

/// A command; anything else is a message.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    System(String),
    Clear,
    Retry,
    Undo,
    Edit(String),
    Stats,
    Set(String, String),
    Save(String),
    Load(String),
    Plan,
    Exit,
}

/// The command that a line is, if it is one.
///
/// # Errors
/// [`Error::Usage`] for one that is unknown or lacks its argument.
pub fn parse(line: &str) -> Result<Option<Command>, Error> {
    // A path or a fraction is a message: commands are one word of letters.
    let Some(rest) = line.strip_prefix('/').filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase())) else { return Ok(None) };
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if name.contains('/') {
        return Ok(None);
    }
    let argument = argument.trim();
    let needed = |what: &str| if argument.is_empty() { Err(Error::Usage(format!("/{name} needs {what}"))) } else { Ok(argument.to_string()) };
    Ok(Some(match name {
        "help" => Command::Help,
        "system" => Command::System(argument.into()),
        "clear" => Command::Clear,
        "retry" => Command::Retry,
        "undo" => Command::Undo,
        "edit" => Command::Edit(argument.into()),
        "stats" => Command::Stats,
        "set" => match needed("a name and a value, for example /set temp 0.7")?.split_once(char::is_whitespace) {
            Some((name, value)) => Command::Set(name.into(), value.trim().into()),
            None => return Err(Error::Usage(format!("/set {argument} needs a value"))),
        },
        "save" => Command::Save(needed("a file")?),
        "load" => Command::Load(needed("a file")?),
        "plan" => Command::Plan,
        "exit" | "quit" | "bye" => Command::Exit,
        _ => return Err(Error::Usage(format!("/{name} is no command: /help lists them"))),
    }))
}

/// Changes one setting.
///
/// # Errors
/// [`Error::Usage`] for an unknown name or a value that is none.
pub fn set(name: &str, value: &str, sampling: &mut Sampling, max_tokens: &mut usize, think: &mut Think) -> Result<(), Error> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Error> {
        value.parse().map_err(|_| Error::Usage(format!("/set {name} {value}: that is no such number")))
    }
    let mut changed = sampling.clone();
    match name {
        "temp" => changed.temperature = number(name, value)?,
        "top-k" => changed.top_k = number(name, value)?,
        "top-p" => changed.top_p = number(name, value)?,
        "min-p" => changed.min_p = number(name, value)?,
        "repeat-penalty" => changed.repeat_penalty = number(name, value)?,
        "seed" => changed.seed = number(name, value)?,
        "max-tokens" => *max_tokens = number(name, value)?,
        "think" => *think = Think::from_str(value, true).map_err(|_| Error::Usage(format!("/set think {value}: on, off or hide")))?,
        _ => return Err(Error::Usage(format!("/set {name}: /help lists the names"))),
    }
    // Its own checks: a value out of range changes nothing.
    ram_run::Sampler::new(changed.clone())?;
    *sampling = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for message in ["hello", "/usr/bin is a folder", "/ 2", "1/2", "/2"] {
            assert_eq!(parse(message).expect("a message"), None, "{message}");
        }
        assert_eq!(parse("/set  temp 0.5").expect("a command"), Some(Command::Set("temp".into(), "0.5".into())));
        assert_eq!(parse("/system").expect("a command"), Some(Command::System(String::new())));
        assert!(parse("/nonsense").is_err() && parse("/save").is_err() && parse("/set temp").is_err());
    }

    #[test]
    fn settings_out_of_range_change_nothing() {
        let (mut sampling, mut most, mut think) = (Sampling::default(), 5, Think::On);
        for (name, value) in [("temp", "-1"), ("temp", "x"), ("top-p", "2"), ("color", "red"), ("think", "loud")] {
            assert!(set(name, value, &mut sampling, &mut most, &mut think).is_err(), "{name} {value}");
        }
        assert_eq!(sampling, Sampling::default());
        set("top-k", "7", &mut sampling, &mut most, &mut think).expect("set");
        set("think", "hide", &mut sampling, &mut most, &mut think).expect("set");
        assert_eq!((sampling.top_k, think), (7, Think::Hide));
    }
}
