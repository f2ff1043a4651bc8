//! A text that goes on: its tokens, the keys and values of those that were computed, and how the next one is chosen.
use super::{
    guide::{Guide, Guided},
    sampler::{Sampler, Sampling},
};
use crate::{Error, files};
use ram_models::{Cancel, KvCache};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
    time::Duration,
};
use xxhash_rust::xxh3::Xxh3;

/// What was done since the last [`Session::prompt`], and how long it took.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Tokens of the prompt that were computed.
    pub prompt_tokens: usize,
    /// Time for them.
    pub prefill: Duration,
    /// Tokens that were chosen.
    pub generated: usize,
    /// Tokens computed after the first.
    pub decoded: usize,
    /// Time for them.
    pub decode: Duration,
}

/// One sequence of a [`Model`](crate::Model), which gives it its next tokens: [`Model::next`](crate::Model::next) alone,
/// [`Model::step`](crate::Model::step) with others.
#[derive(Debug)]
pub struct Session {
    /// All tokens; the cache holds keys and values of the first of them.
    tokens: Vec<u32>,
    pub(super) cache: KvCache,
    pub(super) sampler: Sampler,
    pub(super) cancel: Cancel,
    guide: Option<Guided>,
    /// What was done.
    pub stats: Stats,
}

impl Session {
    pub(super) fn new(cache: KvCache, sampler: Sampler) -> Session {
        Session { tokens: Vec::new(), cache, sampler, cancel: Cancel::default(), guide: None, stats: Stats::default() }
    }

    /// All of its tokens, given and chosen.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of them, from the first on, need not be computed any more.
    pub fn computed(&self) -> usize {
        self.cache.len()
    }

    /// Tokens that it has room for.
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Whether another token has a place.
    pub fn is_full(&self) -> bool {
        self.tokens.len() > self.capacity()
    }

