//! Operations of ram-kernels by a team of threads, each of a few parallel regions over all tokens.
mod delta_net;
mod latent;
mod mlps;
mod noise;
mod refine;
mod state;
mod survey;

pub use noise::Lens;
pub use refine::{Coder, Refining, TOKENS};
pub use state::LayerState;
pub use survey::{Channels, Cost, Observer, Survey, Unread};

use super::{Ending, Glu, Home, Logits, Mixer, Mixing, MlpNorms, Mlps, Norm, Pass, Span, Tensors, rotary::Rotary};
use crate::{
    KvElement,
    description::{Attention, Clamped, Normed, Router},
    forward_error::Fault,
    router::route,
};
use mlps::Routes;
use ram_kernels::{
    ClampedGlu, Experts, Heads, Inputs, KvLayer, Look, Matrix, Mixture, NormedRow, NotFinite, PANEL_BYTES, Product, Products, RowNorm, Same, Taken,
    Team, Turn, Watch, add_tiles, attend, attend_numbers, bound, embed, finite, gate_heads, isa::Level, resize,
};

/// Tensors in the CPU's memory, packed.
#[derive(Debug)]
pub struct Packed;

impl Tensors for Packed {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Experts = Experts;

    fn experts(Mlps { each, glu, weigh_inputs }: Mlps<Matrix, Vec<f32>>) -> Experts {
        let glu = match glu {
            Glu::Silu => ram_kernels::Glu::Silu,
            Glu::Gelu => ram_kernels::Glu::Gelu,
            Glu::Clamped(Clamped { limit, alpha }, biases) => {
                ram_kernels::Glu::Clamped(ClampedGlu { limit: limit as f32, alpha: alpha as f32, biases })
            }
        };
        let mut experts = Experts { gate: Vec::new(), up: Vec::new(), down: Vec::new(), glu, weigh_inputs };
        for [gate, up, down] in each {
            experts.gate.push(gate);
            experts.up.push(up);
            experts.down.push(down);
        }
        experts
    }

    /// (kernel, channels).
    fn taps(of: Vec<f32>, kernel: usize) -> Vec<f32> {
        (0..kernel).flat_map(|tap| of.iter().skip(tap).step_by(kernel).copied()).collect()
    }
}

impl Home for Packed {
    fn matrix(&self, matrix: Matrix) -> Matrix {
        matrix
    }

    fn vector(&self, values: Vec<f32>) -> candle_core::Result<Vec<f32>> {
        Ok(values)
    }
}

/// What a pass works in, used again by the next one.
#[derive(Debug, Default)]
pub struct Scratch {
    /// 0, 1, 2, ...
    tokens: Vec<u32>,
    /// Those of all tokens in their sequences.
    positions: Vec<usize>,
    /// The last tokens of all sequences.
    last: Vec<u32>,
    /// The residual stream, (tokens, hidden_size).
    hidden: Vec<f32>,
    /// Of each kind of rotary positions cosines and sines, (tokens, 2, head_dim / 2).
    angles: Vec<Vec<f32>>,
    inputs: Inputs,
    products: Products,
    /// Of every token what its mixer takes: queries, keys and values, or what a delta net has.
    heads: Vec<f32>,
    /// What a mixer works in.
    work: Vec<f32>,
    /// Of every token what an attention over latents has on its way.
    between: Vec<f32>,
    /// By head the rows of all tokens, where each head of a token has a row.
    rows: Vec<u32>,
    /// Of every token what a mixer's output takes.
    mixed: Vec<f32>,
    /// (tokens, num_experts).
    logits: Vec<f32>,
    routes: Vec<(u32, f32)>,
    shared_routes: Vec<(u32, f32)>,
    mixture: Mixture,
    /// Results that are normalised before they are added, (tokens, hidden_size) each.
    results: [Vec<f32>; 2],
    /// How many tokens took each expert, of one layer of experts after the other.
    pub taken: Vec<u32>,
}

