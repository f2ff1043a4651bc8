//! Operations of ram-kernels by a team of threads, each of a few parallel regions over all tokens.
use super::{Home, Norm, Pass, Span, Tensors, rotary::Rotary};
use crate::{
    description::{Attention, Router},
    forward_error::Fault,
    router::route,
};
use ram_kernels::{
    Attention as State, Experts, Heads, Inputs, Matrix, Mixture, NotFinite, PANEL_BYTES, Product, Products, Routed, Same, Team, Turn, Watch,
    add_tiles, attend, embed, finite, norm_rows, normed,
};

/// Tensors in the CPU's memory, packed.
#[derive(Debug)]
pub struct Packed;

impl Tensors for Packed {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Experts = Experts;

    fn experts(each: Vec<[Matrix; 3]>) -> Experts {
        let mut experts = Experts { gate: Vec::new(), up: Vec::new(), down: Vec::new() };
        for [gate, up, down] in each {
            experts.gate.push(gate);
            experts.up.push(up);
            experts.down.push(down);
        }
        experts
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
    /// (tokens, q and k and v).
    qkv: Vec<f32>,
    by_head: Vec<f32>,
    /// (tokens, heads, head_dim).
    attended: Vec<f32>,
    /// (tokens, num_experts).
    logits: Vec<f32>,
    routes: Vec<(u32, f32)>,
    shared_routes: Vec<(u32, f32)>,
    mixture: Mixture,
}

/// What a pass needs, in numbers per token: the most that any part does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Inputs of products outside the experts.
    pub inputs: usize,
    /// Rows of products outside the experts.
    pub products: usize,
    /// Queries, keys and values together.
    pub qkv: usize,
    /// Queries alone.
    pub queries: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Experts to choose from.
    pub experts: usize,
    /// How many experts a token takes and how wide they are, and the same of the shared one.
    pub taken: [(usize, usize); 2],
    /// Width of an MLP that every token takes.
    pub dense: usize,
}

impl Needs {
    /// What both need.
    pub fn most(self, other: Needs) -> Needs {
        let pair = |i: usize| (self.taken[i].0.max(other.taken[i].0), self.taken[i].1.max(other.taken[i].1));
        Needs {
            inputs: self.inputs.max(other.inputs),
            products: self.products.max(other.products),
            qkv: self.qkv.max(other.qkv),
            queries: self.queries.max(other.queries),
            head_dim: self.head_dim.max(other.head_dim),
            experts: self.experts.max(other.experts),
            taken: [pair(0), pair(1)],
            dense: self.dense.max(other.dense),
        }
    }

    /// An upper bound of the bytes of a [`Scratch`] after `tokens` tokens of `hidden_size` by `threads` threads. Logits are not in it: n rows
    /// of them take `8 n vocab_size` bytes while they are computed, half of that after.
    pub fn scratch_bytes(&self, hidden_size: usize, tokens: usize, threads: usize) -> usize {
        // Inputs in all three forms at most, once more where act-order wants them; f32 products, in tiles.
        const READY: usize = 10;
        const PRODUCT: usize = 4;
        let outside = READY * self.inputs + PRODUCT * self.products;
        // q, k and v in order, attention by head and in order.
        let attention = 4 * self.qkv + 2 * 4 * self.queries;
        // Experts of a token, gated, and results of some of them at a time; of a layer without experts.
        let (sparse, dense) = (self.taken, [(1, self.dense)]);
        let results = Mixture::result_bytes(tokens, hidden_size, &sparse).max(Mixture::result_bytes(tokens, hidden_size, &dense));
        let middle = |parts: &[(usize, usize)]| READY * parts.iter().map(|(taken, width)| taken * width.next_multiple_of(16)).sum::<usize>();
        let mixture = READY * hidden_size + middle(&sparse).max(middle(&dense)) + 4 * self.experts + 64 * (self.taken[0].0 + 1);
        // The residual stream, a copy of it, its norm, and the rotary angles.
        let stream = 3 * 4 * hidden_size + 4 * self.head_dim;
        // For many tokens or for a row of the embedding.
        let threads = threads * PANEL_BYTES.max(16 * hidden_size);
        // A constant for what does not grow with the tokens: buckets, tasks.
        tokens * (stream + outside + attention + mixture) + results + threads + (1 << 20)
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
        s.tokens.clear();
        s.tokens.extend(0..tokens as u32);
        s.positions.clear();
        s.positions.extend(spans.iter().flat_map(|span| (span.start..).take(span.tokens.len())));
        s.angles.resize_with(rotaries.len(), Vec::new);
        for (angles, rotary) in s.angles.iter_mut().zip(rotaries) {
            angles.resize(tokens * rotary.head_dim, 0.0);
            team.chunks(angles, rotary.head_dim, |t, angles| rotary.angles(s.positions[t], angles));
        }
        Fused { team, s, spans, hidden_size, rotaries }
    }