    /// The text is `tokens` from now on. What it begins with and was computed before is not computed again.
    ///
    /// # Errors
    /// [`Error::Empty`] for no token, [`Error::Context`] for more than there is room for; all is as it was then.
    pub fn prompt(&mut self, tokens: &[u32]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::Empty);
        }
        if tokens.len() > self.capacity() {
            return Err(Error::Context { tokens: tokens.len(), capacity: self.capacity() });
        }
        let common = self.tokens[..self.computed()].iter().zip(tokens).take_while(|(own, new)| own == new).count();
        // The last token is always computed: what comes next is known of no other.
        self.cache.truncate(common.min(tokens.len() - 1));
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.stats = Stats::default();
        self.sampler.begin();
        Ok(())
    }

    /// Adds a token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Other choices from here on.
    ///
    /// # Errors
    /// [`Error::Setting`] for a number out of its range.
    pub fn sample_by(&mut self, sampling: Sampling) -> Result<(), Error> {
        self.sampler = Sampler::new(sampling)?;
        Ok(())
    }

    /// What ends the computing of its next token, between two layers, from any thread: it is an [`Error::Cancelled`] then, and the session
    /// is as it was before the tokens that were being computed.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The same, made by somebody else, from now on.
    pub fn cancelled_by(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// What may come next is for `guide` to say from now on.
    pub fn guided_by(&mut self, guide: Box<dyn Guide>) {
        self.guide = Some(Guided::new(guide));
    }

    /// Keys and values of its first tokens, as far as `cache` has them, which it has computed then; `cache` must belong to them.
    pub(crate) fn adopt(&mut self, cache: KvCache) {
        self.cache = cache;
        self.cache.truncate(self.tokens.len().saturating_sub(1));
    }

    /// Keys and values of the first `len` tokens that were computed, for another.
    pub(crate) fn beginning(&self, len: usize) -> KvCache {
        self.cache.fork(len)
    }

    /// Gives the memory of its keys and values back: they are computed again when they are needed.
    pub(crate) fn release(&mut self) {
        self.cache = self.cache.fork(0);
    }

    /// [`KvCache::reach`] of it.
    pub(crate) fn reach(&self, len: usize) -> usize {
        self.cache.reach(len)
    }

    /// [`KvCache::pages_of`] of it.
    pub(crate) fn pages_of(&self, tokens: usize) -> usize {
        self.cache.pages_of(tokens)
    }

    /// [`KvCache::pages`] of it.
    pub(crate) fn pages(&self) -> Vec<usize> {
        self.cache.pages()
    }

    /// Logits (vocab_size) that the last token was chosen from.
    pub(crate) fn last_logits(&self) -> &[f32] {
        self.cache.logits()
    }

    /// Another session with the first `len` tokens, which chooses as this one would, without its guide. It takes no memory for what both have computed, until
    /// one of them goes on in another way.
    #[must_use]
    pub fn fork(&self, len: usize) -> Session {
        let len = len.min(self.tokens.len());
        let (tokens, cache) = (self.tokens[..len].to_vec(), self.cache.fork(len));
        Session { tokens, cache, sampler: self.sampler.clone(), cancel: Cancel::default(), guide: None, stats: Stats::default() }
    }

    /// Those that were not computed yet.
    pub(super) fn pending(&self) -> &[u32] {
        &self.tokens[self.cache.len()..]
    }

    /// Its parts, to compute some of the pending tokens.
    pub(super) fn parts(&mut self, count: usize) -> (&[u32], &mut KvCache, &Cancel) {
        let from = self.cache.len();
        (&self.tokens[from..from + count], &mut self.cache, &self.cancel)
    }

    /// Chooses the next token from the logits of what was computed last.
    pub(super) fn choose(&mut self) -> Result<u32, Error> {
        let token = match &mut self.guide {
            None => self.sampler.sample(self.cache.logits(), &self.tokens)?,
            Some(guide) => guide.choose(self.cache.logits(), |allowed| self.sampler.sample(allowed, &self.tokens))?,
        };
        self.tokens.push(token);
        self.stats.generated += 1;
        Ok(token)
    }

    /// Writes it to a file, whole or not at all. `plan` is that of the model.
    pub(super) fn save(&self, path: &Path, plan: &str) -> Result<(), Error> {
        let (computed, kv, drawn) = (self.computed(), self.cache.kind(), self.sampler.drawn());
        let chosen = self.stats.generated;
        let header = Header { version: VERSION, plan: plan.into(), kv, computed, tokens: self.tokens.clone(), chosen, drawn };
        files::write_whole(path, |file| {
            let mut to = Summed { of: BufWriter::new(file), sum: Xxh3::new() };
            serde_json::to_writer(&mut to, &header)?;
            to.write_all(b"\n")?;
            self.cache.save(&mut to)?;
            let sum = to.sum.digest();
            to.of.write_all(&sum.to_le_bytes())?;
            to.of.flush()
        })
    }

    /// Goes on where one was that was saved by a model of the same plan: with its tokens, what was computed of them, and as far in the choices.
    pub(super) fn restore(&mut self, path: &Path, plan: &str) -> Result<(), Error> {
        let bad = |reason: String| Error::File { path: path.into(), reason };
        let mut from = Summed { of: BufReader::new(files::open(path)?), sum: Xxh3::new() };
        let mut line = Vec::new();
        // A token takes at most 11 bytes; a file of another kind need not have lines.
        let most = 4096 + 12 * self.capacity() as u64;
        let io = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => bad("ends too early: it was not written to its end".into()),
            io::ErrorKind::InvalidData => bad(e.to_string()),
            _ => Error::Io { path: path.into(), source: e },
        };
        from.of.by_ref().take(most).read_until(b'\n', &mut line).map_err(io)?;
        from.sum.update(&line);
        let header: Header = serde_json::from_slice(&line).map_err(|_| bad("is no saved session of this version".into()))?;
        let kv = self.cache.kind();
        if (header.version, &*header.plan, &header.kv) != (VERSION, plan, &kv) {
            return Err(bad(format!("was saved by plan {} with {} keys and values, this is {plan} with {kv}", header.plan, header.kv)));
        }
        // The last token that was chosen for a full context is not computed any more.
        if header.tokens.len() > self.capacity() + 1 || header.computed > header.tokens.len() {
            return Err(Error::Context { tokens: header.tokens.len(), capacity: self.capacity() });
        }
        self.tokens.clear();
        self.cache.restore(header.computed, &mut from).map_err(io)?;
        let (sum, mut told) = (from.sum.digest(), Vec::new());
        // One byte more than there should be is enough to know.
        from.of.take(1 + size_of_val(&sum) as u64).read_to_end(&mut told).map_err(io)?;
        if told != sum.to_le_bytes() {
            self.cache.clear();
            return Err(bad("is damaged: its checksum is wrong".into()));
        }
        self.tokens = header.tokens;
        self.sampler.advance(header.drawn);
        self.sampler.chose(&self.tokens[self.tokens.len().saturating_sub(header.chosen)..]);
        self.stats = Stats { generated: header.chosen, ..Stats::default() };
        Ok(())
    }
}

const VERSION: u32 = 2;

/// The first line of a saved session; keys and values follow, then a checksum.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    plan: String,
    kv: String,
    computed: usize,
    tokens: Vec<u32>,
    /// How many of them, at the end, were chosen.
    chosen: usize,
    drawn: u64,
}

/// What goes through it, summed.
struct Summed<T> {
    of: T,
    sum: Xxh3,
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.of.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.of.flush()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.of.read(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }
}
