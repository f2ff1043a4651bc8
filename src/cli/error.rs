//! What went wrong, in the words of the command line, and its exit code.
use ram_run::{Setting, size};
use std::{fmt, io, path::Path};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Error {
    /// Something typed that makes no sense.
    Usage(String),
    /// Something else failed.
    Failed(String),
    /// What the library says.
    Library(ram_run::Error),
}

impl<E: Into<ram_run::Error>> From<E> for Error {
    fn from(e: E) -> Error {
        Error::Library(e.into())
    }
}

impl Error {
    /// A file, or a stream by its name, that cannot be read or written.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Library(ram_run::Error::Io { path: path.as_ref().into(), source })
    }

    /// A file that is not what it should be.
    pub fn file(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        Error::Library(ram_run::Error::File { path: path.as_ref().into(), reason: reason.into() })
    }

    /// Whether whoever read the results has gone: that is their right, and no failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Library(ram_run::Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// 1 failed, 2 usage, 3 does not fit the budget, 4 model or file invalid, 5 network or hub.
    pub fn exit_code(&self) -> u8 {
        use ram_run::Error as E;
        match self {
            Error::Usage(_) => 2,
            Error::Failed(_) => 1,
            Error::Library(e) => match e {
                E::Setting { .. } | E::Context { .. } | E::Empty | E::Short { .. } | E::Mismatch(_) => 2,
                E::Budget { .. } => 3,
                E::Config { .. }
                | E::File { .. }
                | E::MissingTensor(_)
                | E::UnexpectedTensor(_)
                | E::Tensor { .. }
                | E::Template(_)
                | E::Tokenizer(_)
                | E::NotFinite(_) => 4,
                E::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => 4,
                E::Hub { .. } | E::Offline { .. } => 5,
                _ => 1,
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        use ram_run::Error as E;
        match self {
            Error::Usage(s) | Error::Failed(s) => f.write_str(s),
            Error::Library(E::Budget { need, have, weights_only }) => {
                let (flag, what) = if *weights_only { ("--weights", "the weights need") } else { ("--budget", "the process needs") };
                write!(f, "{flag} {}: {what} at least {} ({flag} {need})", size::show(*have), size::show(*need))
            }
            Error::Library(E::Setting { setting, value, reason }) => write!(f, "{} {value}: {reason}", flag(*setting)),
            Error::Library(E::Context { tokens, capacity }) => {
                write!(f, "{tokens} tokens or more do not fit a context of {capacity}: shorten the text or raise --ctx")
            }
            Error::Library(E::Offline { repository, what, cache }) => write!(
                f,
                "{repository}: {what} is not in the cache {} and --offline or HF_HUB_OFFLINE forbids to ask the hub: run once without them, with a network",
                cache.display()
            ),
            Error::Library(e) => write!(f, "{e}"),
        }
    }
}

/// What sets a setting.
fn flag(setting: Setting) -> String {
    match setting {
        Setting::Context => "--ctx",
        Setting::KvTokens => "--kv-tokens",
        Setting::Pin => "--pin",
        Setting::Method => "--objective, --uniform or --dense:",
        Setting::Window => "--window",
        Setting::Stride => "--stride",
        Setting::MaxWindows => "--max-windows",
        Setting::Temperature => "--temp",
        Setting::TopK => "--top-k",
        Setting::TopP => "--top-p",
        Setting::MinP => "--min-p",
        Setting::RepeatPenalty => "--repeat-penalty",
        Setting::Revision => "--revision",
        Setting::HubCache => "HF_HOME",
        Setting::HubEndpoint => "HF_ENDPOINT",
        other => return other.to_string(),
    }
    .into()
}
