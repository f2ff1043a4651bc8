//! A model that is ready to run: tokens in, hidden states and logits out.
use crate::{
    ForwardError, KvCache, KvElement, TensorSpec,
    backend::{Candle, Fused, Home, Packed, Plain, Rotary, Scratch, State, Tensors},
    cache::States,
    description::Description,
    forward_error::Fault,
    packed_linear::{PackedLinear, is_not_finite},
    parts::{self, Model},
};
use candle_core::{Device, Tensor};
use ram_kernels::{Matrix, isa::Level, team};

/// Where a model's tensors come from.
pub trait Weights {
    /// What can go wrong.
    type Error;

    /// The matrix of a spec whose kind is one.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Self::Error>;

    /// The values of a norm or bias.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;
}

/// What computes.
#[derive(Clone, Debug, Default)]
pub enum Backend {
    /// ram-kernels on all processors: a few parallel regions per layer, inputs of products rounded to 8 bits where their matrix is packed.
    #[default]
    Fused,
    /// candle on a device, operation by operation, nothing rounded: to compare with, and where there is no fused backend.
    Candle(Device),
}

impl Backend {
    /// An upper bound of the bytes that one [`Transformer::forward`] of `tokens` tokens, in a context of `context`, by `threads` threads
    /// holds at its peak in the CPU's memory, besides weights, cache and logits. n rows of logits take `8 n vocab_size` bytes while they
    /// are computed, half of that after.
    pub fn scratch_bytes(&self, description: &Description, tokens: usize, context: usize, threads: usize) -> usize {
        let (needs, hidden_size) = (description.needs(), description.hidden_size);
        match self {
            Backend::Fused => needs.scratch_bytes(hidden_size, tokens, threads),
            Backend::Candle(_) => Plain::scratch_bytes(&needs, hidden_size, tokens, context, threads),
        }
    }
}

/// A model that is ready to run.
#[derive(Debug)]
pub struct Transformer {
    description: Description,
    model: Built,
    rotaries: Vec<Rotary>,
}

#[derive(Debug)]
enum Built {
    Fused(Model<Packed>),
    Candle(Model<Plain>, Device),
}

impl Transformer {
    /// Asks `weights` for every tensor of [`Description::tensors`], each once.
    ///
    /// # Errors
    /// Those of `weights`, and candle's where a tensor does not have the shape of its spec.
    pub fn new<W: Weights>(description: Description, weights: &W, backend: &Backend) -> Result<Transformer, W::Error>
    where
        W::Error: From<candle_core::Error>,
    {
        let model = match backend {
            Backend::Fused => Built::Fused(Model::build(&description, &mut Shaped { weights, home: Packed })?),
            Backend::Candle(device) => {
                Built::Candle(Model::build(&description, &mut Shaped { weights, home: Plain(device.clone()) })?, device.clone())
            }
        };
        let rotaries = Rotary::of(&description);
        Ok(Transformer { description, model, rotaries })
    }

    /// What the model is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// An empty cache for `capacity` tokens.
    pub fn cache(&self, capacity: usize, element: KvElement) -> KvCache {
        match self.model {
            Built::Fused(_) => KvCache::new(&self.description, capacity, element),
            Built::Candle(..) => KvCache::of_candle(&self.description, capacity, element),
        }
    }

