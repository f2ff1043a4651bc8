//! The gated MLPs of a layer as one operation: tokens bucketed by expert, only routed experts touched.
use crate::{
    Matrix,
    activations::{Arranged, Rows, Want},
    dot::Tiles,
    isa::{Isa, Kernel, Level, dispatch},
    linear::{Inputs, TILES, arrange_ordered, tiles_of},
};
use rayon::prelude::*;

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

/// Tokens of one expert, with their weights.
struct Bucket {
    expert: usize,
    tokens: Vec<u32>,
    weights: Vec<f32>,
}

/// `out[t] += weight * expert(x[t])` over the `per_token` (expert, weight) pairs of each token in `routes`, token-major.
/// `x` and `out` are (tokens, hidden). A token's sum goes by rising expert number and does not depend on its batch.
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
    assert_eq!((x.len(), out.len(), routes.len()), (tokens * hidden, tokens * hidden, tokens * per_token));
    let buckets = bucket(routes, per_token, experts.gate.len());
    if buckets.is_empty() {
        return;
    }
    let first: Vec<[&Matrix; 2]> = buckets.iter().map(|b| [&experts.gate[b.expert], &experts.up[b.expert]]).collect();
    let sets: Vec<(&[u32], &[&Matrix])> = buckets.iter().zip(&first).map(|(b, m)| (b.tokens.as_slice(), m.as_slice())).collect();
    let inputs = Inputs::new(level, x, hidden, &sets);
    let middle: Vec<Arranged> = gate_and_up(level, experts, &buckets, &inputs);
    down(level, experts, &buckets, &middle, tokens, out);
}

fn bucket(routes: &[(u32, f32)], per_token: usize, count: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = (0..count).map(|expert| Bucket { expert, tokens: Vec::new(), weights: Vec::new() }).collect();
    for (i, &(e, weight)) in routes.iter().enumerate() {
        let b = &mut buckets[e as usize];
        b.tokens.push((i / per_token) as u32);
        b.weights.push(weight);
    }
    buckets.retain(|b| !b.tokens.is_empty());
    buckets
}

/// silu(gate x) * (up x) of every bucket, made ready for its down projection.
fn gate_and_up(level: Level, experts: &Experts, buckets: &[Bucket], inputs: &Inputs) -> Vec<Arranged> {
    let mut products: Vec<Vec<[f32; 16]>> =
        buckets.iter().map(|b| vec![[0.0; 16]; experts.gate[b.expert].rows().div_ceil(16) * b.tokens.len()]).collect();
    let mut tasks = Vec::new();
    for (i, (b, y)) in buckets.iter().zip(&mut products).enumerate() {
        let (gate, up) = (&experts.gate[b.expert], &experts.up[b.expert]);
        let chunks = y.chunks_mut(TILES * b.tokens.len()).enumerate();
        tasks.extend(chunks.map(|(k, y)| (tiles_of(gate, k * TILES, inputs.of(gate, i), y), (up, inputs.of(up, i)))));
    }
    tasks.into_par_iter().for_each_init(Vec::new, |scratch, (gate, (up, x))| {
        scratch.resize(gate.y.len(), [0.0; 16]);
        tiles_of(up, gate.first_tile, x, scratch).multiply(level);
        let Tiles { format, bytes, rows, cols, first_tile, x, y } = gate;
        Tiles { format, bytes, rows, cols, first_tile, x, y: &mut *y }.multiply(level);
        dispatch(level, Gated { gate: y, up: scratch });
    });
    let ready = buckets.par_iter().zip(products).map(|(b, y)| {
        let m = &experts.down[b.expert];
        let (n, cols) = (b.tokens.len(), m.cols());
        let mut rows = vec![0.0; n * cols];
        for (t, row) in rows.chunks_exact_mut(cols).enumerate() {
            for (to, y) in row.chunks_mut(16).zip(y.iter().skip(t).step_by(n)) {
                to.copy_from_slice(&y[..to.len()]);
            }
        }
        let all: Vec<u32> = (0..n as u32).collect();
        match m.order() {
            None => Rows::new(level, Want::of(m.format()), &rows, cols).arrange(level, &all),
            Some(order) => arrange_ordered(level, &rows, cols, &all, order),
        }
    });
    ready.collect()
}

/// silu(gate) * up, in place of the gate.
struct Gated<'a> {
    gate: &'a mut [[f32; 16]],
    up: &'a [[f32; 16]],
}

impl Kernel for Gated<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let one = isa.splat(1.0);
        for (y, up) in self.gate.iter_mut().zip(self.up) {
            let gate = isa.load(y);
            let sigmoid = isa.div(one, isa.add(one, isa.exp(isa.sub(isa.splat(0.0), gate))));
            isa.store(isa.mul(isa.mul(gate, sigmoid), isa.load(up)), y);
        }
    }
}

/// The down projections, weighted and added: tasks own rows, so no two write the same place and no order is left open.
fn down(level: Level, experts: &Experts, buckets: &[Bucket], middle: &[Arranged], tokens: usize, out: &mut [f32]) {
    let hidden = out.len() / tokens;
    let mut sums = vec![[0.0f32; 16]; hidden.div_ceil(16) * tokens];
    let most = buckets.iter().map(|b| b.tokens.len()).max().unwrap_or(0);
    sums.par_chunks_mut(TILES * tokens).enumerate().for_each_init(
        || vec![[0.0; 16]; TILES * most],
        |scratch, (k, sums)| {
            for (b, x) in buckets.iter().zip(middle) {
                let n = b.tokens.len();
                let y = &mut scratch[..sums.len() / tokens * n];
                tiles_of(&experts.down[b.expert], k * TILES, x, y).multiply(level);
                for (sums, y) in sums.chunks_exact_mut(tokens).zip(y.chunks_exact(n)) {
                    for ((y, &t), &weight) in y.iter().zip(&b.tokens).zip(&b.weights) {
                        for (sum, y) in sums[t as usize].iter_mut().zip(y) {
                            *sum += weight * y;
                        }
                    }
                }
            }
        },
    );
    out.par_chunks_exact_mut(hidden).enumerate().with_min_len(32).for_each(|(t, out)| {
        for (out, sums) in out.chunks_mut(16).zip(sums.iter().skip(t).step_by(tokens)) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += sum;
            }
        }
    });
}
