//! What a layer knows of a sequence, in tensors.
use crate::backend::StateShape;
use candle_core::{DType, Device, Result, Tensor};
use ram_kernels::{Checkpoints, DeltaShape, KvElement, centre};
use std::io::{self, Read, Write};

/// Keys and values of all tokens, or what a delta net made of them.
#[derive(Clone, Debug)]
pub enum State {
    Kv(KvState),
    Delta(DeltaState),
}

/// Keys and values (kv_heads, tokens, head_dim) of a layer, or latents (1, tokens, kept), as the cache holds them.
#[derive(Clone, Debug)]
pub struct KvState {
    pub held: Vec<Tensor>,
    /// Those of them that count.
    pub len: usize,
    shape: (usize, usize),
    latent: bool,
    pub element: KvElement,
}

/// Memories (value_heads, key_dim, value_dim) of a layer and the last inputs of its convolution (tokens, channels).
#[derive(Clone, Debug)]
pub struct DeltaState {
    pub shape: DeltaShape,
    pub states: Checkpoints<[Tensor; 2]>,
}

impl State {
    /// Of no tokens.
    pub fn new(shape: StateShape, element: KvElement) -> State {
        match shape {
            StateShape::Kv(heads, dim, _) => State::Kv(KvState { held: Vec::new(), len: 0, shape: (heads, dim), latent: false, element }),
            StateShape::Latent(dim, _) => State::Kv(KvState { held: Vec::new(), len: 0, shape: (1, dim), latent: true, element }),
            StateShape::Delta(shape) => State::Delta(DeltaState { shape, states: Checkpoints::default() }),
        }
    }

    /// The largest number of tokens, up to `len`, that it can be cut back to.
    pub fn reach(&self, len: usize) -> usize {
        match self {
            State::Kv(_) => len,
            State::Delta(state) => state.states.reach(len),
        }
    }

    /// Forgets all but the first `len` tokens, which it can be cut back to.
    pub fn truncate(&mut self, len: usize) {
        match self {
            State::Kv(state) => state.len = state.len.min(len),
            State::Delta(state) => state.states.truncate(len),
        }
    }

    /// Writes keys, then values, or a state, as f32.
    pub fn save(&self, to: &mut dyn Write) -> io::Result<()> {
        let (held, len) = match self {
            State::Kv(state) => (state.held.as_slice(), Some(state.len)),
            State::Delta(state) => (state.states.last().map_or(&[][..], |state| state), None),
        };
        let numbers = |held: &Tensor| {
            let own = if let Some(len) = len { held.narrow(1, 0, len)? } else { held.clone() };
            own.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
        };
        for held in held {
            numbers(held).map_err(io::Error::other)?.iter().try_for_each(|v| to.write_all(&v.to_le_bytes()))?;
        }
        Ok(())
    }

    /// Reads what [`State::save`] wrote of `len` tokens.
    pub fn restore(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.truncate(0);
        if len == 0 {
            return Ok(());
        }
        match self {
            State::Kv(KvState { held, len: own, shape: (heads, dim), latent, element }) => {
                let (shape, dtype) = ([*heads, len, *dim], if *element == KvElement::F16 { DType::F16 } else { DType::F32 });
                let parts = if *latent { 1 } else { 2 };
                (*held, *own) = ((0..parts).map(|_| read(from, &shape, dtype)).collect::<io::Result<_>>()?, len);
            }
            State::Delta(DeltaState { shape, states }) => {
                let memory = read(from, &[shape.value_heads, shape.key_dim, shape.value_dim], DType::F32)?;
                states.push(len, [memory, read(from, &[shape.kernel - 1, shape.channels()], DType::F32)?]);
            }
        }
        Ok(())
    }
}

/// Numbers of a tensor.
fn read(from: &mut dyn Read, shape: &[usize], dtype: DType) -> io::Result<Tensor> {
    let mut bytes = vec![0; 4 * shape.iter().product::<usize>()];
    from.read_exact(&mut bytes)?;
    let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if numbers.iter().any(|v| !v.is_finite()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "has keys or values that are no numbers"));
    }
    let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu);
    tensor.and_then(|t| t.to_dtype(dtype)).map_err(io::Error::other)
}

impl KvState {
    /// What the cache holds once `new` (kv_heads, tokens, head_dim) have joined it, keys and values or latents: in its numbers.
    pub fn join(&mut self, new: &[Tensor], device: &Device) -> Result<Vec<Tensor>> {
        // Numbers that are held in codes are held as what codes make of them.
        let store = |x: &Tensor| match self.element {
            // The largest half for what is larger.
            KvElement::F16 => x.clamp(-65504.0, 65504.0)?.to_dtype(DType::F16),
            _ => Ok(x.clone()),
        };
        let each = new.iter().enumerate().map(|(i, new)| {
            let new = store(new)?;
            let joined = match self.held.get(i).filter(|_| self.len > 0) {
                Some(held) => Tensor::cat(&[&held.narrow(1, 0, self.len)?.to_device(device)?, &new], 1)?,
                None => new,
            };
            self.hold(&joined, i == 0)
        });
        self.held = each.collect::<Result<_>>()?;
        self.len = self.held[0].dim(1)?;
        self.held.iter().map(|held| held.to_dtype(DType::F32)).collect()
    }

    /// Keys or values (kv_heads, tokens, head_dim), of which the first are held already, with the others as codes make them.
    fn hold(&self, x: &Tensor, keys: bool) -> Result<Tensor> {
        let (element, (_, tokens, dim)) = (self.element, x.dims3()?);
        if matches!(element, KvElement::F32 | KvElement::F16) {
            return Ok(x.clone());
        }
        let mut all = x.flatten_all()?.to_vec1::<f32>()?;
        for own in all.chunks_exact_mut(tokens * dim) {
            let mut less = Vec::new();
            for t in self.len..tokens {
                let element = element.at(t);
                if keys && less.is_empty() && element != element.at(0) {
                    less = centre(dim, |t, i| own[t * dim + i]);
                }
                // Latents are rotated with zeros behind them, up to a multiple of 64.
                let mut head = own[t * dim..][..dim].to_vec();
                head.resize(if self.latent { dim.next_multiple_of(64) } else { dim }, 0.0);
                element.held(&mut head, &less);
                own[t * dim..][..dim].copy_from_slice(&head[..dim]);
            }
        }
        Tensor::from_vec(all, x.shape(), x.device())
    }
}
