//! The same operations in candle's tensors, on any device: what is computed, as it is written in papers. The reference of the other.
mod delta_net;
mod latent;
mod state;

pub use state::State;

use super::{Glu, Home, Logits, Mixer, Mixing, MlpNorms, Mlps, Needs, Norm, Pass, Span, Tensors, Work, rotary::Rotary};
use crate::{
    description::{Attention, Clamped, Normed, Router},
    forward_error::Fault,
    packed_linear::{DECODED, PackedLinear},
    rope::Rope,
    router::route,
};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{
    ops::{rms_norm, sigmoid, silu, softmax_last_dim},
    rotary_emb::{rope, rope_i},
};
use ram_kernels::{NotFinite, Pairs};
use state::KvState;

/// Matrices packed in the CPU's memory, all else on a device.
#[derive(Debug)]
pub struct Plain(pub Device);

impl Tensors for Plain {
    type Matrix = PackedLinear;
    type Vector = Tensor;
    type Experts = Mlps<PackedLinear, Tensor>;

    fn experts(of: Self::Experts) -> Self::Experts {
        of
    }
}

impl Plain {
    /// An upper bound of the bytes that a pass takes.
    pub fn pass_bytes(needs: &Needs, hidden_size: usize, work: Work) -> usize {
        let Work { tokens, context, threads, .. } = work;
        // The stream, its norm, sums; q, k and v as they come and turned; an MLP's gate, up and what is made of them.
        let width = needs.mlps.iter().flatten().map(|mlp| mlp.width).max().unwrap_or(0);
        let each = (6 + 2 * needs.results) * hidden_size
            + 3 * needs.heads_in
            + 2 * needs.mixed
            + 8 * needs.deltas
            + 3 * needs.between
            + 4 * width
            + 2 * needs.products;
        // Scores of all heads, masked, their softmax; the mask.
        let scores = (3 * needs.heads + 2) * context;
        // Keys and values of a layer: held, joined, in f32.
        let state = 4 * needs.heads_in.saturating_sub(needs.mixed) * context;
        // Decoded, and as the product wants it; tiles in every thread.
        4 * (tokens * (each + scores) + state + 2 * DECODED.max(16 * hidden_size)) + threads * (1 << 20)
    }
}

impl Home for Plain {
    fn matrix(&self, matrix: ram_kernels::Matrix) -> PackedLinear {
        PackedLinear::new(matrix)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        let len = values.len();
        Tensor::from_vec(values, len, &self.0)
    }
}

/// A pass in tensors.
pub struct Candle<'a> {
    device: &'a Device,
    rotaries: &'a [Rotary],
    spans: &'a [Span],
    /// The residual stream, (tokens, hidden_size).
    stream: Tensor,
    /// The experts of every token and their weights.
    routes: Vec<Vec<(u32, f32)>>,
    /// (tokens, 1): the shared expert's.
    shared: Option<Tensor>,
}