/// What a pass needs, in numbers per token: the most that any part does.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Inputs of products outside the experts.
    pub inputs: usize,
    /// Rows of inputs that a token has where each of its heads has one, and their length.
    pub head_inputs: [usize; 2],
    /// Rows of products outside the experts.
    pub products: usize,
    /// What a mixer takes: queries, keys and values together.
    pub heads_in: usize,
    /// What its output takes.
    pub mixed: usize,
    /// What a delta net works in.
    pub deltas: usize,
    /// What an attention over latents has on its way, and rows by head.
    pub between: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Numbers of a value, and those that are summed for one.
    pub values: [usize; 2],
    /// Numbers of a head that are turned.
    pub turned: usize,
    /// Results that are normalised before they are added, at once.
    pub results: usize,
    /// Experts to choose from, and how many a token takes.
    pub experts: usize,
    pub taken: usize,
    /// MLPs of the layers that differ in them: those that are chosen from and the shared one, or the one that every token takes.
    pub mlps: Vec<Vec<Taken>>,
}

/// How much is computed at once.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Tokens of a forward pass.
    pub tokens: usize,
    /// Sequences that they are of, at the most.
    pub sequences: usize,
    /// Tokens that a sequence may have.
    pub context: usize,
    /// Threads that there are.
    pub threads: usize,
    /// Whether there are matrices with an order of their inputs.
    pub ordered: bool,
}

impl Needs {
    /// What both need.
    pub fn most(mut self, other: Needs) -> Needs {
        self.mlps.extend(other.mlps.into_iter().filter(|mlp| !self.mlps.contains(mlp)).collect::<Vec<_>>());
        Needs {
            inputs: self.inputs.max(other.inputs),
            head_inputs: [0, 1].map(|i| self.head_inputs[i].max(other.head_inputs[i])),
            products: self.products.max(other.products),
            heads_in: self.heads_in.max(other.heads_in),
            mixed: self.mixed.max(other.mixed),
            deltas: self.deltas.max(other.deltas),
            between: self.between.max(other.between),
            heads: self.heads.max(other.heads),
            values: [0, 1].map(|i| self.values[i].max(other.values[i])),
            turned: self.turned.max(other.turned),
            results: self.results.max(other.results),
            experts: self.experts.max(other.experts),
            taken: self.taken.max(other.taken),
            mlps: self.mlps,
        }
    }
}

impl Scratch {
    /// Bytes that it has taken.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let numbers =
            [&self.hidden, &self.heads, &self.work, &self.between, &self.mixed, &self.logits, &self.results[0], &self.results[1]].map(Vec::capacity);
        let routes = size_of::<(u32, f32)>() * (self.routes.capacity() + self.shared_routes.capacity());
        let places = size_of::<u32>() * (self.tokens.capacity() + self.last.capacity() + self.rows.capacity())
            + size_of::<usize>() * self.positions.capacity();
        let angles = self.angles.iter().map(Vec::capacity).sum::<usize>();
        let floats = size_of::<f32>() * (numbers.iter().sum::<usize>() + angles);
        floats + routes + places + self.inputs.bytes() + self.products.bytes() + self.mixture.bytes()
    }

    /// The most that it takes where parts need so much, besides the logits of what comes next: n rows of them take `4 n vocab_size` bytes
    /// more while they are computed.
    pub fn most_bytes(needs: &Needs, hidden_size: usize, rotaries: usize, work: Work) -> usize {
        let Work { tokens, sequences, context, ordered, .. } = work;
        // Lists that grow may be twice as long as they were.
        let places = 2 * tokens * (2 * size_of::<u32>() + size_of::<usize>());
        let angles = rotaries * needs.turned;
        let floats = tokens * ((1 + needs.results) * hidden_size + angles + needs.heads_in + needs.mixed + needs.between + needs.experts)
            + attend_numbers(needs.heads, needs.values, tokens, sequences, context).max(tokens * needs.deltas);
        let routes = tokens * size_of::<(u32, f32)>() * (needs.taken.max(1) + 1);
        // What a mixer takes may have an order for each matrix, of which there are four at the most.
        let (orders, rows) = if ordered { (4, 4 * tokens) } else { (0, 0) };
        let [each, len] = needs.head_inputs;
        let inputs = Inputs::most_bytes(tokens, needs.inputs, orders, rows).max(Inputs::most_bytes(tokens * each, len, 0, 0));
        // Of four products each may end within a tile.
        let products = Products::most_bytes(tokens, needs.products + 64);
        places + size_of::<f32>() * floats + routes + inputs + products + Mixture::most_bytes(tokens, hidden_size, &needs.mlps, ordered)
    }
}

