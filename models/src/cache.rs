//! Keys and values of every layer, for the tokens of one sequence so far.
use crate::{ForwardError, KvElement, backend::State, description::Description};
use ram_kernels::KvLayer;
use std::io::{self, Read, Write};

/// The keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) states: States,
    /// Tokens that it holds keys and values of.
    len: usize,
    /// Those that were asked for last.
    pub(crate) logits: Vec<f32>,
    capacity: usize,
    element: KvElement,
    /// (KV heads, head_dim) of the layers that it is for.
    shapes: Vec<(usize, usize)>,
}

/// As its backend has them, of every layer.
#[derive(Debug)]
pub(crate) enum States {
    Fused(Vec<KvLayer>),
    Candle(Vec<State>),
}

fn shapes(description: &Description) -> impl ExactSizeIterator<Item = (usize, usize)> {
    description.layers.iter().map(|l| (l.attention.num_key_value_heads, l.attention.head_dim))
}

impl KvCache {
    /// Tokens whose keys and values are taken and given back together.
    pub const PAGE: usize = ram_kernels::PAGE;

    /// Room for `capacity` tokens, for the fused backend. Memory is taken as it is used.
    pub fn new(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = description.layers.iter().map(|l| l.attention.state(capacity, element)).collect();
        KvCache::with(States::Fused(layers), description, capacity, element)
    }

    /// The same for candle, which takes the room as it is used.
    pub(crate) fn of_candle(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = vec![State::new(element); description.layers.len()];
        KvCache::with(States::Candle(layers), description, capacity, element)
    }

    fn with(states: States, description: &Description, capacity: usize, element: KvElement) -> KvCache {
        KvCache { states, len: 0, logits: Vec::new(), capacity, element, shapes: shapes(description).collect() }
    }

    /// Whether it was made for a model like this.
    pub(crate) fn belongs_to(&self, description: &Description) -> Result<(), ForwardError> {
        if shapes(description).eq(self.shapes.iter().copied()) {
            return Ok(());
        }
        // Those of the first layer stand for all.
        let all = |first: Option<(usize, usize)>, layers| first.map_or((layers, 0, 0), |(heads, dim)| (layers, heads, dim));
        let (own, model) = (self.shapes.first().copied(), shapes(description));
        Err(ForwardError::OtherModel { cache: all(own, self.shapes.len()), model: all(shapes(description).next(), model.len()) })
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Logits (vocab_size) of what follows its tokens, where it was asked for them last; else of what followed then.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// What it holds and as which backend has it: what [`KvCache::save`] writes is read by one of the same.
    pub fn kind(&self) -> String {
        let backend = if matches!(self.states, States::Candle(_)) { " of candle" } else { "" };
        format!("{}{backend}", self.element.name())
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        match &mut self.states {
            States::Fused(layers) => layers.iter_mut().for_each(|layer| layer.truncate(len)),
            States::Candle(layers) => layers.iter_mut().for_each(|layer| layer.truncate(len)),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Another one with the first `len` tokens. Memory that both have in common is shared until one of them writes to it.
    #[must_use]
    pub fn fork(&self, len: usize) -> KvCache {
        let len = len.min(self.len);
        let states = match &self.states {
            States::Fused(layers) => States::Fused(layers.iter().map(|layer| layer.fork(len)).collect()),
            States::Candle(layers) => States::Candle(layers.clone()),
        };
        let mut fork = KvCache { states, len, logits: Vec::new(), shapes: self.shapes.clone(), ..*self };
        fork.truncate(len);
        fork
    }

    /// One number for each [`KvCache::PAGE`] tokens that it has memory for; forks that share that memory have the same. candle shares
    /// nothing.
    pub fn pages(&self) -> Vec<usize> {
        match &self.states {
            States::Fused(layers) => layers.first().map_or_else(Vec::new, KvLayer::pages_held),
            // What is at different places is nobody else's.
            States::Candle(_) => (0..self.len.div_ceil(Self::PAGE)).map(|page| std::ptr::from_ref(self).addr() + page).collect(),
        }
    }

    /// Writes the keys and values that it holds, as its backend has them.
    ///
    /// # Errors
    /// Those of `to`; candle's.
    pub fn save(&self, to: &mut dyn Write) -> io::Result<()> {
        match &self.states {
            States::Fused(layers) => layers.iter().try_for_each(|layer| layer.save(to)),
            States::Candle(layers) => layers.iter().try_for_each(|layer| layer.save(to)),
        }
    }

    /// Reads what [`KvCache::save`] wrote of `len` tokens, of a cache like this one.
    ///
    /// # Errors
    /// Those of `from`, where it has fewer bytes or numbers that are not finite, and where there is no room. It is empty then.
    pub fn restore(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.clear();
        if len > self.capacity {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("has {len} tokens, too many for a context of {}", self.capacity)));
        }
        let shapes = self.shapes.iter();
        let read = match &mut self.states {
            States::Fused(layers) => layers.iter_mut().try_for_each(|layer| layer.restore(len, from)),
            States::Candle(layers) => layers.iter_mut().zip(shapes).try_for_each(|(layer, shape)| layer.restore(len, *shape, from)),
        };
        self.len = len;
        if read.is_err() {
            self.clear();
        }
        read
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
