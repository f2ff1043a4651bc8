//! Why a forward pass gave nothing.
use ram_kernels::NotFinite;

/// Why a forward pass gave nothing; the cache is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// No token was given.
    #[error("a forward pass needs at least one token")]
    NoTokens,
    /// The cache has no room.
    #[error("{tokens} tokens after {start} do not fit a cache for {capacity}")]
    Full {
        /// Tokens given.
        tokens: usize,
        /// Tokens that the cache holds.
        start: usize,
        /// Tokens it has room for.
        capacity: usize,
    },
    /// A token that the model does not know.
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    Vocabulary {
        /// The token.
        token: u32,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// A cache that was made for another model. Each is (layers, KV heads, head_dim).
    #[error("the KV cache is one of (layers, KV heads, head_dim) {cache:?}, the model has {model:?}: make one with Transformer::cache")]
    OtherModel {
        /// What it was made for.
        cache: (usize, usize, usize),
        /// What the model has.
        model: (usize, usize, usize),
    },
    /// A cache that was made for another backend.
    #[error("the KV cache was made for another backend: make one with Transformer::cache")]
    OtherBackend,
    /// Somebody asked for that.
    #[error("cancelled")]
    Cancelled,
    /// A NaN or an infinity came up.
    #[error("{what}{} are no numbers", layer.map(|l| format!(" in layer {l}")).unwrap_or_default())]
    NotFinite {
        /// What holds it.
        what: &'static str,
        /// In which layer, counted from 0.
        layer: Option<usize>,
    },
    /// A tensor is not what it should be.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Why an operation gave nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    NotFinite(NotFinite),
    Candle(candle_core::Error),
}

impl From<NotFinite> for Fault {
    fn from(what: NotFinite) -> Fault {
        Fault::NotFinite(what)
    }
}

impl From<candle_core::Error> for Fault {
    fn from(error: candle_core::Error) -> Fault {
        Fault::Candle(error)
    }
}

impl Fault {
    /// The same with the layer that it happened in.
    pub fn within(self, layer: Option<usize>) -> ForwardError {
        match self {
            Fault::NotFinite(NotFinite(what)) => ForwardError::NotFinite { what, layer },
            Fault::Candle(error) => error.into(),
        }
    }
}
