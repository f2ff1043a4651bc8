//! The search for the cheapest coding of a tile: 16 rows side by side, without a data-dependent branch.
//!
//! A row is four interleaved sequences (inputs 4t + q). Along a sequence the stored u bits of three neighbours choose
//! which quarter ("subset") of the level table may be used, so the cheapest coding is a shortest path through eight
//! states (Viterbi; trellis-coded quantization, Marcellin and Fischer 1990). A group may be tried with several scales: all
//! go on from the same eight costs, and the scale whose cheapest paths are cheapest at the group's end is kept, row by row.
//!
//! Levels are floats from 1 to 2, the level -64 being 1: the bits of such a float are the level's 7 bits behind a
//! constant, so a look-up's bytes become floats with a shift and a mask, and a float's top bits are its bin.
use super::coding::{Coding, Decisions, SPAN};
use crate::isa::Isa;

/// The float that stands for level 0, see [`SPAN`].
pub const MIDDLE: f32 = 1.5;
const BELOW_TWO: f32 = 1.999_999_9;

/// Which subset leads from a state (the last three u, newest in bit 0) to the one that appends u: 2 (u ^ h1 ^ h3) + h2.
pub const fn subset(state: usize, u: usize) -> usize {
    2 * ((u ^ state ^ (state >> 2)) & 1) + ((state >> 1) & 1)
}

/// A format's levels, ready to be searched.
pub struct Search {
    /// Per bin of width 1 from -64: the nearest level of each subset plus 64, as four bytes.
    pub nearest: [u32; 128],
    /// Per bin: the index of that level divided by four, as four bytes.
    quarter: [u32; 128],
    /// Per subset and level plus 64: the level's index divided by four.
    pub index: [[u8; 128]; 4],
}

/// Costs of the eight states of the four sequences, 16 rows each.
type Costs = [[[f32; 16]; 8]; 4];

impl Search {
    /// `levels` are `2 << bits` numbers from -64 to 63, rising.
    pub fn new(levels: &[i8]) -> Search {
        let mut s = Search { nearest: [0; 128], quarter: [0; 128], index: [[0; 128]; 4] };
        for (i, level) in levels.iter().enumerate() {
            s.index[i % 4][(i32::from(*level) + 64) as usize] = (i / 4) as u8;
        }
        for bin in 0..128 {
            let centre = bin as f32 - 63.5;
            let distance = |i: usize| (f32::from(levels[i]) - centre).abs();
            for c in 0..4 {
                let best = (c..levels.len()).step_by(4).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(c);
                s.nearest[bin] |= ((i32::from(levels[best]) + 64) as u32) << (8 * c);
                s.quarter[bin] |= ((best / 4) as u32) << (8 * c);
            }
        }
        s
    }

    /// Searches all four sequences. `group` inputs share a span, one of `c.spans` times one of `factors`, rounded as it
    /// will be stored; leaves the chosen spans and the sums of weight * level and level^2, and the codes where `codes`.
    #[inline(always)]
    pub fn run<I: Isa>(&self, isa: I, group: usize, factors: &[f32], codes: bool, x: &[[f32; 16]], c: &mut Coding) {
        let mut b = std::mem::take(&mut c.buffers);
        b.decisions.resize(x.len() / 4, Decisions::default());
        b.trial.resize(group / 4, Decisions::default());
        let mut costs: Costs = [[[1e30; 16]; 8]; 4];
        costs.iter_mut().for_each(|c| c[0] = [0.0; 16]);
        let row = isa.load(&c.row_scales);
        let groups = x.chunks(group).zip(b.decisions.chunks_mut(group / 4)).zip(c.spans.iter_mut().zip(&mut c.scales));
        for ((x, decisions), (span, scale)) in groups {
            let first = isa.load(span);
            let (before, mut best) = (costs, isa.splat(f32::INFINITY));
            for (i, &factor) in factors.iter().enumerate() {
                let (tried_scale, tried) = stored(isa, isa.mul(first, isa.splat(factor)), row);
                let mut after = before;
                let total = self.forward(isa, tried, x, &mut after, if i == 0 { decisions } else { &mut b.trial });
                let better = isa.lt(total, best);
                best = isa.min(total, best);
                if i == 0 {
                    (costs, *scale) = (after, tried_scale);
                    isa.store(tried, span);
                    continue;
                }
                isa.store(isa.select(better, tried, isa.load(span)), span);
                for (r, s) in scale.iter_mut().enumerate() {
                    *s = if better >> r & 1 == 1 { tried_scale[r] } else { *s };
                }
                for (cost, after) in costs.as_flattened_mut().iter_mut().zip(after.as_flattened()) {
                    isa.store(isa.select(better, isa.load(after), isa.load(cost)), cost);
                }
                for (d, t) in decisions.as_flattened_mut().as_flattened_mut().iter_mut().zip(b.trial.as_flattened().as_flattened()) {
                    *d = (*d & !better) | (*t & better);
                }
            }
        }
        if codes {
            self.back::<I, true>(isa, group, x, &costs, c, &b.decisions);
        } else {
            self.back::<I, false>(isa, group, x, &costs, c, &b.decisions);
        }
        c.buffers = b;
    }

