//! A model that is ready to run: tokens in, hidden states and logits out.
use crate::{
    Cancel, ForwardError, KvCache, KvElement, TensorSpec, Weights,
    backend::{Candle, Fused, Home, Packed, Plain, Rotary, Scratch, Span, Tensors, Work, finite},
    cache::States,
    description::{Description, Mlp},
    forward_error::Fault,
    packed_linear::{PackedLinear, is_not_finite},
    parts::{self, Model},
};
use candle_core::{Device, Tensor};
use ram_kernels::{isa::Level, team};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// Bytes of what a sequence of `capacity` tokens leaves, and of them those that do not grow with it once it is long; `usize::MAX` where
    /// they are more than that counts.
    pub fn state_bytes(&self, description: &Description, capacity: usize, element: KvElement) -> [usize; 2] {
        let of =
            |description: &Description, element| [description.state_bytes(capacity, element), description.bounded_state_bytes(capacity, element)];
        match self {
            Backend::Fused => of(description, element),
            // It holds all tokens, and numbers in codes as what codes make of them.
            Backend::Candle(_) => of(&description.with_all_held(), if element == KvElement::F16 { element } else { KvElement::F32 }),
        }
    }

    /// An upper bound of the bytes that one forward pass takes at its peak in the CPU's memory, besides weights, cache and logits. n rows of
    /// logits take `8 n vocab_size` bytes while they are computed, half of that after.
    pub fn scratch_bytes(&self, description: &Description, work: Work) -> usize {
        let (needs, hidden_size) = (description.needs(), description.hidden_size);
        match self {
            Backend::Fused => Packed::pass_bytes(&needs, hidden_size, Rotary::of(description).len(), work),
            Backend::Candle(_) => Plain::pass_bytes(&needs, hidden_size, work),
        }
    }
}

/// A model that is ready to run.
#[derive(Debug)]
pub struct Transformer {
    description: Description,
    model: Built,
    rotaries: Vec<Rotary>,
    /// What passes work in: as many as there were at once.
    scratch: Mutex<Vec<Scratch>>,
    /// How many tokens took each expert until now, of one layer of experts after the other.
    taken: Mutex<Vec<u64>>,
}

/// A sequence's part of a batch: tokens that follow those in its cache.
#[derive(Debug)]
pub struct Next<'a> {
    /// At least one.
    pub tokens: &'a [u32],
    /// Has them after.
    pub cache: &'a mut KvCache,
    /// Whether logits of what follows them are wanted: [`KvCache::logits`].
    pub logits: bool,
    /// Ends the pass of the whole batch.
    pub cancel: Option<&'a Cancel>,
}

impl<'a> Next<'a> {
    /// Tokens and what follows them, which nobody cancels.
    pub fn new(tokens: &'a [u32], cache: &'a mut KvCache) -> Next<'a> {
        Next { tokens, cache, logits: true, cancel: None }
    }
}