impl<'a> Candle<'a> {
    /// Of the tokens of `spans`.
    pub fn new(device: &'a Device, rotaries: &'a [Rotary], spans: &'a [Span]) -> Result<Candle<'a>> {
        let stream = Tensor::zeros((0, 0), DType::F32, device)?;
        Ok(Candle { device, rotaries, spans, stream, routes: Vec::new(), shared: None })
    }

    /// The normed stream.
    pub fn finish(&self, norm: &Norm<Tensor>) -> std::result::Result<Tensor, Fault> {
        let hidden = self.normed(norm)?;
        finite(&hidden, "inputs of the head")?;
        Ok(hidden)
    }

    fn normed(&self, norm: &Norm<Tensor>) -> Result<Tensor> {
        times(&norm.of(&self.stream)?, norm.times)
    }

    /// Queries, keys and values, (heads, tokens, head_dim), and the gates of what queries find, (tokens, heads of head_dim).
    fn heads(
        &self,
        products: Vec<Tensor>,
        biases: Option<&[Tensor; 3]>,
        norms: Option<&[Norm<Tensor>; 2]>,
        shape: &Attention,
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let [cos, sin] = self.angles(&shape.rope)?;
        let (mut heads, mut gates, mut products) = (Vec::new(), None, products);
        if shape.tied_values {
            products.push(products[1].clone());
        }
        let unit = |y: Tensor, eps: f64| rms_norm(&y, &Tensor::ones(shape.head_dim, DType::F32, self.device)?, eps as f32);
        for (i, mut y) in products.into_iter().enumerate() {
            let tokens = y.dim(0)?;
            if let Some(biases) = biases {
                y = y.broadcast_add(&biases[i])?;
            }
            if let Some(most) = shape.clip {
                y = y.clamp(-most, most)?;
            }
            if shape.gated && i == 0 {
                // Behind each query lies its gate.
                let both = y.reshape((tokens, (), 2, shape.head_dim))?;
                let part = |at: usize| both.narrow(2, at, 1)?.contiguous()?.reshape((tokens, ()));
                (y, gates) = (part(0)?, Some(part(1)?));
            }
            let of = shape.qk_norm.map(|norm| norm.of);
            let normed = |y: Tensor, now: Normed| match norms.filter(|_| i < 2 && of == Some(now)) {
                Some(norms) => norms[i].of(&y),
                None => Ok(y),
            };
            y = normed(y, Normed::All)?.reshape((tokens, (), shape.head_dim))?;
            y = normed(y, Normed::Heads)?.transpose(0, 1)?.contiguous()?;
            if i < 2 {
                y = normed(turned(&y, &shape.rope, &cos, &sin)?, Normed::TurnedHeads)?;
                if let Some(eps) = shape.unit_heads {
                    y = unit(y, eps)?;
                }
            } else if let Some(eps) = shape.unit_values {
                y = unit(y, eps)?;
            }
            if let Some(temperature) = shape.temperature.filter(|_| i == 0) {
                let longer: Vec<f32> = self.positions().map(|position| temperature.at(position) as f32).collect();
                y = y.broadcast_mul(&Tensor::from_vec(longer, (1, tokens, 1), self.device)?)?;
            }
            heads.push(y);
        }
        Ok((heads, gates))
    }

    /// What the queries of one sequence find, (tokens, heads of head_dim).
    fn look_back(&self, state: &mut KvState, heads: &[Tensor], span: &Span, shape: &Attention, sinks: Option<&Tensor>) -> Result<Tensor> {
        let own = |i: usize| heads[i].narrow(1, span.tokens.start, span.tokens.len())?.contiguous();
        let (q, k, v) = (own(0)?, own(1)?, own(2)?);
        let held = state.join(&[k, v], self.device)?;
        let (k, v, kv_heads, seen) = (&held[0], &held[1], shape.num_key_value_heads, state.len);
        let (heads, tokens, dim) = q.dims3()?;
        // Queries of one group lie behind each other.
        let q = q.reshape((kv_heads, heads / kv_heads * tokens, dim))?;
        let scores = (q.matmul(&k.t()?)? * shape.scale.unwrap_or(1.0 / (dim as f64).sqrt()))?;
        let mask = self.mask(span, seen, [shape.window, shape.chunk].map(|tokens| tokens.unwrap_or(usize::MAX)))?;
        let mut scores = scores.reshape((heads, tokens, seen))?.broadcast_add(&mask)?;
        if let Some(sinks) = sinks {
            // One more that all see.
            scores = Tensor::cat(&[scores, sinks.reshape((heads, 1, 1))?.broadcast_as((heads, tokens, 1))?.contiguous()?], 2)?;
        }
        let weights = softmax_last_dim(&scores)?.narrow(2, 0, seen)?.contiguous()?;
        let out = weights.reshape((kv_heads, (), seen))?.matmul(v)?;
        out.reshape((heads, tokens, dim))?.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * dim))
    }

    /// What keeps a sequence's tokens from what they do not see of `seen`, (tokens, seen).
    fn mask(&self, span: &Span, seen: usize, [window, chunk]: [usize; 2]) -> Result<Tensor> {
        let hidden = |t: usize, s: usize| {
            let own = span.start + t;
            if s > own || own - s >= window || s < own / chunk * chunk { f32::NEG_INFINITY } else { 0.0 }
        };
        let mask: Vec<f32> = (0..span.tokens.len()).flat_map(|t| (0..seen).map(move |s| hidden(t, s))).collect();
        Tensor::from_vec(mask, (span.tokens.len(), seen), self.device)
    }

    /// Those of all tokens in their sequences.
    fn positions(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().flat_map(|span| (span.start..).take(span.tokens.len()))
    }

    /// Cosines and sines (tokens, pairs) of the tokens' positions.
    fn angles(&self, turned: &Rope) -> Result<[Tensor; 2]> {
        let (tokens, dim) = (self.stream.dim(0)?, turned.dim);
        let (half, mut all) = (dim / 2, vec![0.0; tokens * dim]);
        if let Some(rotary) = self.rotaries.iter().find(|r| r.is(turned)) {
            all.chunks_exact_mut(dim.max(1)).zip(self.positions()).for_each(|(out, position)| rotary.angles(position, out));
        }
        let all = Tensor::from_vec(all, (tokens, 2, half), self.device)?;
        Ok([all.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?, all.narrow(1, 1, 1)?.squeeze(1)?.contiguous()?])
    }
}

