//! Everything that can go wrong, as one enum that a caller can match; each prints one sentence that says what to do.
use crate::size;
use ram_models::{ConfigError, ForwardError};
use std::{fmt, io, path::PathBuf};

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A config.json that is no model this engine computes.
    #[error("{}: {source}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// The key, and what is wrong with it.
        source: ConfigError,
    },
    /// A file of the checkpoint that is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the configuration asks for and no file has.
    #[error("the checkpoint has no tensor {0}: fetch all of its files again")]
    MissingTensor(String),
    /// A tensor that a file has and the configuration does not ask for.
    #[error("the checkpoint has a tensor {0} that its config.json does not account for")]
    UnexpectedTensor(String),
    /// A tensor that is not what it should be.
    #[error("tensor {name} {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A budget that cannot work.
    #[error("a budget of {}: {} need at least {} ({need} bytes)", size::show(*have), if *weights_only { "the weights" } else { "all parts of the process" }, size::show(*need))]
    Budget {
        /// The smallest that would.
        need: u64,
        /// What was given.
        have: u64,
        /// Whether it bounds the weights alone.
        weights_only: bool,
    },
    /// Something asked for that makes no sense.
    #[error("{setting} {value}: {reason}")]
    Setting {
        /// What was set.
        setting: Setting,
        /// What it was set to.
        value: String,
        /// Why that cannot be.
        reason: String,
    },
    /// A chat template that cannot be used, or what it raised.
    #[error("chat template: {0}")]
    Template(String),
    /// More tokens than the context holds.
    #[error("{tokens} tokens or more do not fit a context of {capacity}: shorten the text or take a longer context")]
    Context {
        /// How many, at the least: a text that is far too long is not counted to its end.
        tokens: usize,
        /// How many it holds.
        capacity: usize,
    },
    /// A text of no token where one is needed.
    #[error("the text is empty: give at least one word")]
    Empty,
    /// A text that is too short to be scored.
    #[error("the text has {tokens} tokens, too few for one window of {window}")]
    Short {
        /// How many it has.
        tokens: usize,
        /// How many one window takes.
        window: usize,
    },
    /// The tokenizer refused a text or a token.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The thread of an [`Engine`](crate::Engine) has ended.
    #[error("the engine has ended")]
    Stopped,
    /// A [`Guide`](crate::Guide) that cannot be followed.
    #[error("the rules for the answer cannot be followed: {0}")]
    Guide(String),
    /// Somebody ended the computation: [`Session::cancel`](crate::Session::cancel).
    #[error("cancelled")]
    Cancelled,
    /// Computing gave no number: a damaged checkpoint, as each of its numbers alone is finite.
    #[error("{0} are no numbers: the checkpoint is damaged, fetch it again")]
    NotFinite(String),
    /// Things that do not belong together: a KV cache and a model, a plan and a checkpoint.
    #[error("{0}")]
    Mismatch(String),
    /// The hub does not give what is asked of it, or its cache cannot be used.
    #[error("{repository}: {reason}")]
    Hub {
        /// ORG/NAME.
        repository: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The cache does not have what is needed, and the hub is not to be asked.
    #[error("{repository}: {what} is not in the cache {} and the hub is not to be asked: fetch it once without offline mode", cache.display())]
    Offline {
        /// ORG/NAME.
        repository: String,
        /// What is missing.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What a caller sets, for [`Error::Setting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// [`Request::context`](crate::Request).
    Context,
    /// [`Request::kv_tokens`](crate::Request).
    KvTokens,
    /// [`Request::pins`](crate::Request).
    Pin,
    /// [`Request::method`](crate::Request).
    Method,
    /// [`Protocol::window`](crate::Protocol).
    Window,
    /// [`Protocol::stride`](crate::Protocol).
    Stride,
    /// [`Protocol::score_from`](crate::Protocol).
    ScoreFrom,
    /// Windows at most of [`Model::perplexity`](crate::Model).
    MaxWindows,
    /// [`Sampling::temperature`](crate::Sampling).
    Temperature,
    /// [`Sampling::top_k`](crate::Sampling).
    TopK,
    /// [`Sampling::top_p`](crate::Sampling).
    TopP,
    /// [`Sampling::min_p`](crate::Sampling).
    MinP,
    /// [`Sampling::repeat_penalty`](crate::Sampling).
    RepeatPenalty,
    /// [`Sampling::presence_penalty`](crate::Sampling).
    PresencePenalty,
    /// [`Sampling::frequency_penalty`](crate::Sampling).
    FrequencyPenalty,
    /// [`Sampling::logit_bias`](crate::Sampling).
    LogitBias,
    /// [`Repository::revision`](crate::hub::Repository).
    Revision,
    /// [`Hub::cache`](crate::hub::Hub).
    HubCache,
    /// Where the [`Hub`](crate::hub::Hub) is.
    HubEndpoint,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Setting::Context => "context",
            Setting::KvTokens => "kv_tokens",
            Setting::Pin => "pin",
            Setting::Method => "method",
            Setting::Window => "window",
            Setting::Stride => "stride",
            Setting::ScoreFrom => "score_from",
            Setting::MaxWindows => "max_windows",
            Setting::Temperature => "temperature",
            Setting::TopK => "top_k",
            Setting::TopP => "top_p",
            Setting::MinP => "min_p",
            Setting::RepeatPenalty => "repeat_penalty",
            Setting::PresencePenalty => "presence_penalty",
            Setting::FrequencyPenalty => "frequency_penalty",
            Setting::LogitBias => "logit_bias",
            Setting::Revision => "revision",
            Setting::HubCache => "hub cache",
            Setting::HubEndpoint => "hub endpoint",
        })
    }
}

impl From<ForwardError> for Error {
    fn from(e: ForwardError) -> Error {
        match e {
            ForwardError::NoTokens => Error::Empty,
            ForwardError::Cancelled => Error::Cancelled,
            ForwardError::Full { tokens, start, capacity } => Error::Context { tokens: start + tokens, capacity },
            ForwardError::NotFinite { what, layer: Some(layer) } => Error::NotFinite(format!("{what} in layer {layer}")),
            ForwardError::NotFinite { what, layer: None } => Error::NotFinite(what.to_string()),
            ForwardError::Candle(e) => Error::Candle(e),
            other => Error::Mismatch(other.to_string()),
        }
    }
}

impl Error {
    pub(crate) fn setting(setting: Setting, value: impl fmt::Display, reason: impl Into<String>) -> Error {
        Error::Setting { setting, value: value.to_string(), reason: reason.into() }
    }
}
