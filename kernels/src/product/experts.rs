//! The gated MLPs of a layer as one operation: tokens bucketed by expert, only routed experts touched, two parallel regions
//! over the weights however many experts there are, more only where a long prompt's results would not fit a cache.
use super::{inputs::Inputs, products::Products, task::Product};
use crate::{
    Matrix,
    isa::Level,
    ops::{Clamped, Gated, NotFinite, Same, Share, Values, add_shares},
    team::{Team, team},
};
use std::ops::Range;

/// Experts of a layer: e computes `down[e] (f(gate[e] x) * (up[e] x))`, or what `glu` says else. A dense MLP is one expert with weight 1.
#[derive(Clone, Debug)]
pub struct Experts {
    /// (intermediate, hidden) each.
    pub gate: Vec<Matrix>,
    /// (intermediate, hidden) each.
    pub up: Vec<Matrix>,
    /// (hidden, intermediate) each.
    pub down: Vec<Matrix>,
    /// What is made of gate and up.
    pub glu: Glu,
    /// Whether a token's weight multiplies what an expert takes, not what it gives.
    pub weigh_inputs: bool,
}

/// What is made of the products of gate and up.
#[derive(Clone, Debug)]
pub enum Glu {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, of the form with a tangent.
    Gelu,
    /// gpt-oss'.
    Clamped(ClampedGlu),
}

/// The gate of gpt-oss: `(up + 1) gate sigmoid(alpha gate)` of gates up to `limit` and ups within it, and biases of all three projections.
#[derive(Clone, Debug)]
pub struct ClampedGlu {
    /// The largest gate and up.
    pub limit: f32,
    /// What gates are multiplied with in the sigmoid.
    pub alpha: f32,
    /// Of each expert's gate, up (intermediate) and down (hidden).
    pub biases: Vec<[Vec<f32>; 3]>,
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

/// A part of a layer's experts, as far as memory goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// How many there are.
    pub experts: usize,
    /// How many of them a token takes.
    pub per_token: usize,
    /// Rows of gate and up.
    pub width: usize,
}

/// What [`Mixture::gate`] and [`Mixture::add_to`] work in, used again.
#[derive(Debug, Default)]
pub struct Mixture {
    buckets: Vec<Bucket>,
    /// By bucket.
    tokens: Vec<u32>,
    /// What each of them multiplies what its expert takes with.
    weights: Vec<f32>,
    /// Of each token, by rising bucket.
    shares: Vec<Share>,
    /// How many tokens each expert has, then where its next one goes.
    next: Vec<usize>,
    /// 0, 1, 2, ...: rows of `middle`.
    count: Vec<u32>,
    inputs: Inputs,
    products: Products,
    /// By part, a row per token and expert.
    middle: Vec<Inputs>,
}