impl Packed {
    /// An upper bound of the bytes that a pass takes: its scratch, what threads keep for products with many tokens or for a row of the
    /// embedding, hidden states that are handed out, and what does not grow with the tokens.
    pub fn pass_bytes(needs: &Needs, hidden_size: usize, rotaries: usize, work: Work) -> usize {
        let threads = work.threads * PANEL_BYTES.max(16 * hidden_size);
        Scratch::most_bytes(needs, hidden_size, rotaries, work) + size_of::<f32>() * work.tokens * hidden_size + threads + (1 << 20)
    }
}

const HEAD_INPUTS: NotFinite = NotFinite("inputs of the head");
const LOGITS: NotFinite = NotFinite("logits");

/// A pass by a team of threads.
pub struct Fused<'a> {
    team: &'a Team,
    s: &'a mut Scratch,
    spans: &'a [Span],
    hidden_size: usize,
    rotaries: &'a [Rotary],
}

impl<'a> Fused<'a> {
    /// Of the tokens of `spans`, in a scratch.
    pub fn new(team: &'a Team, s: &'a mut Scratch, hidden_size: usize, rotaries: &'a [Rotary], spans: &'a [Span]) -> Fused<'a> {
        let tokens = spans.last().map_or(0, |span| span.tokens.end);
        s.taken.clear();
        s.tokens.clear();
        s.tokens.extend(0..tokens as u32);
        s.positions.clear();
        s.positions.extend(spans.iter().flat_map(|span| (span.start..).take(span.tokens.len())));
        s.angles.resize_with(rotaries.len(), Vec::new);
        for (angles, rotary) in s.angles.iter_mut().zip(rotaries) {
            resize(angles, tokens * rotary.dim());
            team.chunks(angles, rotary.dim(), |t, angles| rotary.angles(s.positions[t], angles));
        }
        Fused { team, s, spans, hidden_size, rotaries }
    }

    /// The normed stream, in the scratch's `hidden`.
    pub fn finish(self, norm: &Norm<Vec<f32>>) -> Result<(), Fault> {
        norm.row().apply(self.team, &mut self.s.hidden).map_err(|_| HEAD_INPUTS)?;
        scale(self.team, &mut self.s.hidden, self.hidden_size, norm.times);
        Ok(())
    }

    /// Logits of the last token of every sequence that has a place for them.
    pub fn finish_last(self, norm: &Norm<Vec<f32>>, head: (&Matrix, &Logits<Vec<f32>>), out: &mut [Option<&mut Vec<f32>>]) -> Result<(), Fault> {
        let (head, logits) = head;
        let Scratch { tokens, last, hidden, inputs, products, .. } = self.s;
        let (team, level, size) = (self.team, self.team.level(), self.hidden_size);
        last.clear();
        last.extend(self.spans.iter().zip(&*out).filter(|(_, out)| out.is_some()).map(|(span, _)| span.tokens.end as u32 - 1));
        let (n, each) = (last.len(), &tokens[..last.len()]);
        if n == 0 {
            return Ok(());
        }
        let input = |i: usize| norm.of(level, &hidden[last[i] as usize * size..][..size]);
        inputs.fill(team, [(head, each)].into_iter(), n, size, input).map_err(|_| HEAD_INPUTS)?;
        products.run(team, &[inputs.product(head, each)]);
        for (i, out) in out.iter_mut().flatten().enumerate() {
            out.resize(head.rows(), 0.0);
            products.token(0, i, n).copy_to(out);
            logits.of(team, out);
            if !finite(level, out) {
                return Err(LOGITS.into());
            }
        }
        Ok(())
    }

    /// Products of the normed stream with matrices.
    fn project(&mut self, norm: &Norm<Vec<f32>>, matrices: &[Matrix], what: &'static str) -> Result<(), Fault> {
        let Scratch { tokens, hidden, inputs, products, .. } = &mut *self.s;
        let (tokens, size, team, level) = (tokens.as_slice(), self.hidden_size, self.team, self.team.level());
        let input = |t: usize| norm.of(level, &hidden[t * size..][..size]);
        inputs.fill(team, matrices.iter().map(|m| (m, tokens)), tokens.len(), size, input).map_err(|_| NotFinite(what))?;
        let each: Vec<Product> = matrices.iter().map(|m| inputs.product(m, tokens)).collect();
        products.run(team, &each);
        Ok(())
    }

    /// What a mixer finds for its inputs, in the scratch's `mixed`; or, where inner matrices end before that, the inputs of the next one.
    fn find(
        &mut self,
        norm: &Norm<Vec<f32>>,
        [inputs, inner]: [&[Matrix]; 2],
        of: &Mixing<Vec<f32>>,
        states: &mut [&mut LayerState],
    ) -> Result<Option<Vec<f32>>, Fault> {
        match of {
            Mixing::Latent { shape, query, latent } => {
                return self.find_latents(norm, [inputs, inner], shape, (query.as_ref(), latent), states);
            }
            Mixing::Attention { shape, biases, norms, sinks } => {
                self.heads(norm, inputs, biases.as_ref(), norms.as_ref(), shape)?;
                self.attend(states, shape, sinks.as_ref())?;
            }
            Mixing::DeltaNet { shape, taps, decay, time, norm: results } => {
                self.recall(norm, inputs, shape, &delta_net::Parts { taps, decay, time, norm: results }, states)?;
            }
        }
        Ok(None)
    }

    /// The same where each sequence has nothing before it.
    fn find_alone(&mut self, norm: &Norm<Vec<f32>>, matrices: [&[Matrix]; 2], of: &Mixing<Vec<f32>>) -> Result<Option<Vec<f32>>, Fault> {
        let mut own: Vec<LayerState> = self.spans.iter().map(|span| LayerState::new(of.state(), span.tokens.len(), KvElement::F32)).collect();
        self.find(norm, matrices, of, &mut own.iter_mut().collect::<Vec<_>>())
    }

    /// The sequences' keys and values, and how many tokens each has in the pass.
    fn caches<'s>(&self, states: &'s mut [&mut LayerState]) -> Vec<(&'s mut KvLayer, usize)> {
        let each = states.iter_mut().zip(self.spans).filter_map(|(state, span)| match &mut **state {
            LayerState::Kv(layer) => Some((layer, span.tokens.len())),
            LayerState::Delta(_) => None,
        });
        each.collect()
    }

    /// Queries, keys and values, with biases where there are some; queries and keys normed where there are norms for them, as `shape` says, and
    /// turned by their positions.
    fn heads(
        &mut self,
        norm: &Norm<Vec<f32>>,
        qkv: &[Matrix],
        biases: Option<&[Vec<f32>; 3]>,
        norms: Option<&[Norm<Vec<f32>>; 2]>,
        shape: &Attention,
    ) -> Result<(), Fault> {
        self.project(norm, qkv, "inputs of the attention")?;
        let Scratch { tokens, positions, angles, products, heads: out, .. } = &mut *self.s;
        let (n, team, level, head_dim) = (tokens.len(), self.team, self.team.level(), shape.head_dim);
        let (angles, dim) = (self.rotaries.iter().position(|r| r.is(&shape.rope)).map_or(&[][..], |i| &angles[i]), shape.rope.dim);
        let of = shape.qk_norm.map(|norm| norm.of);
        let ones = vec![1.0; if shape.unit_heads.or(shape.unit_values).is_some() { head_dim } else { 0 }];
        // Scores are divided by the root of head_dim where they are computed.
        let longer = shape.scale.map(|scale| (scale * (head_dim as f64).sqrt()) as f32);
        let ([_, kv], rows) = (shape.widths(), shape.query_rows());
        let stride = rows + 2 * kv;
        resize(out, n * stride);
        team.chunks(out, stride, |t, row| {
            let (q, rest) = row.split_at_mut(rows);
            let (k, v) = rest.split_at_mut(kv);
            let angles = angles[t * dim..][..dim].split_at(dim / 2);
            for (i, part) in [q, k, v].into_iter().enumerate() {
                // Tied values are keys.
                products.token(if shape.tied_values { i.min(1) } else { i }, t, n).copy_to(part);
                if let Some(bias) = biases {
                    part.iter_mut().zip(&bias[i]).for_each(|(x, bias)| *x += bias);
                }
                if let Some(most) = shape.clip {
                    part.iter_mut().for_each(|x| *x = x.clamp(-most as f32, most as f32));
                }
                if i < 2 {
                    let mut norm = norms.map(|norms| norms[i].row());
                    let (pairs, mut turned_first) = (shape.rope.pairs, of == Some(Normed::TurnedHeads));
                    if let Some(eps) = shape.unit_heads {
                        (norm, turned_first) = (Some(RowNorm::rms(&ones, eps as f32)), true);
                    }
                    if of == Some(Normed::All) {
                        let all = part.len();
                        Turn { norm: norm.take(), angles: [&[]; 2], pairs, turned_first }.apply(level, part, all);
                    }
                    let turn = Turn { norm, angles: [angles.0, angles.1], pairs, turned_first };
                    // Behind each query lies its gate.
                    let step = if i == 0 { rows / shape.num_attention_heads } else { head_dim };
                    part.chunks_exact_mut(step).for_each(|head| turn.apply(level, &mut head[..head_dim], head_dim));
                }
                if let (2, Some(eps)) = (i, shape.unit_values) {
                    Turn::only_norm(RowNorm::rms(&ones, eps as f32)).apply(level, part, head_dim);
                }
                if i > 0 {
                    continue;
                }
                let warm = shape.temperature.map(|temperature| temperature.at(positions[t]) as f32);
                for longer in longer.into_iter().chain(warm) {
                    part.iter_mut().for_each(|x| *x *= longer);
                }
            }
        });
        Ok(())
    }

    /// What queries find.
    fn attend(&mut self, states: &mut [&mut LayerState], shape: &Attention, sinks: Option<&Vec<f32>>) -> Result<(), Fault> {
        let mut caches = self.caches(states);
        let Scratch { tokens, heads, work, mixed, .. } = &mut *self.s;
        let ([q, kv], rows, d) = (shape.widths(), shape.query_rows(), shape.head_dim);
        let stride = rows + 2 * kv;
        resize(mixed, tokens.len() * q);
        let look = Look { window: shape.window, chunk: shape.chunk, sinks: sinks.map(Vec::as_slice) };
        let of = |start: usize, step| Heads { data: &heads[start..], stride, step };
        let step = rows / shape.num_attention_heads;
        attend(self.team, &mut caches, [of(0, step), of(rows, d), of(rows + kv, d)], shape.num_attention_heads, look, work, mixed)?;
        if shape.gated {
            gate_heads(self.team, of(d, step), d, mixed, q);
        }
        Ok(())
    }

    /// Adds what the end of a mixer makes of what was found to the stream.
    fn add_found(&mut self, of: &Mixing<Vec<f32>>, Ending { output, bias, after, times }: Ending<'_, Matrix, Vec<f32>>) -> Result<(), Fault> {
        let Scratch { tokens, hidden, inputs, products, mixed, results: [results, _], .. } = &mut *self.s;
        let (tokens, n, cols, team) = (tokens.as_slice(), tokens.len(), output.cols(), self.team);
        let filled = inputs.fill(team, [(output, tokens)].into_iter(), n, cols, |t| Same(&mixed[t * cols..][..cols]));
        filled.map_err(|_| NotFinite(of.results()))?;
        products.run(team, &[inputs.product(output, tokens)]);
        let to = match after {
            Some(_) => zeros(results, hidden.len()),
            None => &mut *hidden,
        };
        add_tiles(team, products.of(0), n, times, to);
        if let Some(bias) = bias {
            team.chunks(to, self.hidden_size, |_, row| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += times * bias));
        }
        if let Some(after) = after {
            after.row().apply(team, results)?;
            add_rows(team, results, hidden, self.hidden_size);
        }
        Ok(())
    }
}

