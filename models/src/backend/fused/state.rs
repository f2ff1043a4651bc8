//! What a layer knows of a sequence, in the CPU's memory.
use crate::backend::StateShape;
use ram_kernels::{DeltaLayer, KvElement, KvLayer};
use std::io::{self, Read, Write};

/// Keys and values of all tokens, or what a delta net made of them.
#[derive(Clone, Debug)]
pub enum LayerState {
    Kv(KvLayer),
    Delta(DeltaLayer),
}

impl LayerState {
    /// Of no tokens of at most `capacity`.
    pub fn new(shape: StateShape, capacity: usize, element: KvElement) -> LayerState {
        match shape {
            StateShape::Kv(heads, dim, window) => LayerState::Kv(KvLayer::new(heads, dim, capacity, element).looking_at(window)),
            StateShape::Latent(dim, values) => LayerState::Kv(KvLayer::latent(dim, values, capacity, element)),
            StateShape::Delta(shape) => LayerState::Delta(DeltaLayer::new(shape)),
        }
    }

    /// The largest number of tokens, up to `len`, that it can be cut back to.
    pub fn reach(&self, len: usize) -> usize {
        match self {
            LayerState::Kv(layer) => layer.reach(len),
            LayerState::Delta(layer) => layer.reach(len),
        }
    }

    /// Forgets all but the first `len` tokens, which it can be cut back to.
    pub fn truncate(&mut self, len: usize) {
        match self {
            LayerState::Kv(layer) => layer.truncate(len),
            LayerState::Delta(layer) => layer.truncate(len),
        }
    }

    /// The same for the first `len` tokens, which it can be cut back to. Both share memory until one writes to it.
    #[must_use]
    pub fn fork(&self, len: usize) -> LayerState {
        match self {
            LayerState::Kv(layer) => LayerState::Kv(layer.fork(len)),
            LayerState::Delta(layer) => LayerState::Delta(layer.fork(len)),
        }
    }

    /// Writes it.
    pub fn save(&self, to: &mut dyn Write) -> io::Result<()> {
        match self {
            LayerState::Kv(layer) => layer.save(to),
            LayerState::Delta(layer) => layer.save(to),
        }
    }

    /// Reads what [`LayerState::save`] wrote of `len` tokens.
    pub fn restore(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        match self {
            LayerState::Kv(layer) => layer.restore(len, from),
            LayerState::Delta(layer) => layer.restore(len, from),
        }
    }
}