    /// The normed stream, in the scratch's `hidden`.
    pub fn finish(self, norm: &Norm<Vec<f32>>) -> Result<(), Fault> {
        norm_rows(self.team, &mut self.s.hidden, &norm.weight, norm.eps as f32).map_err(|_| HEAD_INPUTS.into())
    }

    /// Logits of the last token of every sequence into `out`.
    pub fn finish_last(self, norm: &Norm<Vec<f32>>, head: &Matrix, out: &mut [&mut Vec<f32>]) -> Result<(), Fault> {
        let Scratch { tokens, last, hidden, inputs, products, .. } = self.s;
        let (team, level, size) = (self.team, self.team.level(), self.hidden_size);
        last.clear();
        last.extend(self.spans.iter().map(|span| span.tokens.end as u32 - 1));
        let (n, each) = (last.len(), &tokens[..last.len()]);
        let input = |i: usize| normed(level, &hidden[last[i] as usize * size..][..size], &norm.weight, norm.eps as f32);
        inputs.fill(team, [(head, each)].into_iter(), n, size, input).map_err(|_| HEAD_INPUTS)?;
        products.run(team, &[inputs.product(head, each)]);
        for (i, out) in out.iter_mut().enumerate() {
            out.resize(head.rows(), 0.0);
            products.token(0, i, n).copy_to(out);
            if !finite(level, out) {
                return Err(LOGITS.into());
            }
        }
        Ok(())
    }

    /// Adds the weighted results of MLPs; `routes` and how many of them a token has are those of each.
    fn add(&mut self, norm: &Norm<Vec<f32>>, parts: &[(&Experts, Routes)]) -> Result<(), Fault> {
        let Scratch { tokens, hidden, routes, shared_routes, mixture, .. } = &mut *self.s;
        let (n, size, level) = (tokens.len(), self.hidden_size, self.team.level());
        let parts = parts.iter().map(|(experts, from)| {
            let routes: &[(u32, f32)] = if *from == Routes::Chosen { routes } else { shared_routes };
            Routed { experts, routes, per_token: routes.len() / n }
        });
        let parts: Vec<Routed> = parts.collect();
        mixture.gate(self.team, &parts, n, |t| normed(level, &hidden[t * size..][..size], &norm.weight, norm.eps as f32))?;
        mixture.add_to(self.team, &parts, hidden);
        Ok(())
    }
}

/// Whose weights hold.
#[derive(PartialEq)]
enum Routes {
    Chosen,
    Shared,
}

impl Scratch {
    /// The residual stream, (tokens, hidden_size).
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }
}

