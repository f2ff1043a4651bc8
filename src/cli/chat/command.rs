//! What can be typed in a chat besides a message.
use super::Think;
use crate::cli::Error;
use clap::ValueEnum;
use ram_run::Sampling;
use std::path::PathBuf;

/// The list that /help shows.
pub const HELP: &str = "\
/system TEXT   set the system message (nothing: remove it)
/clear         forget the conversation, keep the system message
/retry         answer the last message again
/undo          take back the last message and its answer
/edit [TEXT]   change the last message and answer it
/set NAME X    temp, top-k, top-p, min-p, repeat-penalty, seed, max-tokens, think (on, off, hide), stats (on, off)
/stats         tokens, speed and memory
/plan          what every tensor got
/save FILE     the conversation as JSON; /save! replaces a file
/load FILE     go on with a saved one
/help          this list (also /? and /h)
/exit          end (also Ctrl-D); Ctrl-C ends an answer, or drops what is being typed
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
    Save { path: PathBuf, replace: bool },
    Load(PathBuf),
    Plan,
    Exit,
}

/// The command that a line is, if it is one.
///
/// # Errors
/// [`Error::Usage`] for one that is unknown or lacks its argument.
pub fn parse(line: &str) -> Result<Option<Command>, Error> {
    // A path or a fraction is a message: commands are one word of letters.
    let Some(rest) = line.strip_prefix('/').filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase() || c == '?')) else { return Ok(None) };
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if name.contains('/') {
        return Ok(None);
    }
    let argument = argument.trim();
    let needed = |what: &str| if argument.is_empty() { Err(Error::Usage(format!("/{name} needs {what}"))) } else { Ok(argument.to_string()) };
    Ok(Some(match name {
        "help" | "h" | "?" => Command::Help,
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
        "save" | "save!" => Command::Save { path: path(&needed("a file")?), replace: name.ends_with('!') },
        "load" => Command::Load(path(&needed("a file")?)),
        "plan" => Command::Plan,
        "exit" | "quit" | "bye" => Command::Exit,
        _ => return Err(Error::Usage(format!("/{name} is no command: /help lists them"))),
    }))
}

/// A file by what was typed: no shell has read it, so a `~` in front is the home folder here.
fn path(typed: &str) -> PathBuf {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match (typed.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')), home) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest.trim_start_matches('/')),
        _ => typed.into(),
    }
}

/// What /set changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub sampling: Sampling,
    pub max_tokens: usize,
    pub think: Think,
    /// Whether a line of statistics follows an answer.
    pub stats: bool,
}

impl Settings {
    /// Changes one.
    ///
    /// # Errors
    /// For an unknown name or a value that is none; then nothing changes.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Error> {
            value.parse().map_err(|_| Error::Usage(format!("/set {name} {value}: that is no such number")))
        }
        let mut changed = self.clone();
        match name {
            "temp" => changed.sampling.temperature = number(name, value)?,
            "top-k" => changed.sampling.top_k = number(name, value)?,
            "top-p" => changed.sampling.top_p = number(name, value)?,
            "min-p" => changed.sampling.min_p = number(name, value)?,
            "repeat-penalty" => changed.sampling.repeat_penalty = number(name, value)?,
            "seed" => changed.sampling.seed = number(name, value)?,
            "max-tokens" => changed.max_tokens = number(name, value)?,
            "think" => changed.think = Think::from_str(value, true).map_err(|_| Error::Usage(format!("/set think {value}: on, off or hide")))?,
            "stats" if ["on", "off"].contains(&value) => changed.stats = value == "on",
            "stats" => return Err(Error::Usage(format!("/set stats {value}: on or off"))),
            _ => return Err(Error::Usage(format!("/set {name}: /help lists the names"))),
        }
        ram_run::Sampler::new(changed.sampling.clone())?;
        *self = changed;
        Ok(())
    }
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
    fn questions_are_answered_and_home_is_found() {
        for help in ["/?", "/h", "/help", "/? save"] {
            assert_eq!(parse(help).expect("a command"), Some(Command::Help), "{help}");
        }
        let home = PathBuf::from(std::env::var_os("HOME").expect("a home"));
        for (typed, meant) in [("~", home.clone()), ("~/a b.json", home.join("a b.json")), ("~x/a", "~x/a".into()), ("a~", "a~".into())] {
            assert_eq!(parse(&format!("/load {typed}")).expect("a command"), Some(Command::Load(meant.clone())));
            for (word, replace) in [("/save", false), ("/save!", true)] {
                let save = Command::Save { path: meant.clone(), replace };
                assert_eq!(parse(&format!("{word} {typed}")).expect("a command"), Some(save));
            }
        }
    }

    #[test]
    fn settings_out_of_range_change_nothing() {
        let first = Settings { sampling: Sampling::default(), max_tokens: 5, think: Think::On, stats: true };
        let mut now = first.clone();
        for (name, value) in [("temp", "-1"), ("temp", "x"), ("top-p", "2"), ("color", "red"), ("think", "loud"), ("stats", "no")] {
            assert!(now.set(name, value).is_err(), "{name} {value}");
        }
        assert_eq!(now, first);
        for (name, value) in [("top-k", "7"), ("think", "hide"), ("stats", "off"), ("max-tokens", "9")] {
            now.set(name, value).expect("set");
        }
        assert_eq!((now.sampling.top_k, now.think, now.stats, now.max_tokens), (7, Think::Hide, false, 9));
    }
}
