//! The trellis encoder: a search over all codings of a tile, 16 rows side by side, without a data-dependent branch.
//!
//! A row is four interleaved sequences (inputs 4t + q). Along a sequence the stored u bits of three neighbours choose
//! which quarter ("subset") of the level table may be used, so the cheapest coding is a shortest path through eight
//! states (Viterbi; trellis-coded quantization, Marcellin and Fischer 1990). Scales start with the group's largest
//! magnitude on the most negative level and are refitted by least squares between two searches.
use crate::{Format, isa::Isa, levels};

/// Buffers that one thread needs, and the result: codes and scales of a tile.
#[derive(Default)]
pub struct Coding {
    /// Stored codes, (padded inputs) of 16 rows.
    pub codes: Vec<[u8; 16]>,
    /// Signed scales, (groups) of 16 rows.
    pub scales: Vec<[i8; 16]>,
    /// What the signed scales are multiplied with.
    pub row_scales: [f32; 16],
    /// Effective scales of the current search, and the two sums that refit them.
    wanted: Vec<[f32; 16]>,
    products: Vec<[f32; 16]>,
    squares: Vec<[f32; 16]>,
    kept: Vec<[f32; 16]>,
    best: Vec<[f32; 16]>,
    decisions: Vec<[u16; 8]>,
    bins: Vec<[u8; 16]>,
}

/// Starting scales that are tried, as parts of the one that puts the largest magnitude on the outermost level.
fn starts(format: Format) -> &'static [f32] {
    match (format.bits(), format.group()) {
        // Few levels on many weights: where to clip matters most (12 % less error at 2 bits and groups of 128).
        (2, 32..) => &[0.8, 0.9, 1.0, 1.1],
        (3..=6, 32..) => &[0.82, 1.0],
        _ => &[1.0],
    }
}

/// Codes a tile of rotated weights, `x` being (padded inputs) of 16 rows, as a trellis format of 2 to 6 bits.
#[inline(always)]
pub fn encode<I: Isa>(isa: I, format: Format, x: &[[f32; 16]], c: &mut Coding) {
    let groups = x.len().div_ceil(format.group());
    c.codes.resize(x.len(), [0; 16]);
    c.scales.resize(groups, [0; 16]);
    for v in [&mut c.wanted, &mut c.products, &mut c.squares] {
        v.resize(groups, [0.0; 16]);
    }
    for v in [&mut c.best, &mut c.kept] {
        v.resize(groups, [0.0; 16]);
    }
    let search = Search::new(format);
    c.best.fill([-1.0; 16]);
    for start in starts(format) {
        outermost(isa, format, x, start / 64.0, &mut c.wanted);
        eight_bits(isa, c);
        search.run(isa, format, x, c);
        keep_best(isa, c);
    }
    for _ in 0..REFITS {
        std::mem::swap(&mut c.wanted, &mut c.kept);
        eight_bits(isa, c);
        search.run(isa, format, x, c);
        c.best.fill([-1.0; 16]);
        keep_best(isa, c);
    }
}

/// Searches with refitted scales after the first ones: a second lowers the error by less than 1 %.
const REFITS: usize = 1;

/// 8 bits: rounding to signed codes with the same scales, no trellis.
#[inline(always)]
pub fn round<I: Isa>(isa: I, format: Format, x: &[[f32; 16]], c: &mut Coding) {
    let groups = x.len().div_ceil(format.group());
    c.codes.resize(x.len(), [0; 16]);
    c.scales.resize(groups, [0; 16]);
    c.wanted.resize(groups, [0.0; 16]);
    outermost(isa, format, x, 1.0 / 127.0, &mut c.wanted);
    eight_bits(isa, c);
    let mut rounded = [0; 16];
    for (g, (x, codes)) in x.chunks(format.group()).zip(c.codes.chunks_mut(format.group())).enumerate() {
        let inverse = isa.div(isa.splat(1.0), isa.load(&c.wanted[g]));
        for (x, code) in x.iter().zip(codes) {
            let y = isa.max(isa.min(isa.mul(isa.load(x), inverse), isa.splat(127.0)), isa.splat(-127.0));
            isa.store_i(isa.round(y), &mut rounded);
            *code = rounded.map(|v| (v + 128) as u8);
        }
    }
}

/// Scales that put each group's largest magnitude at `-1 / part`.
#[inline(always)]
fn outermost<I: Isa>(isa: I, format: Format, x: &[[f32; 16]], part: f32, scales: &mut [[f32; 16]]) {
    for (x, scale) in x.chunks(format.group()).zip(scales) {
        let mut most = isa.splat(0.0);
        for x in x {
            let x = isa.load(x);
            most = isa.select(isa.lt(isa.abs(most), isa.abs(x)), x, most);
        }
        isa.store(isa.mul(most, isa.splat(-part)), scale);
    }
}

