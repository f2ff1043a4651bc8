//! The gated MLPs of a layer as one operation: tokens bucketed by expert, only routed experts touched, two parallel regions
//! over the weights however many experts there are.
use crate::{
    Matrix,
    activations::Inputs,
    dot::{Product, Sink},
    isa::Level,
    products::{Products, next_task},
    residual::add_tiles,
    source::{Gated, Same, Source},
    team::{Team, team},
};
use std::ops::Range;

/// Experts of a layer: e computes `down[e] (silu(gate[e] x) * (up[e] x))`. A dense MLP is one expert with weight 1.
#[derive(Clone, Debug)]
pub struct Experts {
    /// (intermediate, hidden) each.
    pub gate: Vec<Matrix>,
    /// (intermediate, hidden) each.
    pub up: Vec<Matrix>,
    /// (hidden, intermediate) each.
    pub down: Vec<Matrix>,
}

/// Experts and who goes to them.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// All of them.
    pub experts: &'a Experts,
    /// (expert, weight) pairs, `per_token` for each token, token-major.
    pub routes: &'a [(u32, f32)],
    /// Experts of each token.
    pub per_token: usize,
}

/// What [`Mixture::run`] works in, used again.
#[derive(Debug, Default)]
pub struct Mixture {
    buckets: Vec<Bucket>,
    /// Tokens by bucket, and their weights.
    tokens: Vec<u32>,
    weights: Vec<f32>,
    /// How many tokens each expert has, then where its next one goes.
    next: Vec<usize>,
    /// 0, 1, 2, ...: rows of `middle`.
    count: Vec<u32>,
    inputs: Inputs,
    products: Products,
    /// By part, a row per token and expert.
    middle: Vec<Inputs>,
    /// Where the tasks of the down projections end.
    ends: Vec<usize>,
    sums: Vec<[f32; 16]>,
}

/// Tokens of one expert: a range of [`Mixture::tokens`].
#[derive(Clone, Debug)]
struct Bucket {
    part: usize,
    expert: usize,
    tokens: Range<usize>,
    /// Its rows in the part's `middle`.
    rows: Range<usize>,
}

impl Mixture {
    /// The weighted sum of every token's experts, (hidden / 16, tokens) of 16, which go by part and rising number, so that it
    /// does not depend on the other tokens. `x` gives the inputs of each of the `tokens`.
    ///
    /// # Panics
    /// If the shapes do not fit together or a route names no expert.
    pub fn run<S: Source>(&mut self, team: &Team, parts: &[Routed], tokens: usize, x: impl Fn(usize) -> S + Sync) -> &[[f32; 16]] {
        self.bucket(parts, tokens);
        let Mixture { buckets, tokens: list, weights, count, inputs, products, middle, ends, sums, .. } = self;
        let (list, weights) = (list.as_slice(), weights.as_slice());
        let experts = |b: &Bucket| parts[b.part].experts;
        let pair = |b: &Bucket| [&experts(b).gate[b.expert], &experts(b).up[b.expert]].map(|m| (m, &list[b.tokens.clone()]));
        let hidden = parts[0].experts.gate[0].cols();
        inputs.fill(team, buckets.iter().flat_map(pair), tokens, hidden, x);
        let each: Vec<Product> = buckets.iter().flat_map(pair).map(|(m, tokens)| inputs.product(m, tokens)).collect();
        products.run(team, &each);

        let down = |b: &Bucket| (&experts(b).down[b.expert], &count[b.rows.clone()]);
        for (p, middle) in middle.iter_mut().enumerate() {
            let first = buckets.partition_point(|b| b.part < p);
            let own = &buckets[first..buckets.partition_point(|b| b.part <= p)];
            let gated = |row: usize| {
                let at = own.partition_point(|b| b.rows.end <= row);
                let (token, n, i) = (row - own[at].rows.start, own[at].rows.len(), 2 * (first + at));
                Gated { gate: products.token(i, token, n), up: products.token(i + 1, token, n) }
            };
            let rows = own.last().map_or(0, |b| b.rows.end);
            middle.fill(team, own.iter().map(down), rows, parts[p].experts.down[0].cols(), gated);
        }
        let each = buckets.iter().map(|b| {
            let (m, rows) = down(b);
            middle[b.part].product(m, rows)
        });
        let each: Vec<Product> = each.collect();
        sums.clear();
        sums.resize(hidden.div_ceil(16) * tokens, [0.0; 16]);
        // Tasks own rows, so no two write the same place and no order is left open. They are as long as one expert's would be: each of
        // them begins anew with every expert.
        let (tiles, tile_bytes) = (hidden.div_ceil(16), each.iter().map(Product::tile_bytes).sum::<usize>() / each.len().max(1));
        ends.clear();
        let mut end = 0;
        while end < tiles {
            end = (end + next_task(team, (tiles - end) * tile_bytes, tile_bytes)).min(tiles);
            ends.push(end * tokens);
        }
        let (level, ends) = (team.level(), ends.as_slice());
        team.parts(sums, ends, |i, sums| {
            let first = if i == 0 { 0 } else { ends[i - 1] / tokens };
            for (i, (b, p)) in buckets.iter().zip(&each).enumerate() {
                let sink = Sink::Add { to: &list[b.tokens.clone()], weights: &weights[b.tokens.clone()] };
                p.multiply(level, first, tokens, sink, sums, each.get(i + 1).map(|next| next.bytes_from(first)));
            }
        });
        sums
    }