impl Norm<Tensor> {
    /// Of rows.
    fn of(&self, rows: &Tensor) -> Result<Tensor> {
        let mut rows = rows.clone();
        if self.centred {
            rows = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
        }
        let y = rms_norm(&rows, &self.weight, self.eps as f32)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Logits<Tensor> {
    /// Of products, (tokens, vocab_size).
    pub fn of(&self, products: Tensor) -> Result<Tensor> {
        let products = match &self.bias {
            Some(bias) => products.broadcast_add(bias)?,
            None => products,
        };
        match self.cap {
            Some(cap) => (products / f64::from(cap))?.tanh()? * f64::from(cap),
            None => Ok(products),
        }
    }
}

/// Heads (heads, tokens, head_dim) whose first numbers are turned.
fn turned(y: &Tensor, by: &Rope, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (dim, all) = (by.dim, y.dim(2)?);
    if dim == 0 {
        return Ok(y.clone());
    }
    let first = y.narrow(2, 0, dim)?.contiguous()?.unsqueeze(0)?;
    let first = match by.pairs {
        Pairs::Halves => rope(&first, cos, sin)?,
        Pairs::Neighbours => rope_i(&first, cos, sin)?,
    };
    let first = first.squeeze(0)?;
    if dim == all { Ok(first) } else { Tensor::cat(&[&first, &y.narrow(2, dim, all - dim)?], 2)?.contiguous() }
}

fn times(x: &Tensor, by: f32) -> Result<Tensor> {
    if by == 1.0 { Ok(x.clone()) } else { x * f64::from(by) }
}

/// `down (f(gate x) * (up x))` of one MLP, or what it has instead.
fn gated(of: &Mlps<PackedLinear, Tensor>, i: usize, x: &Tensor) -> Result<Tensor> {
    let [gate, up, down] = &of.each[i];
    let [gate, up] = [gate.times(x)?, up.times(x)?];
    match &of.glu {
        Glu::Silu => down.times(&(silu(&gate)? * up)?),
        Glu::Gelu => down.times(&(gate.gelu()? * up)?),
        Glu::Clamped(Clamped { limit, alpha }, biases) => {
            let (gate, up) = (gate.broadcast_add(&biases[i][0])?, up.broadcast_add(&biases[i][1])?);
            let (gate, up) = (gate.minimum(*limit)?, up.clamp(-*limit, *limit)?);
            let gated = ((up + 1.0)? * (&gate * sigmoid(&(&gate * *alpha)?)?)?)?;
            down.times(&gated)?.broadcast_add(&biases[i][2])
        }
    }
}

/// What results are before they are added.
fn after(norm: Option<&Norm<Tensor>>, results: Tensor) -> Result<Tensor> {
    norm.map_or(Ok(results.clone()), |norm| norm.of(&results))
}

/// 0 times an infinity or a NaN is a NaN, and so is a sum with one.
pub fn finite(x: &Tensor, what: &'static str) -> std::result::Result<(), Fault> {
    let sum = x.to_dtype(DType::F32)?.affine(0.0, 0.0)?.sum_all()?.to_scalar::<f32>()?;
    if sum == 0.0 { Ok(()) } else { Err(NotFinite(what).into()) }
}

impl Pass for Candle<'_> {
    type Tensors = Plain;
    type State = State;

    fn embed(&mut self, table: &PackedLinear, tokens: &[u32], by: f32) -> std::result::Result<(), Fault> {
        self.stream = times(&table.rows(&Tensor::new(tokens, self.device)?)?, by)?;
        Ok(())
    }

    fn mix(&mut self, mixer: &Mixer<PackedLinear, Tensor>, states: &mut [&mut State]) -> std::result::Result<(), Fault> {
        let x = self.normed(&mixer.norm)?;
        let products = mixer.inputs.iter().map(|matrix| matrix.times(&x)).collect::<Result<Vec<_>>>()?;
        let each = states.iter_mut().zip(self.spans);
        let found = match &mixer.of {
            Mixing::Attention { shape, biases, norms, sinks } => {
                let (heads, gates) = self.heads(products, biases.as_ref(), norms.as_ref(), shape)?;
                finite(&heads[1], "keys or values")?;
                finite(&heads[2], "keys or values")?;
                let each = each.filter_map(|(state, span)| match &mut **state {
                    State::Kv(state) => Some(self.look_back(state, &heads, span, shape, sinks.as_ref())),
                    State::Delta(_) => None,
                });
                let found = Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?;
                if let Some(gates) = gates { (found * sigmoid(&gates)?)? } else { found }
            }
            Mixing::Latent { shape, query, latent } => {
                let parts = self.latents(products, &mixer.inner, shape, (query.as_ref(), latent))?;
                finite(&parts.kept, "keys or values")?;
                let each = each.filter_map(|(state, span)| match &mut **state {
                    State::Kv(state) => Some(self.look_at_latents(state, &parts, span, shape)),
                    State::Delta(_) => None,
                });
                Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?
            }
            Mixing::DeltaNet { shape, taps, decay, time, norm } => {
                let inputs = delta_net::inputs(shape, &products)?;
                inputs.iter().try_for_each(|part| finite(part, "inputs of the delta net"))?;
                let parts = delta_net::Parts { taps, decay, time, norm };
                let each = each.filter_map(|(state, span)| match &mut **state {
                    State::Delta(state) => Some((state, span)),
                    State::Kv(_) => None,
                });
                let each = each.map(|(state, span)| {
                    let own = |part: &Tensor| part.narrow(0, span.tokens.start, span.tokens.len());
                    let [qkv, gate, beta, time] = &inputs;
                    delta_net::recall(state, [own(qkv)?, own(gate)?, own(beta)?, own(time)?], &parts, self.device)
                });
                Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?
            }
        };
        let mut y = mixer.output.times(&found)?;
        if let Some(bias) = &mixer.bias {
            y = y.broadcast_add(bias)?;
        }
        self.stream = (&self.stream + after(mixer.after.as_ref(), times(&y, mixer.times)?)?)?;
        Ok(())
    }

    fn route(
        &mut self,
        norm: &Norm<Tensor>,
        routers: &[PackedLinear],
        more: [Option<&Tensor>; 3],
        router: &Router,
    ) -> std::result::Result<(), Fault> {
        let x = self.normed(norm)?;
        let mut logits = routers[0].times(&x)?;
        if let Some(bias) = more[0] {
            logits = logits.broadcast_add(bias)?;
        }
        finite(&logits, "logits of the router")?;
        let [correction, scales] = [more[1], more[2]].map(|values| values.map(|v| v.flatten_all()?.to_vec1::<f32>()).transpose());
        let (correction, scales) = (correction?, scales?);
        let chosen = logits.to_vec2::<f32>()?.into_iter().map(|mut logits| {
            let mut routes = vec![(0, 0.0); router.num_experts_per_tok];
            route(router, &mut logits, [correction.as_deref(), scales.as_deref()], &mut routes);
            routes
        });
        self.routes = chosen.collect();
        self.shared = None;
        if let Some(row) = routers.get(1) {
            let logits = row.times(&x)?;
            finite(&logits, "logits of the router")?;
            self.shared = Some(sigmoid(&logits)?);
        }
        Ok(())
    }

    fn add_experts(
        &mut self,
        norms: &MlpNorms<Tensor>,
        experts: &Mlps<PackedLinear, Tensor>,
        shared: Option<&Mlps<PackedLinear, Tensor>>,
    ) -> std::result::Result<(), Fault> {
        let apart = norms.apart.as_ref();
        let x = self.normed(apart.map_or(&norms.before, |apart| &apart.routed))?;
        let mut sum = x.zeros_like()?;
        for e in 0..experts.each.len() as u32 {
            let own = self.routes.iter().zip(0u32..).filter_map(|(routes, t)| routes.iter().find(|(to, _)| *to == e).map(|(_, weight)| (t, *weight)));
            let (tokens, weights): (Vec<u32>, Vec<f32>) = own.unzip();
            if tokens.is_empty() {
                continue;
            }
            let weights = Tensor::from_vec(weights, (tokens.len(), 1), self.device)?;
            let tokens = Tensor::new(tokens, self.device)?;
            let own = x.index_select(&tokens, 0)?;
            let y = if experts.weigh_inputs {
                gated(experts, e as usize, &own.broadcast_mul(&weights)?)?
            } else {
                gated(experts, e as usize, &own)?.broadcast_mul(&weights)?
            };
            sum = sum.index_add(&tokens, &y, 0)?;
        }
        sum = after(apart.map(|apart| &apart.after[0]), sum)?;
        if let Some(shared) = shared {
            let x = if apart.is_some() { self.normed(&norms.before)? } else { x };
            let y = gated(shared, 0, &x)?;
            let y = self.shared.as_ref().map_or_else(|| Ok(y.clone()), |weights| y.broadcast_mul(weights))?;
            sum = (sum + after(apart.map(|apart| &apart.after[1]), y)?)?;
        }
        self.stream = (&self.stream + after(norms.after.as_ref(), sum)?)?;
        Ok(())
    }

    fn add_mlp(&mut self, norms: &MlpNorms<Tensor>, mlp: &Mlps<PackedLinear, Tensor>) -> std::result::Result<(), Fault> {
        let y = gated(mlp, 0, &self.normed(&norms.before)?)?;
        self.stream = (&self.stream + after(norms.after.as_ref(), y)?)?;
        Ok(())
    }

    fn scale(&mut self, by: &Tensor) -> std::result::Result<(), Fault> {
        self.stream = self.stream.broadcast_mul(by)?;
        Ok(())
    }
}
