//! What a gated delta net remembers of a sequence, in one layer: the same memory however long it is.
use crate::ops::checkpoints::Checkpoints;
use std::{
    io::{self, Read, Write},
    iter::repeat_n,
    sync::Arc,
};

/// Sizes of a gated delta net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys; divides the value heads.
    pub key_heads: usize,
    /// Heads of values, each with a memory.
    pub value_heads: usize,
    /// Numbers of a query or a key head; a multiple of 16.
    pub key_dim: usize,
    /// Numbers of a value head; a multiple of 16.
    pub value_dim: usize,
    /// Tokens that the convolution sees.
    pub kernel: usize,
}

impl DeltaShape {
    /// Numbers of all queries, or of all keys.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Numbers of all values.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Numbers that go through the convolution: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Numbers of a token's inputs: queries, keys, values, gates of the values, and of every value head what its beta and its decay come from.
    pub fn inputs(&self) -> usize {
        self.channels() + self.values() + 2 * self.value_heads
    }

    /// Numbers of the memories of all heads.
    pub(super) fn memory(&self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }

    /// Numbers of a state.
    fn numbers(&self) -> usize {
        self.memory() + (self.kernel - 1) * self.channels()
    }
}

/// The state of one layer: of each value head its memory, (value_dim / 16, key_dim, 16), then the last inputs of the convolution,
/// (kernel - 1, channels); and what it was before.
#[derive(Clone, Debug)]
pub struct DeltaLayer {
    shape: DeltaShape,
    states: Checkpoints<Arc<[f32]>>,
}

impl DeltaLayer {
    /// Of no tokens. Memory is taken as it is used.
    pub fn new(shape: DeltaShape) -> DeltaLayer {
        DeltaLayer { shape, states: Checkpoints::default() }
    }

    /// Bytes of one state.
    pub fn state_bytes(shape: DeltaShape) -> usize {
        size_of::<f32>() * shape.numbers()
    }

    /// The most bytes that a sequence takes, with the states that it can be cut back to.
    pub fn bytes(shape: DeltaShape) -> usize {
        DeltaLayer::state_bytes(shape).saturating_mul(Checkpoints::<()>::MOST)
    }

    /// Its sizes.
    pub fn shape(&self) -> DeltaShape {
        self.shape
    }

    /// Tokens that it has seen.
    pub fn tokens(&self) -> usize {
        self.states.tokens()
    }

    /// The largest number of tokens, up to `len`, that it can be cut back to.
    pub fn reach(&self, len: usize) -> usize {
        self.states.reach(len)
    }

    /// Forgets all but the first tokens: [`DeltaLayer::reach`] of `len`.
    pub fn truncate(&mut self, len: usize) {
        self.states.truncate(len);
    }

    /// The same for the first tokens: [`DeltaLayer::reach`] of `len`. Both share their states.
    #[must_use]
    pub fn fork(&self, len: usize) -> DeltaLayer {
        let mut fork = self.clone();
        fork.truncate(len);
        fork
    }

    /// One number for each state that it has memory for; forks that share one have the same.
    pub fn states_held(&self) -> impl Iterator<Item = usize> {
        self.states.states().map(|state| state.as_ptr().addr())
    }

    /// Writes the state.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn save(&self, to: &mut dyn Write) -> io::Result<()> {
        self.states.last().into_iter().flat_map(|state| state.iter()).try_for_each(|v| to.write_all(&v.to_le_bytes()))
    }

    /// Reads what [`DeltaLayer::save`] wrote of `len` tokens, of a layer like this one.
    ///
    /// # Errors
    /// Those of `from`, and for numbers that are not finite.
    pub fn restore(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.truncate(0);
        if len == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; DeltaLayer::state_bytes(self.shape)];
        from.read_exact(&mut bytes)?;
        let state: Arc<[f32]> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if state.iter().any(|v| !v.is_finite()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "has states that are no numbers"));
        }
        self.put(len, state);
        Ok(())
    }

    /// The memories and the last inputs of the convolution; none of no tokens.
    pub(super) fn last(&self) -> Option<(&[f32], &[f32])> {
        self.states.last().map(|state| state.split_at(self.shape.memory()))
    }

    /// Memory for states of another pass, of some numbers.
    pub(super) fn fresh(&mut self, count: usize) -> Vec<Arc<[f32]>> {
        let mut states = self.states.make_room(count);
        // Another sequence may have one too.
        states.retain(|state| Arc::strong_count(state) == 1);
        states.resize_with(count, || repeat_n(0.0, self.shape.numbers()).collect());
        states
    }

    /// Its state after `tokens` more tokens.
    pub(super) fn put(&mut self, tokens: usize, state: Arc<[f32]>) {
        self.states.push(tokens, state);
    }
}