    /// Costs of the eight states of every sequence along a group; gives the sum of each row's four least.
    #[inline(always)]
    fn forward<I: Isa>(&self, isa: I, span: I::F, x: &[[f32; 16]], costs: &mut Costs, decisions: &mut [Decisions]) -> I::F {
        let inverse = isa.div(isa.splat(1.0), span);
        let minus = isa.sub(isa.splat(0.0), span);
        let middle = isa.mul(isa.splat(MIDDLE), span);
        let mut total = isa.splat(0.0);
        for (q, costs) in costs.iter_mut().enumerate() {
            let mut cost = [isa.splat(0.0); 8];
            for (cost, from) in cost.iter_mut().zip(&*costs) {
                *cost = isa.load(from);
            }
            for (x, decisions) in x.chunks_exact(4).zip(decisions.iter_mut()) {
                let x = isa.load(&x[q]);
                let found = isa.lookup(&self.nearest, bin(isa, x, inverse));
                let x = isa.add(x, middle);
                let levels =
                    [level(isa, isa.shl_i::<16>(found)), level(isa, isa.shl_i::<8>(found)), level(isa, found), level(isa, isa.shr_i::<8>(found))];
                let mut distance = [x; 4];
                for (distance, level) in distance.iter_mut().zip(levels) {
                    let d = isa.fma(level, minus, x);
                    *distance = isa.mul(d, d);
                }
                let old = cost;
                for s in 0..8 {
                    let (low, high) = (s >> 1, (s >> 1) | 4);
                    let a = isa.add(old[low], distance[subset(low, s & 1)]);
                    let b = isa.add(old[high], distance[subset(high, s & 1)]);
                    decisions[s][q] = isa.lt(b, a);
                    cost[s] = isa.min(b, a);
                }
            }
            let mut least = cost[0];
            for (cost, to) in cost.iter().zip(costs) {
                least = isa.min(*cost, least);
                isa.store(*cost, to);
            }
            total = isa.add(total, least);
        }
        total
    }

