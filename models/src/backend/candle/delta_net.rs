//! The gated delta net token by token, as it is written in the paper.
use super::state::DeltaState;
use crate::{backend::Norm, description::DeltaNet};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{rms_norm, sigmoid, silu};

/// Added to the square of a length that is divided by.
const EPS: f64 = 1e-6;

/// A token's inputs in order, from products (tokens, rows): queries, keys and values, (tokens, channels); gates (tokens, values); betas and
/// what decays come from, (tokens, value heads).
pub fn inputs(net: &DeltaNet, products: &[Tensor]) -> Result<[Tensor; 4]> {
    if let [qkv, gate, beta, decay] = products {
        return Ok([qkv.clone(), gate.clone(), beta.clone(), decay.clone()]);
    }
    // By key head: its query, its key, the values and the gates of its value heads; their betas and their decays.
    let (shape, tokens) = (net.shape, products[0].dim(0)?);
    let each = shape.value_heads / shape.key_heads;
    let (key, values) = (shape.key_dim, each * shape.value_dim);
    let [large, small] = [0, 1].map(|i| products[i].reshape((tokens, shape.key_heads, ())));
    let (large, small) = (large?, small?);
    let part = |of: &Tensor, at: usize, len: usize| of.narrow(2, at, len)?.reshape((tokens, ()));
    let qkv = Tensor::cat(&[part(&large, 0, key)?, part(&large, key, key)?, part(&large, 2 * key, values)?], 1)?;
    Ok([qkv, part(&large, 2 * key + values, values)?, part(&small, 0, each)?, part(&small, each, each)?])
}

/// What a delta net has besides matrices.
pub struct Parts<'a> {
    /// (channels of kernel).
    pub taps: &'a Tensor,
    pub decay: &'a Tensor,
    pub time: &'a Tensor,
    pub norm: &'a Norm<Tensor>,
}

/// What the tokens of one sequence find, (tokens, values), of their own [`inputs`].
pub fn recall(state: &mut DeltaState, [qkv, gate, beta, time]: [Tensor; 4], parts: &Parts, device: &Device) -> Result<Tensor> {
    let (shape, tokens) = (state.shape, qkv.dim(0)?);
    let (heads, key_dim, value_dim) = (shape.value_heads, shape.key_dim, shape.value_dim);
    let (mut memory, last) = match state.states.last() {
        Some([memory, last]) => (memory.to_device(device)?, last.to_device(device)?),
        None => (
            Tensor::zeros((heads, key_dim, value_dim), DType::F32, device)?,
            Tensor::zeros((shape.kernel - 1, shape.channels()), DType::F32, device)?,
        ),
    };
    let all = if shape.kernel > 1 { Tensor::cat(&[&last, &qkv], 0)? } else { qkv };
    let taps = parts.taps.reshape((shape.channels(), shape.kernel))?;
    let mut mixed = Tensor::zeros((tokens, shape.channels()), DType::F32, device)?;
    for tap in 0..shape.kernel {
        mixed = (mixed + all.narrow(0, tap, tokens)?.broadcast_mul(&taps.narrow(1, tap, 1)?.t()?)?)?;
    }
    let mixed = silu(&mixed)?;
    // Of every value head, the queries and keys of the key head that it belongs to.
    let unit = |at: usize| {
        let x = mixed.narrow(1, at, shape.keys())?.reshape((tokens, shape.key_heads, 1, key_dim))?;
        let x = x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + EPS)?.sqrt()?)?;
        x.broadcast_as((tokens, shape.key_heads, heads / shape.key_heads, key_dim))?.contiguous()?.reshape((tokens, heads, key_dim))
    };
    let (q, k) = ((unit(0)? / (key_dim as f64).sqrt())?, unit(shape.keys())?);
    let v = mixed.narrow(1, 2 * shape.keys(), shape.values())?.reshape((tokens, heads, value_dim))?;
    let time = time.broadcast_add(parts.time)?;
    let time = (time.relu()? + (time.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let decay = time.broadcast_mul(&parts.decay.exp()?)?.neg()?.exp()?;
    let beta = sigmoid(&beta)?;
    let mut found = Vec::with_capacity(tokens);
    for t in 0..tokens {
        let row = |x: &Tensor| x.get(t)?.unsqueeze(1);
        let (q, k, v) = (row(&q)?, row(&k)?, row(&v)?);
        memory = memory.broadcast_mul(&row(&decay)?.unsqueeze(2)?)?;
        let change = (v - k.contiguous()?.matmul(&memory)?)?.broadcast_mul(&row(&beta)?.unsqueeze(2)?)?;
        memory = (memory + k.transpose(1, 2)?.contiguous()?.matmul(&change)?)?;
        found.push(q.contiguous()?.matmul(&memory)?.squeeze(1)?);
    }
    let found = Tensor::stack(&found, 0)?;
    let normed = rms_norm(&found, &parts.norm.weight, parts.norm.eps as f32)?.reshape((tokens, ()))?;
    let last = all.narrow(0, all.dim(0)? + 1 - shape.kernel, shape.kernel - 1)?;
    state.states.make_room(1);
    state.states.push(tokens, [memory, last]);
    normed * silu(&gate)?
}