/// Scales as signed 8-bit multiples of one per row; 0 is avoided, so that a scale can always be divided by.
#[inline(always)]
fn eight_bits<I: Isa>(isa: I, c: &mut Coding) {
    let mut most = isa.splat(0.0);
    for s in &c.wanted {
        most = isa.max(isa.abs(isa.load(s)), most);
    }
    let row = isa.mul(most, isa.splat(1.0 / 127.0));
    // An empty row (or one of denormals) keeps a scale of 1e-30: its weights come out as 0 to any precision.
    let row = isa.max(row, isa.splat(1e-30));
    isa.store(row, &mut c.row_scales);
    let mut rounded = [0; 16];
    for (wanted, scale) in c.wanted.iter_mut().zip(&mut c.scales) {
        isa.store_i(isa.round(isa.div(isa.load(wanted), row)), &mut rounded);
        *scale = rounded.map(|v| if v == 0 { 1 } else { v.clamp(-127, 127) as i8 });
        isa.store(isa.mul(isa.load_i8(scale), row), wanted);
    }
}

/// Per group: the least-squares scale of the last search's levels, (x * level) / level^2, where it explains more of
/// the group's energy than the best so far.
#[inline(always)]
fn keep_best<I: Isa>(isa: I, c: &mut Coding) {
    for (((kept, best), p), s) in c.kept.iter_mut().zip(&mut c.best).zip(&c.products).zip(&c.squares) {
        let (p, s) = (isa.load(p), isa.max(isa.load(s), isa.splat(1e-30)));
        let scale = isa.div(p, s);
        let explained = isa.mul(p, scale);
        let better = isa.lt(isa.load(best), explained);
        isa.store(isa.select(better, explained, isa.load(best)), best);
        isa.store(isa.select(better, scale, isa.load(kept)), kept);
    }
}

/// Which subset leads from a state (the last three u, newest in bit 0) to the one that appends u: 2 (u ^ h1 ^ h3) + h2.
const fn subset(state: usize, u: usize) -> usize {
    2 * ((u ^ state ^ (state >> 2)) & 1) + ((state >> 1) & 1)
}

/// A format's levels, ready to be searched.
struct Search {
    /// Levels by index; 0 stands for 0.
    values: [f32; 128],
    /// Distance of neighbouring levels where they are uniform.
    step: f32,
    /// Per bin of width 1 from -64: the nearest level of each subset, as four signed bytes.
    nearest: [u32; 128],
    /// Per bin: the index of that level divided by four, as four bytes.
    quarter: [[u8; 4]; 128],
    count: usize,
}

impl Search {
    fn new(format: Format) -> Search {
        let count = 2 << format.bits();
        let mut s = Search { values: [0.0; 128], step: 128.0 / count as f32, nearest: [0; 128], quarter: [[0; 4]; 128], count };
        levels::values(format, &mut s.values[..count]);
        if format.bits() <= 4 {
            for bin in 0..128 {
                let centre = bin as f32 - 63.5;
                let mut bytes = [0u8; 4];
                for (c, byte) in bytes.iter_mut().enumerate() {
                    let mut best = c;
                    for i in (c..count).step_by(4) {
                        if (s.values[i] - centre).abs() < (s.values[best] - centre).abs() {
                            best = i;
                        }
                    }
                    *byte = s.values[best] as i8 as u8;
                    s.quarter[bin][c] = (best / 4) as u8;
                }
                s.nearest[bin] = u32::from_le_bytes(bytes);
            }
        }
        s
    }

    /// Searches all four sequences with the scales `c.wanted`; leaves codes and the sums of x * level and level^2.
    #[inline(always)]
    fn run<I: Isa>(&self, isa: I, format: Format, x: &[[f32; 16]], c: &mut Coding) {
        c.products.fill([0.0; 16]);
        c.squares.fill([0.0; 16]);
        c.decisions.resize(x.len() / 4, [0; 8]);
        c.bins.resize(x.len() / 4, [0; 16]);
        for q in 0..4 {
            let last =
                if format.bits() <= 4 { self.forward::<I, true>(isa, format, x, q, c) } else { self.forward::<I, false>(isa, format, x, q, c) };
            if format.bits() <= 4 { self.back::<I, true>(isa, format, x, q, last, c) } else { self.back::<I, false>(isa, format, x, q, last, c) }
        }
    }