    /// Hidden states after the final norm, (tokens, hidden_size) f32, of tokens that follow those in `cache`; appends them to it.
    ///
    /// # Errors
    /// Where there are no tokens, the cache has no room for them or is another model's, a token is not in the vocabulary, or a NaN or an
    /// infinity comes up; the cache is as it was then.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor, ForwardError> {
        self.run(tokens, cache, |cache| match (&self.model, &mut cache.states) {
            (Built::Fused(model), States::Fused { layers, scratch }) => {
                self.fused(model, tokens, cache.tokens.len(), layers, scratch, |pass| pass.finish(&model.norm))?;
                Ok(Tensor::from_slice(scratch.hidden(), (tokens.len(), self.description.hidden_size), &Device::Cpu)?)
            }
            (Built::Candle(model, device), States::Candle { layers, .. }) => self.candle(model, device, tokens, cache.tokens.len(), layers),
            _ => Err(ForwardError::OtherBackend),
        })
    }

    /// Logits (vocab_size) of what follows `tokens`, which follow those in `cache`; appends them to it. The same as
    /// [`Transformer::logits`] of the last row of [`Transformer::forward`], in memory that the cache keeps.
    ///
    /// # Errors
    /// As for [`Transformer::forward`].
    pub fn next_logits<'c>(&self, tokens: &[u32], cache: &'c mut KvCache) -> Result<&'c [f32], ForwardError> {
        self.run(tokens, cache, |cache| match (&self.model, &mut cache.states) {
            (Built::Fused(model), States::Fused { layers, scratch }) => {
                self.fused(model, tokens, cache.tokens.len(), layers, scratch, |pass| pass.finish_last(&model.norm, model.head()))
            }
            (Built::Candle(model, device), States::Candle { layers, logits }) => {
                let hidden = self.candle(model, device, tokens, cache.tokens.len(), layers)?;
                *logits = self.logits(&hidden.narrow(0, tokens.len() - 1, 1)?)?.squeeze(0)?.to_vec1()?;
                Ok(())
            }
            _ => Err(ForwardError::OtherBackend),
        })?;
        Ok(match &cache.states {
            States::Fused { scratch, .. } => scratch.logits(self.description.vocab_size),
            States::Candle { logits, .. } => logits,
        })
    }

    /// What `compute` makes of tokens that are in order, in a cache that has them after.
    fn run<R>(&self, tokens: &[u32], cache: &mut KvCache, compute: impl FnOnce(&mut KvCache) -> Result<R, ForwardError>) -> Result<R, ForwardError> {
        self.check(tokens, cache)?;
        let done = compute(cache);
        match done {
            Ok(_) => cache.advance(tokens),
            // Some layers have the tokens already.
            Err(_) => cache.truncate(cache.len()),
        }
        done
    }

    /// All layers, and what `then` makes of the residual stream, in `scratch`.
    fn fused(
        &self,
        model: &Model<Packed>,
        tokens: &[u32],
        start: usize,
        layers: &mut [ram_kernels::Attention],
        scratch: &mut Scratch,
        then: impl FnOnce(Fused) -> Result<(), Fault>,
    ) -> Result<(), ForwardError> {
        team(Level::active(), |team| {
            let mut pass = Fused::new(team, scratch, self.description.hidden_size, &self.rotaries, start, tokens.len());
            model.stream(&mut pass, tokens, layers)?;
            then(pass).map_err(|fault| fault.within(None))
        })
    }

    /// Hidden states after the final norm.
    fn candle(&self, model: &Model<Plain>, device: &Device, tokens: &[u32], start: usize, layers: &mut [State]) -> Result<Tensor, ForwardError> {
        let mut pass = Candle::new(device, &self.rotaries, start)?;
        model.stream(&mut pass, tokens, layers)?;
        pass.finish(&model.norm).map_err(|fault| fault.within(None))
    }

    fn check(&self, tokens: &[u32], cache: &KvCache) -> Result<(), ForwardError> {
        let (start, capacity, vocab_size) = (cache.len(), cache.capacity(), self.description.vocab_size);
        cache.belongs_to(&self.description)?;
        if tokens.is_empty() {
            return Err(ForwardError::NoTokens);
        }
        if tokens.len() > capacity - start {
            return Err(ForwardError::Full { tokens: tokens.len(), start, capacity });
        }
        match tokens.iter().find(|t| **t as usize >= vocab_size) {
            Some(&token) => Err(ForwardError::Vocabulary { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// Logits (tokens, vocab_size) of hidden states (tokens, hidden_size).
    ///
    /// # Errors
    /// Where the shape is another, or a logit is not finite.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ForwardError> {
        let done = match &self.model {
            Built::Fused(model) => hidden.apply(&PackedLinear::new(model.head().clone())),
            Built::Candle(model, _) => model.head().times(hidden),
        };
        done.map_err(|e| if is_not_finite(&e) { ForwardError::NotFinite { what: "logits", layer: None } } else { e.into() })
    }
}

/// Weights in the shapes of their specs.
struct Shaped<'a, W, H> {
    weights: &'a W,
    home: H,
}

impl<W: Weights, H: Home> parts::Supply for Shaped<'_, W, H>
where
    W::Error: From<candle_core::Error>,
{
    type Tensors = H;
    type Error = W::Error;

    fn matrix(&mut self, spec: TensorSpec) -> Result<<H as Tensors>::Matrix, W::Error> {
        let m = self.weights.matrix(&spec)?;
        if spec.shape != [m.rows(), m.cols()] {
            return Err(candle_core::Error::Msg(format!("{} is {} x {}, but must be {:?}", spec.name, m.rows(), m.cols(), spec.shape)).into());
        }
        Ok(self.home.matrix(m))
    }

    fn vector(&mut self, spec: TensorSpec) -> Result<<H as Tensors>::Vector, W::Error> {
        let values = self.weights.vector(&spec)?;
        if spec.shape != [values.len()] {
            return Err(candle_core::Error::Msg(format!("{} has {} values, but must be {:?}", spec.name, values.len(), spec.shape)).into());
        }
        Ok(self.home.vector(values)?)
    }
}
