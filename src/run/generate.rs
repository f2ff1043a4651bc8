//! Generation as an iterator of tokens.
use super::sampler::Sampler;
use crate::Error;
use ram_models::{KvCache, Transformer};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// What was done and how long it took.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Tokens of the prompt that were computed.
    pub prompt_tokens: usize,
    /// Time for them.
    pub prefill: Duration,
    /// Tokens that were given out.
    pub generated: usize,
    /// Tokens computed after the first.
    pub decoded: usize,
    /// Time for them.
    pub decode: Duration,
}

/// Tokens that follow a prompt, as they are computed; ends at an end token, at `max_tokens` or where the context is full.
pub struct Generator<'a> {
    transformer: &'a Transformer,
    cache: &'a mut KvCache,
    sampler: Sampler,
    eos: &'a BTreeSet<u32>,
    tokens: Vec<u32>,
    left: usize,
    chunk: usize,
    finished: bool,
    /// What was done so far.
    pub stats: Stats,
}

impl<'a> Generator<'a> {
    /// `tokens` is the whole text so far; those that the cache already holds are not computed again. `chunk` tokens of
    /// a prompt are computed at a time.
    ///
    /// # Errors
    /// [`Error::Context`] for a prompt that does not fit, [`Error::Empty`] for an empty one.
    pub fn new(
        transformer: &'a Transformer,
        cache: &'a mut KvCache,
        sampler: Sampler,
        eos: &'a BTreeSet<u32>,
        tokens: Vec<u32>,
        max_tokens: usize,
        chunk: usize,
    ) -> Result<Generator<'a>, Error> {
        if tokens.is_empty() {
            return Err(Error::Empty);
        }
        if tokens.len() > cache.capacity() {
            return Err(Error::Context { tokens: tokens.len(), capacity: cache.capacity() });
        }
        // What the cache holds of another text is forgotten. The last token is always computed: its logits are what comes next.
        let common = cache.tokens().iter().zip(&tokens[..tokens.len() - 1]).take_while(|(held, token)| held == token).count();
        cache.truncate(common);
        Ok(Generator { transformer, cache, sampler, eos, tokens, left: max_tokens, chunk: chunk.max(1), finished: false, stats: Stats::default() })
    }

    /// Prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn step(&mut self) -> Result<u32, Error> {
        let start = Instant::now();
        let first = self.stats.prompt_tokens == 0;
        let from = self.cache.len();
        let logits = logits_after(self.transformer, self.cache, &self.tokens[from..], self.chunk)?;
        let token = self.sampler.sample(logits, &self.tokens)?;
        if first {
            self.stats.prompt_tokens = self.tokens.len() - from;
            self.stats.prefill = start.elapsed();
        } else {
            self.stats.decoded += 1;
            self.stats.decode += start.elapsed();
        }
        self.tokens.push(token);
        Ok(token)
    }
}

/// Logits (vocab_size) of what follows `tokens`, which are added to the cache, `chunk` at a time.
///
/// # Errors
/// If there is no token, or no room for them.
pub fn logits_after<'c>(transformer: &Transformer, cache: &'c mut KvCache, tokens: &[u32], chunk: usize) -> Result<&'c [f32], Error> {
    if tokens.is_empty() {
        return Err(Error::Empty);
    }
    let (before, last) = tokens.split_at((tokens.len() - 1) / chunk * chunk);
    for piece in before.chunks(chunk) {
        transformer.forward(piece, cache)?;
    }
    Ok(transformer.next_logits(last, cache)?)
}

impl Iterator for Generator<'_> {
    type Item = Result<u32, Error>;
    fn next(&mut self) -> Option<Result<u32, Error>> {
        if self.finished || self.left == 0 || self.tokens.len() > self.cache.capacity() {
            return None;
        }
        self.left -= 1;
        let token = self.step();
        self.finished = token.as_ref().map_or(true, |t| self.eos.contains(t));
        match token {
            Ok(t) if self.eos.contains(&t) => None,
            token => {
                self.stats.generated += usize::from(token.is_ok());
                Some(token)
            }
        }
    }
}