    /// Follows the decisions back, all rows and sequences at once as bit planes of their states.
    #[inline(always)]
    fn back<I: Isa, const CODES: bool>(&self, isa: I, group: usize, x: &[[f32; 16]], costs: &Costs, c: &mut Coding, decisions: &[Decisions]) {
        let [mut s0, mut s1, mut s2] = cheapest(isa, costs);
        for (g, x) in x.chunks(group).enumerate().rev() {
            let span = isa.load(&c.spans[g]);
            let inverse = isa.div(isa.splat(1.0), span);
            let (mut product, mut square) = (isa.splat(0.0), isa.splat(0.0));
            let first = g * group / 4;
            for (t, x) in x.as_chunks::<4>().0.iter().enumerate().rev() {
                let mut d = [0; 8];
                d.iter_mut().zip(&decisions[first + t]).for_each(|(d, from)| *d = joined(*from));
                let pick = |a: u64, b: u64, by: u64| (a & !by) | (b & by);
                let low = pick(pick(d[0], d[1], s0), pick(d[2], d[3], s0), s1);
                let high = pick(pick(d[4], d[5], s0), pick(d[6], d[7], s0), s1);
                let came = pick(low, high, s2);
                // The state before: newest u is s1, then s2, then what the decision says.
                let (u, subset_low, subset_high) = (s0, s2, s0 ^ s1 ^ came);
                (s0, s1, s2) = (s1, s2, came);
                let mut codes = isa.splat_i(0);
                for (q, x) in x.iter().enumerate().rev() {
                    let part = |planes: u64| (planes >> (16 * q)) as u16;
                    let subset = [part(subset_low), part(subset_high)];
                    let x = isa.load(x);
                    let bin = bin(isa, x, inverse);
                    let level = level(isa, isa.shl_i::<16>(of_subset(isa, subset, isa.lookup(&self.nearest, bin))));
                    let level = isa.sub(level, isa.splat(MIDDLE));
                    product = isa.fma(x, level, product);
                    square = isa.fma(level, level, square);
                    if CODES {
                        let quarter = isa.shl_i::<1>(of_subset(isa, subset, isa.lookup(&self.quarter, bin)));
                        let code = isa.or_i(quarter, select(isa, part(u), isa.splat_i(1), isa.splat_i(0)));
                        codes = isa.or_i(isa.shl_i::<8>(codes), code);
                    }
                }
                if CODES {
                    isa.store_i(codes, &mut c.codes[first + t]);
                }
            }
            isa.store(product, &mut c.products[g]);
            isa.store(square, &mut c.squares[g]);
        }
    }
}

/// Which of 128 bins a weight falls into, in the low seven bits.
#[inline(always)]
pub fn bin<I: Isa>(isa: I, x: I::F, inverse: I::F) -> I::I {
    let y = isa.fma(x, inverse, isa.splat(MIDDLE));
    isa.shr_i::<16>(isa.as_i(isa.max(isa.min(y, isa.splat(BELOW_TWO)), isa.splat(1.0))))
}

/// The level in bits 16 to 22, as a float.
#[inline(always)]
pub fn level<I: Isa>(isa: I, bits: I::I) -> I::F {
    isa.as_f(isa.or_i(isa.and_i(bits, isa.splat_i(0x7f_0000)), isa.splat_i(0x3f80_0000)))
}

/// The byte of four that a subset's two bits name.
#[inline(always)]
fn of_subset<I: Isa>(isa: I, [low, high]: [u16; 2], bytes: I::I) -> I::I {
    let bytes = select(isa, low, isa.shr_i::<8>(bytes), bytes);
    isa.and_i(select(isa, high, isa.shr_i::<16>(bytes), bytes), isa.splat_i(127))
}

#[inline(always)]
fn select<I: Isa>(isa: I, mask: u16, a: I::I, b: I::I) -> I::I {
    isa.as_i(isa.select(mask, isa.as_f(a), isa.as_f(b)))
}

fn joined(d: [u16; 4]) -> u64 {
    u64::from(d[0]) | u64::from(d[1]) << 16 | u64::from(d[2]) << 32 | u64::from(d[3]) << 48
}

/// Bit planes of the state that is cheapest at the end, of every row and sequence.
#[inline(always)]
fn cheapest<I: Isa>(isa: I, costs: &Costs) -> [u64; 3] {
    let mut planes = [0; 3];
    for (q, costs) in costs.iter().enumerate() {
        let mut best = isa.load(&costs[0]);
        for (s, cost) in costs.iter().enumerate().skip(1) {
            let cost = isa.load(cost);
            let better = u64::from(isa.lt(cost, best)) << (16 * q);
            best = isa.min(cost, best);
            for (bit, plane) in planes.iter_mut().enumerate() {
                *plane = if s >> bit & 1 == 1 { *plane | better } else { *plane & !better };
            }
        }
    }
    planes
}

/// A span as it will be stored: a signed 8-bit multiple of the row's scale. 0 is avoided, so that it can be divided by.
#[inline(always)]
pub fn stored<I: Isa>(isa: I, span: I::F, row: I::F) -> ([i8; 16], I::F) {
    let mut rounded = [0; 16];
    isa.store_i(isa.round(isa.div(span, isa.mul(row, isa.splat(SPAN)))), &mut rounded);
    let scale = rounded.map(|v| if v == 0 { 1 } else { v.clamp(-127, 127) as i8 });
    (scale, isa.mul(isa.mul(isa.load_i8(&scale), row), isa.splat(SPAN)))
}
