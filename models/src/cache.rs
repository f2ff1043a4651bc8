//! Keys and values of every layer, for the tokens of one sequence so far.
use crate::{ForwardError, KvElement, backend::State, description::Description};
use ram_kernels::Attention;

/// The keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) states: States,
    /// Those that it holds keys and values of.
    tokens: Vec<u32>,
    /// Those that [`Transformer::next_logits`](crate::Transformer::next_logits) found last.
    pub(crate) logits: Vec<f32>,
    capacity: usize,
    /// (KV heads, head_dim) of the layers that it is for.
    shapes: Vec<(usize, usize)>,
}

/// As its backend has them, of every layer.
#[derive(Debug)]
pub(crate) enum States {
    Fused(Vec<Attention>),
    Candle(Vec<State>),
}

fn shapes(description: &Description) -> impl ExactSizeIterator<Item = (usize, usize)> {
    description.layers.iter().map(|l| (l.attention.num_key_value_heads, l.attention.head_dim))
}

impl KvCache {
    /// Room for `capacity` tokens, for the fused backend.
    ///
    /// # Panics
    /// If they are more than memory holds.
    pub fn new(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = description.layers.iter().map(|l| l.attention.state(capacity, element)).collect();
        KvCache::with(States::Fused(layers), description, capacity)
    }

    /// The same for candle, which takes the room as it is used.
    pub(crate) fn of_candle(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = vec![State::new(element); description.layers.len()];
        KvCache::with(States::Candle(layers), description, capacity)
    }

    fn with(states: States, description: &Description, capacity: usize) -> KvCache {
        KvCache { states, tokens: Vec::new(), logits: Vec::new(), capacity, shapes: shapes(description).collect() }
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
        self.tokens.len()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens in it: a sequence that begins with them goes on from it.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Logits (vocab_size) of what follows its tokens, where it was asked for them last; else of what followed then.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        match &mut self.states {
            States::Fused(layers) => layers.iter_mut().for_each(|layer| layer.truncate(len)),
            States::Candle(layers) => layers.iter_mut().for_each(|layer| layer.truncate(len)),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    pub(crate) fn advance(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }
}