impl Pass for Fused<'_> {
    type Tensors = Packed;
    type State = State;

    fn embed(&mut self, table: &Matrix, tokens: &[u32]) -> Result<(), Fault> {
        self.s.hidden.resize(tokens.len() * self.hidden_size, 0.0);
        embed(self.team, table, tokens, &mut self.s.hidden);
        Ok(())
    }

    fn heads(
        &mut self,
        norm: &Norm<Vec<f32>>,
        qkv: &[Matrix; 3],
        biases: Option<&[Vec<f32>; 3]>,
        norms: Option<&[Norm<Vec<f32>>; 2]>,
        shape: &Attention,
    ) -> Result<(), Fault> {
        let Scratch { tokens, hidden, angles, inputs, products, qkv: out, .. } = &mut *self.s;
        let (tokens, n, size) = (tokens.as_slice(), tokens.len(), self.hidden_size);
        let (team, level, head_dim) = (self.team, self.team.level(), shape.head_dim);
        let input = |t: usize| normed(level, &hidden[t * size..][..size], &norm.weight, norm.eps as f32);
        let filled = inputs.fill(team, qkv.iter().map(|m| (m, tokens)), n, size, input);
        filled.map_err(|_| NotFinite("inputs of the attention"))?;
        products.run(team, &qkv.each_ref().map(|m| inputs.product(m, tokens)));

        let angles = self.rotaries.iter().position(|r| r.is(shape)).map_or(&[][..], |i| &angles[i]);
        let ends = [qkv[0].rows(), qkv[0].rows() + qkv[1].rows()];
        let stride = ends[1] + qkv[2].rows();
        out.resize(n * stride, 0.0);
        team.chunks(out, stride, |t, row| {
            let (q, rest) = row.split_at_mut(ends[0]);
            let (k, v) = rest.split_at_mut(ends[1] - ends[0]);
            let angles = angles[t * head_dim..][..head_dim].split_at(head_dim / 2);
            for (i, part) in [q, k, v].into_iter().enumerate() {
                products.token(i, t, n).copy_to(part);
                if let Some(bias) = biases {
                    part.iter_mut().zip(&bias[i]).for_each(|(x, bias)| *x += bias);
                }
                if i < 2 {
                    let norm = norms.map(|norms| (norms[i].weight.as_slice(), norms[i].eps as f32));
                    Turn { norm, angles: [angles.0, angles.1] }.apply(level, part, head_dim);
                }
            }
        });
        Ok(())
    }

    fn attend(&mut self, states: &mut [&mut State], shape: &Attention) -> Result<(), Fault> {
        let Scratch { tokens, qkv, by_head, attended, .. } = &mut *self.s;
        let [q, kv] = shape.widths();
        let stride = q + 2 * kv;
        attended.resize(tokens.len() * q, 0.0);
        for (state, span) in states.iter_mut().zip(self.spans) {
            let first = span.tokens.start * stride;
            let heads = [0, q, q + kv].map(|start| Heads { data: &qkv[first + start..], stride });
            let out = &mut attended[span.tokens.start * q..span.tokens.end * q];
            attend(self.team, state, heads, shape.num_attention_heads, by_head, out)?;
        }
        Ok(())
    }

    fn add_attended(&mut self, output: &Matrix, bias: Option<&Vec<f32>>) -> Result<(), Fault> {
        let Scratch { tokens, hidden, inputs, products, attended, .. } = &mut *self.s;
        let (tokens, n, cols, team) = (tokens.as_slice(), tokens.len(), output.cols(), self.team);
        let filled = inputs.fill(team, [(output, tokens)].into_iter(), n, cols, |t| Same(&attended[t * cols..][..cols]));
        filled.map_err(|_| NotFinite("results of the attention"))?;
        products.run(team, &[inputs.product(output, tokens)]);
        add_tiles(team, products.of(0), n, hidden);
        if let Some(bias) = bias {
            team.chunks(hidden, self.hidden_size, |_, row| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
        }
        Ok(())
    }

    fn route(&mut self, norm: &Norm<Vec<f32>>, routers: &[Matrix], router: &Router) -> Result<(), Fault> {
        let Scratch { tokens, hidden, inputs, products, logits, routes, shared_routes, .. } = &mut *self.s;
        let (tokens, n, size) = (tokens.as_slice(), tokens.len(), self.hidden_size);
        let (team, level, watch) = (self.team, self.team.level(), Watch::default());
        let input = |t: usize| normed(level, &hidden[t * size..][..size], &norm.weight, norm.eps as f32);
        inputs.fill(team, routers.iter().map(|m| (m, tokens)), n, size, input).map_err(|_| NotFinite("inputs of the router"))?;
        let each: Vec<Product> = routers.iter().map(|m| inputs.product(m, tokens)).collect();
        products.run(team, &each);
        let (all, taken) = (routers[0].rows(), router.num_experts_per_tok);
        logits.resize(n * all, 0.0);
        routes.resize(n * taken, (0, 0.0));
        team.chunks2((logits, all), (routes, taken), |t, logits, routes| {
            products.token(0, t, n).copy_to(logits);
            watch.see(finite(level, logits));
            route(logits, router.norm_topk_prob, routes);
        });
        if routers.len() > 1 {
            watch.see(products.of(1).iter().all(|row| row[0].is_finite()));
            shared_routes.clear();
            shared_routes.extend(products.of(1).iter().map(|row| (0, 1.0 / (1.0 + (-row[0]).exp()))));
        }
        Ok(watch.result("logits of the router")?)
    }

    fn add_experts(&mut self, norm: &Norm<Vec<f32>>, experts: &Experts, shared: Option<&Experts>) -> Result<(), Fault> {
        match shared {
            Some(shared) => self.add(norm, &[(experts, Routes::Chosen), (shared, Routes::Shared)]),
            None => self.add(norm, &[(experts, Routes::Chosen)]),
        }
    }

    fn add_mlp(&mut self, norm: &Norm<Vec<f32>>, mlp: &Experts) -> Result<(), Fault> {
        self.s.routes.clear();
        self.s.routes.resize(self.s.tokens.len(), (0, 1.0));
        self.add(norm, &[(mlp, Routes::Chosen)])
    }
}
