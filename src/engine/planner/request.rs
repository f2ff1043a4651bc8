//! What is asked of the planner.
use super::{budget::Limit, method::Method};
use crate::{Error, error::Setting, survey::Survey};
use ram_kernels::{Effort, Format, KvElement};
use ram_models::{Backend, Description};
use regex::Regex;
use std::sync::Arc;

/// Tensors fixed to a format: those whose name the pattern matches.
#[derive(Clone, Debug)]
pub struct Pin {
    /// Searched in the tensor's name.
    pub pattern: Regex,
    /// What they get.
    pub format: Format,
}

impl Pin {
    /// One tensor.
    pub fn exact(name: &str, format: Format) -> Pin {
        let pattern = Regex::new(&format!("^{}$", regex::escape(name))).expect("a name without its special characters is a pattern");
        Pin { pattern, format }
    }
}

impl std::str::FromStr for Pin {
    type Err = Error;
    fn from_str(s: &str) -> Result<Pin, Error> {
        let usage = |why: String| Error::setting(Setting::Pin, s, why);
        let (pattern, format) = s.rsplit_once('=').ok_or_else(|| usage("write it as REGEX=FORMAT, for example 'lm_head=t8g64'".into()))?;
        Ok(Pin { pattern: Regex::new(pattern).map_err(|e| usage(e.to_string()))?, format: format.parse().map_err(|e| usage(format!("{e}")))? })
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to keep to.
    pub limit: Limit,
    /// How formats are chosen.
    pub method: Method,
    /// Tensors fixed beforehand.
    pub pins: Vec<Pin>,
    /// Tokens that the KV cache holds; `None` for the model's own maximum, at most 4,096.
    pub context: Option<usize>,
    /// Sequences that have a cache at once, and are computed in one batch.
    pub sequences: usize,
    /// Tokens that all sequences hold together, with beginnings that are kept for later ([`Engine`](crate::Engine)); `None` for as many as all
    /// have room for.
    pub kv_tokens: Option<usize>,
    /// What the KV cache holds; `None` for f16, or f32 where everything is dense.
    pub kv: Option<KvElement>,
    /// How long the encoder searches.
    pub effort: Effort,
    /// What is known of the weights: channels are scaled before they are coded, and [`Method::Kl`] knows what an error costs. For other
    /// methods than that and [`Method::Uniform`] it is not asked.
    pub survey: Option<Arc<Survey>>,
    /// What will compute with the weights.
    pub backend: Backend,
    /// Bytes of a process' limit that the caller keeps for itself: texts, other models.
    pub reserved: u64,
    /// Whether to set aside what coding with error feedback takes, as a survey with text asks for.
    pub refine: bool,
}

impl Default for Request {
    fn default() -> Request {
        let (limit, method, effort, backend) = (Limit::None, Method::Kl, Effort::Default, Backend::Fused);
        let (sequences, kv_tokens) = (1, None);
        Request {
            limit,
            method,
            pins: Vec::new(),
            context: None,
            sequences,
            kv_tokens,
            kv: None,
            effort,
            survey: None,
            backend,
            reserved: 0,
            refine: false,
        }
    }
}

impl Request {
    /// Tokens that the KV cache of a model holds.
    pub fn context_for(&self, description: &Description) -> usize {
        self.context.unwrap_or(description.max_position_embeddings.min(4096))
    }
}