    /// Costs of the eight states along sequence q; the bit planes of each row's cheapest last state.
    #[inline(always)]
    fn forward<I: Isa, const TABLE: bool>(&self, isa: I, format: Format, x: &[[f32; 16]], q: usize, c: &mut Coding) -> [u16; 3] {
        let mut cost = [isa.splat(1e30); 8];
        cost[0] = isa.splat(0.0);
        let per_group = format.group() / 4;
        let half = (self.count as f32 - 1.0) / 2.0;
        let steps = x.chunks_exact(4).zip(c.decisions.iter_mut()).zip(c.bins.iter_mut());
        let mut scale = isa.splat(0.0);
        let mut inverse = scale;
        for (t, ((x, decisions), bins)) in steps.enumerate() {
            if t % per_group == 0 {
                scale = isa.load(&c.wanted[t / per_group]);
                inverse = isa.div(isa.splat(1.0), scale);
            }
            let x = isa.load(&x[q]);
            let y = isa.mul(x, inverse);
            let mut level = [isa.splat(0.0); 4];
            let mut stored = [0i32; 16];
            if TABLE {
                let bin = isa.trunc(isa.max(isa.min(isa.add(y, isa.splat(64.0)), isa.splat(127.0)), isa.splat(0.0)));
                let found = isa.lookup(&self.nearest, bin);
                isa.store_i(bin, &mut stored);
                level[0] = isa.to_f(isa.shr_i::<24>(isa.shl_i::<24>(found)));
                level[1] = isa.to_f(isa.shr_i::<24>(isa.shl_i::<16>(found)));
                level[2] = isa.to_f(isa.shr_i::<24>(isa.shl_i::<8>(found)));
                level[3] = isa.to_f(isa.shr_i::<24>(found));
            } else {
                // The four levels around y, lowest first: index r + i belongs to subset (r + i) mod 4.
                let at = isa.fma(y, isa.splat(1.0 / self.step), isa.splat(half - 1.5));
                let r = isa.round(isa.max(isa.min(at, isa.splat(self.count as f32 - 4.0)), isa.splat(0.0)));
                isa.store_i(r, &mut stored);
                for (s, level) in level.iter_mut().enumerate() {
                    let index = isa.add_i(r, isa.and_i(isa.sub_i(isa.splat_i(s as i32), r), isa.splat_i(3)));
                    *level = isa.mul(isa.sub(isa.to_f(index), isa.splat(half)), isa.splat(self.step));
                }
            }
            *bins = stored.map(|v| v as u8);
            let mut distance = [isa.splat(0.0); 4];
            for (d, level) in distance.iter_mut().zip(level) {
                *d = isa.sub(x, isa.mul(scale, level));
                *d = isa.mul(*d, *d);
            }
            let old = cost;
            for s in 0..8 {
                let (low, high) = (s >> 1, (s >> 1) | 4);
                let a = isa.add(old[low], distance[subset(low, s & 1)]);
                let b = isa.add(old[high], distance[subset(high, s & 1)]);
                decisions[s] = isa.lt(b, a);
                cost[s] = isa.min(b, a);
            }
        }
        let (mut best, mut planes) = (cost[0], [0u16; 3]);
        for (s, cost) in cost.iter().enumerate().skip(1) {
            let better = isa.lt(*cost, best);
            best = isa.min(*cost, best);
            for (bit, plane) in planes.iter_mut().enumerate() {
                *plane = if s >> bit & 1 == 1 { *plane | better } else { *plane & !better };
            }
        }
        planes
    }

    /// Follows the decisions back, 16 rows at once as bit planes of their states, and writes the codes.
    #[inline(always)]
    fn back<I: Isa, const TABLE: bool>(&self, isa: I, format: Format, x: &[[f32; 16]], q: usize, last: [u16; 3], c: &mut Coding) {
        let [mut s0, mut s1, mut s2] = last;
        let per_group = format.group() / 4;
        for t in (0..x.len() / 4).rev() {
            let d = &c.decisions[t];
            let pick = |a: u16, b: u16, by: u16| (a & !by) | (b & by);
            let low = pick(pick(d[0], d[1], s0), pick(d[2], d[3], s0), s1);
            let high = pick(pick(d[4], d[5], s0), pick(d[6], d[7], s0), s1);
            let came = pick(low, high, s2);
            // The state before: newest u is s1, then s2, then what the decision says.
            let (u, subset_low, subset_high) = (s0, s2, s0 ^ s1 ^ came);
            (s0, s1, s2) = (s1, s2, came);
            let (bins, codes) = (&c.bins[t], &mut c.codes[4 * t + q]);
            let mut level = [0.0; 16];
            for i in 0..16 {
                let subset = usize::from((subset_low >> i & 1) | (subset_high >> i & 1) << 1);
                let quarter = if TABLE {
                    usize::from(self.quarter[usize::from(bins[i] & 127)][subset])
                } else {
                    let r = usize::from(bins[i]);
                    (r + (subset.wrapping_sub(r) & 3)) / 4
                };
                level[i] = self.values[(4 * quarter + subset) & 127];
                codes[i] = (quarter << 1) as u8 | (u >> i & 1) as u8;
            }
            let g = t / per_group;
            let (x, l) = (isa.load(&x[4 * t + q]), isa.load(&level));
            isa.store(isa.fma(x, l, isa.load(&c.products[g])), &mut c.products[g]);
            isa.store(isa.fma(l, l, isa.load(&c.squares[g])), &mut c.squares[g]);
        }
    }
}
