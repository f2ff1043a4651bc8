//! What happens to one token, and to a few columns of one head's memory over all tokens.
use super::layer::DeltaShape;
use crate::{
    isa::{Isa, Kernel},
    ops::{
        norm::scale,
        values::{Same, Values, silu, store},
    },
};
use std::ops::Range;

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

/// Taps that a convolution has at the most.
pub const TAPS: usize = 16;

/// Added to the square of a length that is divided by.
const EPS: f32 = 1e-6;

impl<'a, R: Fn(usize) -> Option<&'a [f32]>> Kernel for Mix<'a, R> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Mix { shape: DeltaShape { key_dim, kernel, .. }, rows, taps, out } = self;
        let channels = out.len() / 16;
        let taps = &taps.as_chunks().0[..kernel * channels];
        // Those before the first token of a sequence add nothing.
        let none = (0..kernel).filter(|tap| rows(*tap).is_none()).count();
        let mut each = [&[][..]; TAPS];
        each.iter_mut().zip(none..kernel).for_each(|(row, tap)| *row = &rows(tap).unwrap_or_default().as_chunks().0[..channels]);
        let each = &each[..kernel - none];
        for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            let mut sum = isa.splat(0.0);
            for (row, tap) in each.iter().zip(none..) {
                sum = isa.fma(isa.load(&taps[tap * channels + i]), isa.load(&row[i]), sum);
            }
            isa.store(silu(isa, sum), out);
        }
        let (queries, rest) = out.split_at_mut(self.shape.keys());
        let shorter = 1.0 / (key_dim as f32).sqrt();
        for (heads, by) in [(queries, shorter), (&mut rest[..self.shape.keys()], 1.0)] {
            for head in heads.chunks_exact_mut(key_dim) {
                let mut sum = isa.splat(0.0);
                for x in head.as_chunks().0 {
                    sum = isa.fma(isa.load(x), isa.load(x), sum);
                }
                let by = isa.splat(by / (isa.sum(sum) + EPS).sqrt());
                for x in head.as_chunks_mut().0 {
                    isa.store(isa.mul(isa.load(x), by), x);
                }
            }
        }
    }
}

/// The gated delta rule (Yang, Kautz and Hatamizadeh, arXiv 2412.06464) for some columns of a value head's memory: of each token
/// `S = decay S; S += k (beta (v - S^T k))^T; out = S^T q`. Columns do not meet in it, so that 32 of them, 16 kB where keys have 128 numbers,
/// stay in the first cache over all tokens; and what one token reads of S for its value is read while the token before it writes it. A chunked
/// form does no fewer products per token, and its results would depend on where a prompt is cut.
pub struct Recall<'b, T> {
    /// Of a token its query, its key and the columns' values.
    pub tokens: T,
    /// Of every token beta and decay.
    pub rates: &'b [[f32; 2]],
    /// Those that are computed now.
    pub now: Range<usize>,
    /// (columns / 16, key_dim, 16).
    pub memory: &'b mut [[f32; 16]],
    /// (columns / 16, tokens, 16).
    pub out: &'b mut [[f32; 16]],
}

impl<'a, T: Fn(usize) -> (&'a [f32], &'a [f32], &'a [f32])> Kernel for Recall<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Recall { tokens, rates, now, memory, out } = self;
        let (n, key_dim) = (rates.len(), tokens(0).0.len());
        let each = memory.chunks_mut(WIDE * key_dim).zip(out.chunks_mut(WIDE * n)).enumerate();
        for (i, (memory, out)) in each {
            // Two at a time share what is read of keys and queries, where there are registers for their sums.
            if memory.len() == WIDE * key_dim && I::TOKENS >= 8 {
                recall::<I, _, WIDE>(isa, WIDE * i, &tokens, rates, now.clone(), memory, out);
                continue;
            }
            for (j, (memory, out)) in memory.chunks_mut(key_dim).zip(out.chunks_mut(n)).enumerate() {
                recall::<I, _, 1>(isa, WIDE * i + j, &tokens, rates, now.clone(), memory, out);
            }
        }
    }
}

/// Sixteens of columns that are computed together at the most.
pub const WIDE: usize = 2;

/// Sixteens of columns from the `first`, `N` of them.
#[inline(always)]
fn recall<'a, I: Isa, T: Fn(usize) -> (&'a [f32], &'a [f32], &'a [f32]), const N: usize>(
    isa: I,
    first: usize,
    tokens: &T,
    rates: &[[f32; 2]],
    now: Range<usize>,
    memory: &mut [[f32; 16]],
    out: &mut [[f32; 16]],
) {
    let (zero, n) = (isa.splat(0.0), rates.len());
    let key_dim = memory.len() / N;
    let mut rest = memory;
    let memory: [&mut [[[f32; 16]; 4]]; N] = std::array::from_fn(|_| {
        let (own, after) = std::mem::take(&mut rest).split_at_mut(key_dim);
        rest = after;
        own.as_chunks_mut().0
    });
    // S^T k of the first token.
    let mut sums = [[zero; 4]; N];
    for (i, k) in tokens(now.start).1.as_chunks::<4>().0.iter().enumerate() {
        for j in 0..4 {
            let k = isa.splat(k[j]);
            for b in 0..N {
                sums[b][j] = isa.fma(k, isa.load(&memory[b][i][j]), sums[b][j]);
            }
        }
    }
    for t in now.clone() {
        let (beta, decay) = (isa.splat(rates[t][0]), isa.splat(rates[t][1]));
        let (q, k, v) = tokens(t);
        // That of the last token is not used.
        let next = tokens((t + 1).min(now.end - 1)).1;
        let mut change = [zero; N];
        for b in 0..N {
            let found = isa.mul(total(isa, sums[b]), decay);
            change[b] = isa.mul(isa.sub(Same(v).vector(isa, first + b), found), beta);
        }
        let mut results = [[zero; 4]; N];
        sums = [[zero; 4]; N];
        let keys = q.as_chunks::<4>().0.iter().zip(k.as_chunks::<4>().0).zip(next.as_chunks::<4>().0);
        for (i, ((q, k), next)) in keys.enumerate() {
            for j in 0..4 {
                let (q, k, next) = (isa.splat(q[j]), isa.splat(k[j]), isa.splat(next[j]));
                for b in 0..N {
                    let memory = &mut memory[b][i][j];
                    let s = isa.fma(k, change[b], isa.mul(isa.load(memory), decay));
                    isa.store(s, memory);
                    results[b][j] = isa.fma(q, s, results[b][j]);
                    sums[b][j] = isa.fma(next, s, sums[b][j]);
                }
            }
        }
        for b in 0..N {
            isa.store(total(isa, results[b]), &mut out[b * n + t]);
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
            let normed = isa.mul(isa.mul(Same(head).vector(isa, 0), isa.splat(scale)), Same(weights).vector(isa, i));
            let gated = isa.mul(normed, silu(isa, Same(gate).vector(isa, i)));
            store(isa, gated, head);
        }
    }
}
