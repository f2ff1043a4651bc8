//! What happens to one token, and to 16 numbers of one head's memory over all tokens.
use super::layer::DeltaShape;
use crate::{
    isa::{Isa, Kernel},
    ops::{
        residual::{scale, store},
        values::{Normed, Same, Values, silu},
    },
};

/// The convolution of one token, silu, and queries and keys of length 1, queries over the root of their number besides.
pub struct Mix<'a, R> {
    pub shape: DeltaShape,
    /// The inputs of the last tokens, as many as there are taps, the token's own last; none before the first of a sequence.
    pub rows: R,
    /// (kernel, channels).
    pub taps: &'a [f32],
    /// (channels).
    pub out: &'a mut [f32],
}

/// Added to the square of a length that is divided by.
const EPS: f32 = 1e-6;

impl<'a, R: Fn(usize) -> Option<&'a [f32]>> Kernel for Mix<'a, R> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Mix { shape: DeltaShape { key_dim, .. }, rows, taps, out } = self;
        let channels = out.len();
        out.fill(0.0);
        for (j, taps) in taps.chunks_exact(channels).enumerate() {
            let Some(row) = rows(j) else { continue };
            for ((sum, x), w) in out.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0).zip(taps.as_chunks().0) {
                isa.store(isa.fma(isa.load(w), isa.load(x), isa.load(sum)), sum);
            }
        }
        out.as_chunks_mut().0.iter_mut().for_each(|x| isa.store(silu(isa, isa.load(x)), x));
        let (queries, rest) = out.split_at_mut(self.shape.keys());
        let shorter = 1.0 / (key_dim as f32).sqrt();
        for (heads, by) in [(queries, shorter), (&mut rest[..self.shape.keys()], 1.0)] {
            for head in heads.chunks_exact_mut(key_dim) {
                let sum = head.as_chunks().0.iter().fold(isa.splat(0.0), |sum, x| isa.fma(isa.load(x), isa.load(x), sum));
                let by = isa.splat(by / (isa.sum(sum) + EPS).sqrt());
                head.as_chunks_mut().0.iter_mut().for_each(|x| isa.store(isa.mul(isa.load(x), by), x));
            }
        }
    }
}

/// The gated delta rule (Yang, Kautz and Hatamizadeh, arXiv 2412.06464) for 16 numbers of a value head: of each token
/// `S = decay S; S += k (beta (v - S^T k))^T; out = S^T q`. Numbers of a value do not meet in it, so these 16 columns of S, 8 kB of them
/// where keys have 128 numbers, stay in the first cache over all tokens; and what one token reads of S for its value is read while the
/// token before it writes it. A chunked form does no fewer products per token (64 + 64 of dim^2 / 64 for its triangles and 3 dim^2), and its
/// results would depend on where a prompt is cut.
pub struct Recall<'a, T> {
    /// Of a token its query, key and value.
    pub tokens: T,
    /// Of every token beta and decay.
    pub rates: &'a [[f32; 2]],
    /// (key_dim, 16).
    pub memory: &'a mut [[f32; 16]],
    /// Of every token.
    pub out: &'a mut [[f32; 16]],
}

impl<'a, T: Fn(usize) -> (&'a [f32], &'a [f32], &'a [f32; 16])> Kernel for Recall<'a, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Recall { tokens, rates, memory, out } = self;
        let zero = isa.splat(0.0);
        // S^T k of the first token.
        let mut sums = [zero; 4];
        for (memory, k) in memory.as_chunks::<4>().0.iter().zip(tokens(0).1.as_chunks::<4>().0) {
            for j in 0..4 {
                sums[j] = isa.fma(isa.splat(k[j]), isa.load(&memory[j]), sums[j]);
            }
        }
        for (t, (out, [beta, decay])) in out.iter_mut().zip(rates).enumerate() {
            let (q, k, v) = tokens(t);
            // That of the last token is not used.
            let next = tokens((t + 1).min(rates.len() - 1)).1;
            let decay = isa.splat(*decay);
            let found = isa.mul(total(isa, sums), decay);
            let change = isa.mul(isa.sub(isa.load(v), found), isa.splat(*beta));
            let mut results = [zero; 4];
            sums = [zero; 4];
            let keys = q.as_chunks::<4>().0.iter().zip(k.as_chunks::<4>().0).zip(next.as_chunks::<4>().0);
            for (memory, ((q, k), next)) in memory.as_chunks_mut::<4>().0.iter_mut().zip(keys) {
                for j in 0..4 {
                    let s = isa.fma(isa.splat(k[j]), change, isa.mul(isa.load(&memory[j]), decay));
                    isa.store(s, &mut memory[j]);
                    results[j] = isa.fma(isa.splat(q[j]), s, results[j]);
                    sums[j] = isa.fma(isa.splat(next[j]), s, sums[j]);
                }
            }
            isa.store(total(isa, results), out);
        }
    }
}

#[inline(always)]
fn total<I: Isa>(isa: I, [a, b, c, d]: [I::F; 4]) -> I::F {
    isa.add(isa.add(a, b), isa.add(c, d))
}

/// A head's result over its root mean square, times weights, times silu of its gate.
pub struct Finish<'a> {
    /// As it was found.
    pub head: &'a mut [f32],
    pub gate: &'a [f32],
    pub weights: &'a [f32],
    pub eps: f32,
}

impl Kernel for Finish<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Finish { head, gate, weights, eps } = self;
        let scale = scale(isa, head, eps);
        for (i, head) in head.chunks_mut(16).enumerate() {
            let normed = Normed { row: head, scale, weights: &weights[16 * i..] }.vector(isa, 0);
            let gated = isa.mul(normed, silu(isa, Same(gate).vector(isa, i)));
            store(isa, gated, head);
        }
    }
}
