//! A model that runs: weights, tokenizer and plan together.
use super::{
    generate::{self, Generator},
    perplexity::{Protocol, Report, Running, Scored, perplexity},
    sampler::{Sampler, Sampling},
    tokenizer::Tokenizer,
};
use crate::{
    Error,
    checkpoint::Checkpoint,
    load::{self, Loaded},
    planner::{Plan, logits_bytes},
};
use ram_models::{KvCache, Transformer};

/// Weights in memory as a plan says, with the tokenizer.
pub struct Model {
    /// What computes.
    pub transformer: Transformer,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// What every tensor got.
    pub plan: Plan,
}

impl Model {
    /// Reads and quantizes the weights; `done` is told how many weights each piece had.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint's weights or its tokenizer.
    pub fn load(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Model, Error> {
        Model::new(checkpoint, plan, &load::load(checkpoint, plan, done)?)
    }

    /// A model of weights that [`load()`](load::load) or [`packed::read`](crate::packed::read) gave for the same plan.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint's tokenizer.
    pub fn new(checkpoint: &Checkpoint, plan: &Plan, weights: &Loaded) -> Result<Model, Error> {
        plan.belongs_to(checkpoint)?;
        let description = checkpoint.description().clone();
        let tokenizer = Tokenizer::open(checkpoint.folder(), description.vocab_size)?;
        Ok(Model { transformer: weights.transformer(description, &plan.backend)?, tokenizer, plan: plan.clone() })
    }

    /// An empty KV cache for the plan's context.
    pub fn cache(&self) -> KvCache {
        self.transformer.cache(self.plan.context, self.plan.kv)
    }

    /// Tokens that follow `tokens`; what the cache already holds of them is not computed again.
    ///
    /// # Errors
    /// [`Error::Context`] for a prompt that does not fit; [`Error::Setting`] for a sampling out of range.
    pub fn generate<'a>(&'a self, cache: &'a mut KvCache, tokens: Vec<u32>, sampling: Sampling, max_tokens: usize) -> Result<Generator<'a>, Error> {
        Generator::new(&self.transformer, cache, Sampler::new(sampling)?, &self.tokenizer.eos, tokens, max_tokens, self.plan.chunk)
    }

    /// Logits (vocab_size) of what follows `tokens`, which are added to the cache: what [`Model::generate`] samples from,
    /// for a sampler of one's own.
    ///
    /// # Errors
    /// [`Error::Context`] where they do not fit the cache; [`Error::Empty`] for no token.
    pub fn logits_after<'c>(&self, cache: &'c mut KvCache, tokens: &[u32]) -> Result<&'c [f32], Error> {
        let (all, capacity) = (cache.len() + tokens.len(), cache.capacity());
        if all > capacity {
            return Err(Error::Context { tokens: all, capacity });
        }
        generate::logits_after(&self.transformer, cache, tokens, self.plan.chunk)
    }

    /// Perplexity of a text, tokenized once without special tokens; against `reference` also the KL divergence.
    ///
    /// # Errors
    /// [`Error::Short`] for a text of less than one window.
    pub fn perplexity(
        &self,
        text: &str,
        protocol: &Protocol,
        max_windows: Option<usize>,
        reference: Option<&Model>,
        progress: &mut dyn FnMut(Running),
    ) -> Result<Report, Error> {
        let tokens = self.tokenizer.encode(text, false)?;
        fn scored(m: &Model) -> Scored<'_> {
            Scored { transformer: &m.transformer, kv: m.plan.kv }
        }
        let (own, other) = (scored(self), reference.map(scored));
        perplexity(&own, other.as_ref(), &tokens, protocol, max_windows, self.plan.chunk, logits_bytes(self.plan.memory.budget), progress)
    }
}
