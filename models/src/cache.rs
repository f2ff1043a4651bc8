//! Keys and values of every layer, for the tokens of one sequence so far.
use crate::{
    ForwardError, KvElement,
    backend::{Scratch, State},
    description::Description,
};
use ram_kernels::Attention;

/// The keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) states: States,
    /// Those that it holds keys and values of.
    pub(crate) tokens: Vec<u32>,
    capacity: usize,
    /// (KV heads, head_dim) of the layers that it is for.
    shapes: Vec<(usize, usize)>,
}

/// As its backend has them.
#[derive(Debug)]
pub(crate) enum States {
    Fused {
        layers: Vec<Attention>,
        /// What a forward pass works in, so that decoding allocates next to nothing.
        scratch: Box<Scratch>,
    },
    Candle {
        layers: Vec<State>,
        /// The last ones asked for.
        logits: Vec<f32>,
    },
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
        KvCache { states: States::Fused { layers, scratch: Box::default() }, tokens: Vec::new(), capacity, shapes: shapes(description).collect() }
    }

    /// The same for candle, which takes the room as it is used.
    pub(crate) fn of_candle(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = vec![State::new(element); description.layers.len()];
        KvCache { states: States::Candle { layers, logits: Vec::new() }, tokens: Vec::new(), capacity, shapes: shapes(description).collect() }
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

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        match &mut self.states {
            States::Fused { layers, .. } => layers.iter_mut().for_each(|layer| layer.truncate(len)),
            States::Candle { layers, .. } => layers.iter_mut().for_each(|layer| layer.truncate(len)),
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