/// Bytes of results that are kept until they are used: what an L3 cache has room for. All of a long prompt's would go to memory and back.
const RESULTS: usize = 4 << 20;

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
    /// Computes gate and up of every token's experts, and what [`Mixture::add_to`] needs of them. `x` gives the inputs of each of
    /// the `tokens`.
    ///
    /// # Errors
    /// Where those, or what gate and up make of them, are not finite.
    ///
    /// # Panics
    /// If the shapes do not fit together or a route names no expert.
    pub fn gate<S: Values>(&mut self, team: &Team, parts: &[Routed], tokens: usize, x: impl Fn(usize) -> S + Sync) -> Result<(), NotFinite> {
        self.bucket(parts, tokens);
        let Mixture { buckets, tokens: list, weights, count, inputs, products, middle, .. } = self;
        let experts = |b: &Bucket| parts[b.part].experts;
        let pair = |b: &Bucket| [&experts(b).gate[b.expert], &experts(b).up[b.expert]].map(|m| (m, &list[b.tokens.clone()]));
        let hidden = parts[0].experts.gate[0].cols();
        inputs.fill(team, buckets.iter().flat_map(pair), tokens, hidden, x).map_err(|_| NotFinite("inputs of the experts"))?;
        let each: Vec<Product> = buckets.iter().flat_map(pair).map(|(m, tokens)| inputs.product(m, tokens)).collect();
        let down = |b: &Bucket| (&experts(b).down[b.expert], &count[b.rows.clone()]);
        let results = |b: &Bucket| 2 * 64 * experts(b).gate[b.expert].rows().div_ceil(16) * b.rows.len();
        middle.iter_mut().for_each(Inputs::forget);
        let mut first = 0;
        while first < buckets.len() {
            let end = first + kept_together(buckets[first..].iter().map(results));
            products.run(team, &each[2 * first..2 * end]);
            let mut before = 0;
            for own in buckets[first..end].chunk_by(|a, b| a.part == b.part) {
                let gated = |row: usize| {
                    let at = own.partition_point(|b| b.rows.end <= row);
                    let (token, n, i) = (row - own[at].rows.start, own[at].rows.len(), 2 * (before + at));
                    let times = weights[own[at].tokens.start + token];
                    (own[at].expert, [products.token(i, token, n), products.token(i + 1, token, n)], times)
                };
                let (part, rows) = (own[0].part, own[0].rows.start..own[own.len() - 1].rows.end);
                let (down, cols) = (own.iter().map(down), parts[part].experts.down[0].cols());
                let filled = match &parts[part].experts.glu {
                    glu @ (Glu::Silu | Glu::Gelu) => middle[part].fill_more(team, down, rows, cols, |row| {
                        let (_, [gate, up], times) = gated(row);
                        Gated { gate, up, times, gelu: matches!(glu, Glu::Gelu) }
                    }),
                    Glu::Clamped(ClampedGlu { limit, alpha, biases }) => middle[part].fill_more(team, down, rows, cols, |row| {
                        let (expert, [gate, up], _) = gated(row);
                        let [gate_bias, up_bias, _] = &biases[expert];
                        Clamped { gate, up, biases: [gate_bias, up_bias], limit: *limit, alpha: *alpha }
                    }),
                };
                filled.map_err(|_| NotFinite("inputs of the down projections"))?;
                before += own.len();
            }
            first = end;
        }
        Ok(())
    }

    /// What the down projections of a part take, a row per token and expert, by rising expert.
    pub fn middle(&self, part: usize) -> &Inputs {
        &self.middle[part]
    }

    /// Bytes that it has taken.
    pub fn bytes(&self) -> usize {
        let lists = self.buckets.capacity() * size_of::<Bucket>() + self.shares.capacity() * size_of::<Share>();
        let numbers =
            size_of::<u32>() * (self.tokens.capacity() + self.weights.capacity() + self.count.capacity()) + size_of::<usize>() * self.next.capacity();
        lists + numbers + self.inputs.bytes() + self.products.bytes() + self.middle.iter().map(Inputs::bytes).sum::<usize>()
    }

    /// The most that it takes for `tokens` tokens of `hidden` inputs and layers whose parts are these, whether or not matrices have orders of
    /// their own.
    pub fn most_bytes(tokens: usize, hidden: usize, layers: &[Vec<Taken>], ordered: bool) -> usize {
        let most = |of: &dyn Fn(&[Taken]) -> usize| layers.iter().map(|parts| of(parts)).max().unwrap_or(0);
        let sum = |parts: &[Taken], of: &dyn Fn(&Taken) -> usize| parts.iter().map(of).sum::<usize>();
        let all = |parts: &[Taken]| tokens * sum(parts, &|p| p.per_token);
        let lists = most(&|parts| {
            // An expert that nobody takes has no bucket; gate and up may have an order each.
            let experts = sum(parts, &|p| p.experts.min(tokens * p.per_token));
            let (orders, rows) = if ordered { (2 * experts, 2 * all(parts)) } else { (0, 0) };
            let each = size_of::<Share>() + 3 * size_of::<u32>();
            // A list that grows may be twice as long as it was.
            2 * experts * size_of::<Bucket>()
                + 2 * all(parts) * each
                + size_of::<usize>() * sum(parts, &|p| p.experts)
                + Inputs::most_bytes(tokens, hidden, orders, rows)
        });
        let middle = |part: usize| {
            let own = |p: &Taken| {
                let rows = tokens * p.per_token;
                let (orders, ordered) = if ordered { (p.experts.min(rows), rows) } else { (0, 0) };
                Inputs::most_bytes(rows, p.width, orders, ordered)
            };
            most(&|parts| parts.get(part).map_or(0, own))
        };
        let results = most(&|parts| {
            let of = |rows: usize| size_of::<[f32; 16]>() * tokens * rows.div_ceil(16);
            let each = sum(parts, &|p| p.per_token * 2 * of(p.width));
            // One expert may have all tokens.
            let one = parts.iter().map(|p| 2 * of(p.width)).max().unwrap_or(0);
            let per_token = sum(parts, &|p| p.per_token);
            let (down, least) = (per_token * of(hidden), per_token * of(32));
            each.min(RESULTS.max(one)).max(down.min(RESULTS.max(least)))
        });
        lists + results + (0..layers.iter().map(Vec::len).max().unwrap_or(0)).map(middle).sum::<usize>()
    }

    /// Adds the weighted sums of the down projections to `rows`, (tokens, hidden), with the same `parts` as [`Mixture::gate`]. They go
    /// by part and rising number, so that they do not depend on the other tokens.
    ///
    /// # Panics
    /// If the parts are others.
    pub fn add_to(&mut self, team: &Team, parts: &[Routed], rows: &mut [f32]) {
        let Mixture { buckets, shares, count, products, middle, .. } = self;
        let each = buckets.iter().map(|b| middle[b.part].product(&parts[b.part].experts.down[b.expert], &count[b.rows.clone()]));
        let each: Vec<Product> = each.collect();
        let (hidden, results) = (parts[0].experts.down[0].rows(), each.iter().map(|p| 64 * p.tokens.len()).sum::<usize>());
        let step = (RESULTS / results).max(2);
        for first in (0..hidden.div_ceil(16)).step_by(step) {
            products.run_within(team, &each, first..first + step);
            let of = |s: &Share| products.token(s.product as usize, s.token as usize, each[s.product as usize].tokens.len());
            add_shares(team, shares, of, rows, hidden, 16 * first..hidden.min(16 * (first + step)));
        }
        for part in parts {
            let Glu::Clamped(ClampedGlu { biases, .. }) = &part.experts.glu else { continue };
            team.chunks(rows, hidden, |t, row| {
                for (expert, weight) in &part.routes[t * part.per_token..][..part.per_token] {
                    row.iter_mut().zip(&biases[*expert as usize][2]).for_each(|(x, bias)| *x += weight * bias);
                }
            });
        }
    }

    /// Sorts tokens by expert (counting sort: tokens stay in order).
    fn bucket(&mut self, parts: &[Routed], tokens: usize) {
        self.buckets.clear();
        self.tokens.clear();
        self.weights.clear();
        self.middle.resize_with(parts.len(), Inputs::default);
        let per_token: usize = parts.iter().map(|p| p.per_token).sum();
        self.shares.clear();
        self.shares.resize(tokens * per_token, Share::default());
        let mut before = 0;
        for (part, p) in parts.iter().enumerate() {
            assert_eq!(p.routes.len(), tokens * p.per_token);
            let (start, first) = (self.tokens.len(), self.buckets.len());
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
            self.weights.resize(end, 1.0);
            let own = &self.buckets[first..];
            for (token, routes) in p.routes.chunks_exact(p.per_token.max(1)).enumerate() {
                let shares = &mut self.shares[token * per_token + before..][..p.per_token];
                for (share, &(expert, weight)) in shares.iter_mut().zip(routes) {
                    let product = own.partition_point(|b| b.expert < expert as usize);
                    let at = &mut self.next[expert as usize];
                    let [taken, given] = if p.experts.weigh_inputs { [weight, 1.0] } else { [1.0, weight] };
                    *share = Share { product: (first + product) as u32, token: (*at - own[product].tokens.start) as u32, weight: given };
                    (self.tokens[*at], self.weights[*at]) = (token as u32, taken);
                    *at += 1;
                }
                shares.sort_by_key(|s| s.product);
            }
            before += p.per_token;
        }
        let more = self.count.len()..self.tokens.len();
        self.count.extend(more.map(|i| i as u32));
    }
}

