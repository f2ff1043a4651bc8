//! Keys and values of every layer, for the tokens of one sequence so far.
use crate::{Config, KvElement, forward::Scratch};
use ram_kernels::Attention;

/// The keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<Attention>,
    /// Those that it holds keys and values of.
    tokens: Vec<u32>,
    capacity: usize,
    pub(crate) scratch: Scratch,
}

impl KvCache {
    /// Room for `capacity` tokens.
    ///
    /// # Panics
    /// If they are more than memory holds.
    pub fn new(config: &Config, capacity: usize, element: KvElement) -> KvCache {
        let layer = || Attention::new(config.num_key_value_heads, config.head_dim, capacity, element);
        KvCache { layers: (0..config.num_hidden_layers).map(|_| layer()).collect(), tokens: Vec::new(), capacity, scratch: Scratch::default() }
    }

    /// Bytes that [`KvCache::new`] takes; `usize::MAX` where they are more than that counts.
    pub fn bytes(config: &Config, capacity: usize, element: KvElement) -> usize {
        let each = Attention::bytes(config.num_key_value_heads, config.head_dim, capacity, element);
        config.num_hidden_layers.saturating_mul(each)
    }

    /// (layers, KV heads, head_dim) of the model that it is for.
    pub(crate) fn shape(&self) -> (usize, usize, usize) {
        let (heads, dim) = self.layers.first().map_or((0, 0), |l| (l.kv_heads(), l.head_dim()));
        (self.layers.len(), heads, dim)
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
        for layer in &mut self.layers {
            layer.truncate(len);
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