impl Norm<Vec<f32>> {
    /// Of a row.
    fn of<'a>(&'a self, level: Level, row: &'a [f32]) -> NormedRow<'a> {
        self.row().of(level, row, self.times)
    }

    fn row(&self) -> RowNorm<'_> {
        RowNorm { weights: &self.weight, bias: self.bias.as_deref(), eps: self.eps as f32, centred: self.centred }
    }
}

impl Logits<Vec<f32>> {
    /// Of one token's products.
    pub fn of(&self, team: &Team, products: &mut [f32]) {
        if let Some(bias) = &self.bias {
            products.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
        if let Some(cap) = self.cap {
            bound(team, products, cap);
        }
    }
}

/// So many zeros, in memory that is used again.
fn zeros(rows: &mut Vec<f32>, len: usize) -> &mut Vec<f32> {
    rows.clear();
    resize(rows, len);
    rows
}

/// Adds rows to others.
fn add_rows(team: &Team, rows: &[f32], to: &mut [f32], len: usize) {
    team.chunks(to, len, |t, to| to.iter_mut().zip(&rows[t * len..][..len]).for_each(|(to, x)| *to += x));
}

/// Multiplies rows with a number, where it changes them.
fn scale(team: &Team, rows: &mut [f32], len: usize, times: f32) {
    if times != 1.0 {
        team.chunks(rows, len, |_, row| row.iter_mut().for_each(|x| *x *= times));
    }
}

impl Scratch {
    /// The residual stream, (tokens, hidden_size).
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }
}