    /// Sorts tokens by expert (counting sort: tokens stay in order).
    fn bucket(&mut self, parts: &[Routed], tokens: usize) {
        self.buckets.clear();
        self.tokens.clear();
        self.weights.clear();
        self.middle.resize_with(parts.len(), Inputs::default);
        for (part, p) in parts.iter().enumerate() {
            assert_eq!(p.routes.len(), tokens * p.per_token);
            let start = self.tokens.len();
            self.next.clear();
            self.next.resize(p.experts.gate.len(), 0);
            p.routes.iter().for_each(|(e, _)| self.next[*e as usize] += 1);
            let mut end = start;
            for (expert, n) in self.next.iter_mut().enumerate() {
                let tokens = end..end + *n;
                if !tokens.is_empty() {
                    self.buckets.push(Bucket { part, expert, rows: tokens.start - start..tokens.end - start, tokens });
                }
                end += std::mem::replace(n, end);
            }
            self.tokens.resize(end, 0);
            self.weights.resize(end, 0.0);
            for (i, &(e, weight)) in p.routes.iter().enumerate() {
                let at = &mut self.next[e as usize];
                (self.tokens[*at], self.weights[*at]) = ((i / p.per_token) as u32, weight);
                *at += 1;
            }
        }
        let more = self.count.len()..self.tokens.len();
        self.count.extend(more.map(|i| i as u32));
    }
}

/// `out[t] += weight * expert(x[t])` over the `per_token` (expert, weight) pairs of each token in `routes`, token-major.
/// `x` and `out` are (tokens, hidden).
///
/// # Panics
/// If the shapes do not fit together or a route names no expert.
pub fn experts(x: &[f32], experts: &Experts, routes: &[(u32, f32)], per_token: usize, out: &mut [f32]) {
    experts_at(Level::active(), x, experts, routes, per_token, out);
}

/// [`experts`] with a given instruction set.
pub fn experts_at(level: Level, x: &[f32], experts: &Experts, routes: &[(u32, f32)], per_token: usize, out: &mut [f32]) {
    let hidden = experts.gate[0].cols();
    let tokens = x.len() / hidden;
    assert_eq!((x.len(), out.len()), (tokens * hidden, tokens * hidden));
    let mut mixture = Mixture::default();
    team(level, |team| {
        let sums = mixture.run(team, &[Routed { experts, routes, per_token }], tokens, |t| Same(&x[t * hidden..][..hidden]));
        add_tiles(team, sums, tokens, out);
    });
}
