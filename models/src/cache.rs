//! What every layer knows of one sequence so far: keys and values of its tokens, or what was made of them.
use crate::{
    ForwardError, KvElement,
    backend::{LayerState, State, StateShape},
    description::Description,
};
use ram_kernels::{Checkpoints, DeltaLayer, KvLayer, PAGE};
use std::io::{self, Read, Write};

/// The keys and values of one sequence, and states of layers that have none.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) states: States,
    /// Tokens that it holds keys and values of.
    len: usize,
    /// Those that were asked for last.
    pub(crate) logits: Vec<f32>,
    capacity: usize,
    element: KvElement,
    /// Of the layers that it is for.
    shapes: Vec<StateShape>,
}

/// As its backend has them, of every layer.
#[derive(Debug)]
pub(crate) enum States {
    Fused(Vec<LayerState>),
    Candle(Vec<State>),
}

fn shapes(description: &Description) -> impl ExactSizeIterator<Item = StateShape> {
    description.layers.iter().map(|l| StateShape::of(&l.mixer))
}

/// How many [`KvCache::PAGE`] tokens take the memory of one state of all layers that have one, and the memory of all windows of a sequence of
/// up to `capacity` tokens.
fn pages_of_states(shapes: &[StateShape], element: KvElement, capacity: usize) -> [usize; 2] {
    let (mut page, mut state, mut windows) = (0usize, 0usize, 0usize);
    for shape in shapes {
        match shape {
            StateShape::Kv(heads, dim, None) => page = page.saturating_add(KvLayer::bytes(*heads, *dim, PAGE, element)),
            StateShape::Kv(heads, dim, Some(window)) => {
                windows = windows.saturating_add(KvLayer::window_bytes(*heads, *dim, capacity, element, *window));
            }
            StateShape::Latent(dim, _) => page = page.saturating_add(KvLayer::latent_bytes(*dim, PAGE, element)),
            StateShape::Delta(shape) => state = state.saturating_add(DeltaLayer::state_bytes(*shape)),
        }
    }
    // Without a layer that grows each is one.
    [state, windows].map(|bytes| if page > 0 { bytes.div_ceil(page) } else { bytes.min(1) })
}

/// The most of both that a sequence has.
fn most_pages([state, windows]: [usize; 2]) -> usize {
    Checkpoints::<()>::MOST * state + windows
}

impl KvCache {
    /// Tokens whose keys and values are taken and given back together.
    pub const PAGE: usize = PAGE;

    /// Room for `capacity` tokens, for the fused backend. Memory is taken as it is used.
    pub fn new(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = shapes(description).map(|shape| LayerState::new(shape, capacity, element)).collect();
        KvCache::with(States::Fused(layers), description, capacity, element)
    }

    /// The same for candle, which takes the room as it is used.
    pub(crate) fn of_candle(description: &Description, capacity: usize, element: KvElement) -> KvCache {
        let layers = shapes(description).map(|shape| State::new(shape, element)).collect();
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
        // Those of the first attention stand for all.
        fn all(shapes: impl ExactSizeIterator<Item = StateShape>) -> (usize, usize, usize) {
            let (layers, mut kv) = (shapes.len(), shapes.filter_map(StateShape::keys));
            kv.next().map_or((layers, 0, 0), |(heads, dim)| (layers, heads, dim))
        }
        Err(ForwardError::OtherModel { cache: all(self.shapes.iter().copied()), model: all(shapes(description)) })
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

    /// The most tokens, up to `len`, that it can be cut back to: not every number where layers have states, which are kept at a few places.
    pub fn reach(&self, len: usize) -> usize {
        let len = len.min(self.len);
        let least = |len| match &self.states {
            States::Fused(layers) => layers.iter().map(|layer| layer.reach(len)).min().unwrap_or(len),
            States::Candle(layers) => layers.iter().map(|layer| layer.reach(len)).min().unwrap_or(len),
        };
        // Where one layer can be cut back to, another one need not.
        let (mut reached, mut next) = (len, least(len));
        while next < reached {
            (reached, next) = (next, least(next));
        }
        reached
    }

    /// Forgets all but the first tokens: [`KvCache::reach`] of `len`, which [`KvCache::len`] says then.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.reach(len);
        let len = self.len;
        match &mut self.states {
            States::Fused(layers) => layers.iter_mut().for_each(|layer| layer.truncate(len)),
            States::Candle(layers) => layers.iter_mut().for_each(|layer| layer.truncate(len)),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Another one with the first tokens: [`KvCache::reach`] of `len`. Memory that both have in common is shared until one of them writes to it.
    #[must_use]
    pub fn fork(&self, len: usize) -> KvCache {
        let len = self.reach(len);
        let states = match &self.states {
            States::Fused(layers) => States::Fused(layers.iter().map(|layer| layer.fork(len)).collect()),
            States::Candle(layers) => States::Candle(layers.clone()),
        };
        let mut fork = KvCache { states, len, logits: Vec::new(), shapes: self.shapes.clone(), ..*self };
        fork.truncate(len);
        fork
    }

    /// One number for each [`KvCache::PAGE`] tokens that it has memory for, and as many for each state, and for its windows, as take that
    /// memory; forks that share it have the same, but for windows. candle shares nothing.
    pub fn pages(&self) -> Vec<usize> {
        match &self.states {
            // The first layer of each kind stands for all.
            States::Fused(layers) => {
                let [state, windows] = pages_of_states(&self.shapes, self.element, self.capacity);
                let all = self.shapes.iter().position(|shape| matches!(shape, StateShape::Kv(_, _, None) | StateShape::Latent(..)));
                let kv = all.and_then(|at| if let LayerState::Kv(layer) = &layers[at] { Some(layer.pages_held()) } else { None });
                let delta = layers.iter().find_map(|layer| if let LayerState::Delta(layer) = layer { Some(layer.states_held()) } else { None });
                // A state has more bytes than that, so that no two have one number.
                let states = delta.into_iter().flatten().flat_map(|at| (0..state).map(move |i| at + i));
                // What is at different places is nobody else's; where there are windows, layers take more bytes than they are pages.
                let windows = if self.len > 0 { windows } else { 0 };
                kv.into_iter().flatten().chain(states).chain((0..windows).map(|i| layers.as_ptr().addr() + i)).collect()
            }
            States::Candle(_) => (0..self.pages_of(self.len)).map(|page| std::ptr::from_ref(self).addr() + page).collect(),
        }
    }

    /// How many of those there are for `tokens` tokens at the most.
    pub fn pages_of(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE) + most_pages(pages_of_states(&self.shapes, self.element, self.capacity))
    }

    /// How many of those the states and windows of one sequence of up to `capacity` tokens are at the most.
    pub fn pages_of_states(description: &Description, capacity: usize, element: KvElement) -> usize {
        most_pages(pages_of_states(&shapes(description).collect::<Vec<_>>(), element, capacity))
    }

    /// Writes the keys and values that it holds, and its last states, as its backend has them.
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
        let read = match &mut self.states {
            States::Fused(layers) => layers.iter_mut().try_for_each(|layer| layer.restore(len, from)),
            States::Candle(layers) => layers.iter_mut().try_for_each(|layer| layer.restore(len, from)),
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
