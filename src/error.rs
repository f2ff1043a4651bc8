//! Everything that can go wrong, as one enum that a caller can match; each prints one sentence that says what to do.
use crate::size;
use ram_models::ConfigError;
use std::{fmt, io, path::PathBuf};

/// Why something did not work.
#[derive(Debug)]
pub enum Error {
    /// A file could not be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A config.json that is no model this engine computes.
    Config {
        /// Which.
        path: PathBuf,
        /// The key, and what is wrong with it.
        source: ConfigError,
    },
    /// A file of the checkpoint that is not what it should be.
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the configuration asks for and no file has.
    MissingTensor(String),
    /// A tensor that a file has and the configuration does not ask for.
    UnexpectedTensor(String),
    /// A tensor that is not what it should be.
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A budget that cannot work.
    Budget {
        /// The smallest that would.
        need: u64,
        /// What was given.
        have: u64,
        /// Whether it bounds the weights alone.
        weights_only: bool,
    },
    /// Something asked for that makes no sense.
    Usage(String),
    /// A chat template that cannot be used, or what it raised.
    Template(String),
    /// More tokens than the context holds.
    Context {
        /// How many.
        tokens: usize,
        /// How many it holds.
        capacity: usize,
    },
    /// The hub does not give what is asked of it, or its cache cannot be used.
    Hub {
        /// ORG/NAME.
        repository: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A text that cannot be scored.
    Text(String),
    /// A tensor operation failed.
    Candle(candle_core::Error),
    /// Something else failed.
    Failed(String),
}

impl Error {
    /// 1 failed, 2 usage, 3 does not fit the budget, 4 model or file invalid, 5 network or hub.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Context { .. } | Error::Text(_) => 2,
            Error::Budget { .. } => 3,
            Error::Config { .. }
            | Error::File { .. }
            | Error::MissingTensor(_)
            | Error::UnexpectedTensor(_)
            | Error::Tensor { .. }
            | Error::Template(_) => 4,
            Error::Hub { .. } => 5,
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => 4,
            Error::Io { .. } | Error::Candle(_) | Error::Failed(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Config { path, source } => write!(f, "{}: {source}", path.display()),
            Error::File { path, reason } => write!(f, "{}: {reason}", path.display()),
            Error::MissingTensor(name) => write!(f, "the checkpoint has no tensor {name}: fetch all of its files again"),
            Error::UnexpectedTensor(name) => write!(f, "the checkpoint has a tensor {name} that its config.json does not account for"),
            Error::Tensor { name, reason } => write!(f, "tensor {name} {reason}"),
            Error::Budget { need, have, weights_only } => {
                let (flag, what) = if *weights_only { ("--weights", "the weights need") } else { ("--budget", "the process needs") };
                write!(f, "{flag} {}: {what} at least {} ({flag} {need})", size::show(*have), size::show(*need))
            }
            Error::Usage(s) | Error::Text(s) | Error::Failed(s) => f.write_str(s),
            Error::Hub { repository, reason } => write!(f, "{repository}: {reason}"),
            Error::Template(s) => write!(f, "chat template: {s}"),
            Error::Context { tokens, capacity } => write!(f, "{tokens} tokens do not fit a context of {capacity}: shorten the text or raise --ctx"),
            Error::Candle(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Error {
        Error::Candle(e)
    }
}