/// How many of the first results are kept together: at least one.
fn kept_together(results: impl Iterator<Item = usize>) -> usize {
    let sums = results.scan(0, |sum, bytes| {
        *sum += bytes;
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= RESULTS).count().max(1)
}

/// `out[t] += weight * expert(x[t])` over the `per_token` (expert, weight) pairs of each token in `routes`, token-major.
/// `x` and `out` are (tokens, hidden).
///
/// # Errors
/// As for [`Mixture::gate`].
///
/// # Panics
/// If the shapes do not fit together or a route names no expert.
pub fn experts(x: &[f32], experts: &Experts, routes: &[(u32, f32)], per_token: usize, out: &mut [f32]) -> Result<(), NotFinite> {
    experts_at(Level::active(), x, experts, routes, per_token, out)
}

/// [`experts`] with a given instruction set.
///
/// # Errors
/// As for [`experts`].
pub fn experts_at(level: Level, x: &[f32], experts: &Experts, routes: &[(u32, f32)], per_token: usize, out: &mut [f32]) -> Result<(), NotFinite> {
    let hidden = experts.gate[0].cols();
    let tokens = x.len() / hidden;
    assert_eq!((x.len(), out.len()), (tokens * hidden, tokens * hidden));
    let mut mixture = Mixture::default();
    team(level, |team| {
        let parts = [Routed { experts, routes, per_token }];
        mixture.gate(team, &parts, tokens, |t| Same(&x[t * hidden..][..hidden]))?;
        mixture.add_to(team, &parts, out);
        Ok(())
    })
}