/// Whether somebody has cancelled one of them.
fn cancelled(cancels: &[Option<&Cancel>]) -> bool {
    cancels.iter().flatten().any(|cancel| cancel.is_cancelled())
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
        Ok(Transformer { description, model, rotaries, scratch: Mutex::default(), taken: Mutex::default() })
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
        self.forward_batch(&mut [Next::new(tokens, cache)])
    }

    /// The same for several sequences at once: hidden states of the tokens of all, one sequence after the other. They do not depend on
    /// what else is in the batch.
    ///
    /// # Errors
    /// As for [`Transformer::forward`], and where it is cancelled; all caches are as they were then.
    pub fn forward_batch(&self, batch: &mut [Next]) -> Result<Tensor, ForwardError> {
        let size = self.description.hidden_size;
        self.run(batch, |tokens, spans, batch| match &self.model {
            Built::Fused(model) => self.fused(
                model,
                tokens,
                spans,
                batch,
                |pass, _| pass.finish(&model.norm),
                |scratch| Ok(Tensor::from_slice(scratch.hidden(), (tokens.len(), size), &Device::Cpu)?),
            ),
            Built::Candle(model, device) => self.candle(model, device, tokens, spans, batch),
        })
    }

    /// Logits (vocab_size) of what follows `tokens`, which follow those in `cache`; appends them to it. The same as
    /// [`Transformer::logits`] of the last row of [`Transformer::forward`], in memory that the cache keeps.
    ///
    /// # Errors
    /// As for [`Transformer::forward`].
    pub fn next_logits<'c>(&self, tokens: &[u32], cache: &'c mut KvCache) -> Result<&'c [f32], ForwardError> {
        self.advance(&mut [Next::new(tokens, cache)])?;
        Ok(cache.logits())
    }

    /// Appends the tokens of several sequences at once; the caches of those that want logits have them then.
    ///
    /// # Errors
    /// As for [`Transformer::forward_batch`].
    pub fn advance(&self, batch: &mut [Next]) -> Result<(), ForwardError> {
        self.run(batch, |tokens, spans, batch| match &self.model {
            Built::Fused(model) => self.fused(
                model,
                tokens,
                spans,
                batch,
                |pass, logits| pass.finish_last(&model.norm, (model.head(), &model.logits), logits),
                |_| Ok(()),
            ),
            Built::Candle(model, device) => {
                let hidden = self.candle(model, device, tokens, spans, batch)?;
                for (next, span) in batch.iter_mut().zip(spans).filter(|(next, _)| next.logits) {
                    next.cache.logits = self.logits(&hidden.narrow(0, span.tokens.end - 1, 1)?)?.squeeze(0)?.to_vec1()?;
                }
                Ok(())
            }
        })
    }

    /// What `compute` makes of the tokens of all, which lie in `Span`s, in caches that have them after.
    fn run<R>(&self, batch: &mut [Next], compute: impl FnOnce(&[u32], &[Span], &mut [Next]) -> Result<R, ForwardError>) -> Result<R, ForwardError> {
        let (mut tokens, mut spans) = (Vec::new(), Vec::with_capacity(batch.len()));
        for next in batch.iter() {
            self.check(next.tokens, next.cache)?;
            let first = tokens.len();
            tokens.extend_from_slice(next.tokens);
            spans.push(Span { tokens: first..tokens.len(), start: next.cache.len() });
        }
        if batch.is_empty() {
            return Err(ForwardError::NoTokens);
        }
        let done = compute(&tokens, &spans, batch);
        for next in batch {
            match done {
                Ok(_) => next.cache.advance(next.tokens.len()),
                // Some layers have the tokens already.
                Err(_) => next.cache.truncate(next.cache.len()),
            }
        }
        done
    }

    /// All layers, what `then` makes of the residual stream and of the memory for the logits of those that want them, and what `take` takes
    /// of what that left.
    fn fused<R>(
        &self,
        model: &Model<Packed>,
        tokens: &[u32],
        spans: &[Span],
        batch: &mut [Next],
        then: impl FnOnce(Fused, &mut [Option<&mut Vec<f32>>]) -> Result<(), Fault>,
        take: impl FnOnce(&Scratch) -> Result<R, ForwardError>,
    ) -> Result<R, ForwardError> {
        let (mut layers, mut logits) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        let cancels: Vec<Option<&Cancel>> = batch.iter().map(|next| next.cancel).collect();
        for next in batch {
            let KvCache { states: States::Fused(own), logits: own_logits, .. } = &mut *next.cache else { return Err(ForwardError::OtherBackend) };
            layers.push(own.as_mut_slice());
            logits.push(next.logits.then_some(own_logits));
        }
        let mut scratch = self.scratch().pop().unwrap_or_default();
        let done = team(Level::active(), |team| {
            let mut pass = Fused::new(team, &mut scratch, self.description.hidden_size, &self.rotaries, spans);
            model.stream(&mut pass, tokens, &mut layers, || cancelled(&cancels))?;
            then(pass, &mut logits).map_err(|fault| fault.within(None))
        });
        let taken = done.and_then(|()| take(&scratch));
        {
            let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let len = all.len().max(scratch.taken.len());
            all.resize(len, 0);
            all.iter_mut().zip(&scratch.taken).for_each(|(all, more)| *all += u64::from(*more));
        }
        self.scratch().push(scratch);
        taken
    }

    /// How many tokens took each expert of each layer until now; none where a layer has none. candle's passes are not counted.
    pub fn experts_taken(&self) -> Vec<Option<Vec<u64>>> {
        let all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = all.iter().copied();
        let of = |mlp: &Mlp| match mlp {
            Mlp::Dense(_) => None,
            Mlp::Sparse(mixture) => Some((0..mixture.num_experts).map(|_| rest.next().unwrap_or(0)).collect()),
        };
        self.description.layers.iter().map(|layer| &layer.mlp).map(of).collect()
    }

    /// What no pass works in now.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, Vec<Scratch>> {
        // Nothing panics while it is locked.
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hidden states after the final norm.
    fn candle(&self, model: &Model<Plain>, device: &Device, tokens: &[u32], spans: &[Span], batch: &mut [Next]) -> Result<Tensor, ForwardError> {
        let mut layers = Vec::with_capacity(batch.len());
        let cancels: Vec<Option<&Cancel>> = batch.iter().map(|next| next.cancel).collect();
        for next in batch {
            let States::Candle(own) = &mut next.cache.states else { return Err(ForwardError::OtherBackend) };
            layers.push(own.as_mut_slice());
        }
        let mut pass = Candle::new(device, &self.rotaries, spans)?;
        model.stream(&mut pass, tokens, &mut layers, || cancelled(&cancels))?;
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
        match &self.model {
            Built::Fused(model) => {
                let products = hidden
                    .apply(&PackedLinear::new(model.head().clone()))
                    .map_err(|e| if is_not_finite(&e) { ForwardError::NotFinite { what: "logits", layer: None } } else { e.into() })?;
                if model.logits.is_plain() {
                    return Ok(products);
                }
                let shape = products.dims2()?;
                let mut all = products.flatten_all()?.to_vec1::<f32>()?;
                team(Level::active(), |team| all.chunks_exact_mut(shape.1).for_each(|row| model.logits.of(team, row)));
                Ok(Tensor::from_vec(all, shape, hidden.device())?)
            }
            Built::Candle(model, _) => {
                let logits = model.logits.of(model.head().times(hidden)?)?;
                finite(&logits, "logits").map_err(|fault| fault.within(None))?;
                Ok(logits)
            }
        }
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
        if spec.shape.iter().product::<usize>() != values.len() {
            return Err(candle_core::Error::Msg(format!("{} has {} values, but must be {:?}", spec.name, values.len(), spec.shape)).into());
        }
        Ok(self.home.vector(values)?)
    }
}