impl Pass for Fused<'_> {
    type Tensors = Packed;
    type State = LayerState;

    fn embed(&mut self, table: &Matrix, tokens: &[u32], times: f32) -> Result<(), Fault> {
        resize(&mut self.s.hidden, tokens.len() * self.hidden_size);
        embed(self.team, table, tokens, &mut self.s.hidden);
        scale(self.team, &mut self.s.hidden, self.hidden_size, times);
        Ok(())
    }

    fn mix(&mut self, mixer: &Mixer<Matrix, Vec<f32>>, states: &mut [&mut LayerState]) -> Result<(), Fault> {
        self.find(&mixer.norm, [&mixer.inputs, &mixer.inner], &mixer.of, states)?;
        self.add_found(&mixer.of, mixer.ending())
    }

    fn route(&mut self, norm: &Norm<Vec<f32>>, routers: &[Matrix], more: [Option<&Vec<f32>>; 3], router: &Router) -> Result<(), Fault> {
        self.project(norm, routers, "inputs of the router")?;
        let Scratch { tokens, products, logits, routes, shared_routes, taken: counts, .. } = &mut *self.s;
        let (n, team, level, watch) = (tokens.len(), self.team, self.team.level(), Watch::default());
        let (all, taken) = (routers[0].rows(), router.num_experts_per_tok);
        resize(logits, n * all);
        resize(routes, n * taken);
        team.chunks2((logits, all), (routes, taken), |t, logits, routes| {
            products.token(0, t, n).copy_to(logits);
            if let Some(bias) = more[0] {
                logits.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
            }
            watch.see(finite(level, logits));
            route(router, logits, [more[1], more[2]].map(|more| more.map(Vec::as_slice)), routes);
        });
        let first = counts.len();
        counts.resize(first + all, 0);
        routes.iter().for_each(|(expert, _)| counts[first + *expert as usize] += 1);
        shared_routes.clear();
        if routers.len() > 1 {
            watch.see(products.of(1).iter().all(|row| row[0].is_finite()));
            shared_routes.extend(products.of(1).iter().map(|row| (0, 1.0 / (1.0 + (-row[0]).exp()))));
        } else {
            shared_routes.resize(n, (0, 1.0));
        }
        Ok(watch.result("logits of the router")?)
    }

    fn add_experts(&mut self, norms: &MlpNorms<Vec<f32>>, experts: &Experts, shared: Option<&Experts>) -> Result<(), Fault> {
        self.add_mlps(norms, (experts, Routes::Chosen), shared)
    }

    fn add_mlp(&mut self, norms: &MlpNorms<Vec<f32>>, mlp: &Experts) -> Result<(), Fault> {
        self.s.shared_routes.clear();
        self.s.shared_routes.resize(self.s.tokens.len(), (0, 1.0));
        self.add_mlps(norms, (mlp, Routes::Shared), None)
    }

    fn scale(&mut self, by: &Vec<f32>) -> Result<(), Fault> {
        scale(self.team, &mut self.s.hidden, self.hidden_size, by[0]);
        Ok(())
    }
}
