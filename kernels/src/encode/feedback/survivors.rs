//! The search with feedback: what a weight should be depends on the errors before it, and so on the path that led there.
//!
//! As in [`Search::run`] four sequences of eight states are searched side by side, 16 rows at a time. Each of a sequence's eight paths
//! keeps the errors of its own last inputs, and what it asks for next is made of those (per-survivor processing, Raheli, Polydoros and
//! Tzou 1995); of the three other sequences it takes the errors of their cheapest paths. Two blocks later the errors of a block are those
//! of the cheapest path, and what they ask of all that follows is one product with the factor's numbers.
use super::factor::{BLOCK, Factor, Feedback};
use crate::{
    encode::{
        coding::{Coding, SPAN},
        search::{MIDDLE, Search, bin, level, subset},
    },
    isa::Isa,
};

/// Steps of a block: each has one input of every sequence.
const STEPS: usize = BLOCK / 4;
/// Steps that a path remembers: those of the block before, and its own.
const WINDOW: usize = 2 * STEPS;

/// Of every sequence, step and state the row's number.
type History = [[[[f32; 16]; 8]; WINDOW]; 4];

/// A tile while it is searched.
pub struct Survivors {
    costs: [[[f32; 16]; 8]; 4],
    errors: Box<History>,
    /// Of every sequence and step the error on its cheapest path.
    best: [[[f32; 16]; WINDOW]; 4],
    /// Errors by input, as far as they are settled.
    settled: Vec<[f32; 16]>,
    /// Of every input and state: the level that led there, and in which rows from the state with h3 set.
    levels: Vec<[[u8; 16]; 8]>,
    from: Vec<[u16; 8]>,
}

impl Default for Survivors {
    fn default() -> Survivors {
        Survivors {
            costs: [[[0.0; 16]; 8]; 4],
            errors: Box::new([[[[0.0; 16]; 8]; WINDOW]; 4]),
            best: [[[0.0; 16]; WINDOW]; 4],
            settled: Vec::new(),
            levels: Vec::new(),
            from: Vec::new(),
        }
    }
}

impl Survivors {
    /// Codes a tile whose scales `c` has.
    #[inline(always)]
    pub fn run<I: Isa>(&mut self, isa: I, search: &Search, feedback: &Feedback, group: usize, x: &[[f32; 16]], c: &mut Coding) {
        self.begin(x.len());
        for factor in feedback.spans() {
            for b in 0..factor.panels.len() {
                self.block(isa, search, factor, b, group, x, c);
            }
        }
        self.back(search, group, x, c);
        let lengths = self.lengths(isa, feedback, x);
        c.row_scales.iter_mut().zip(lengths).for_each(|(scale, length)| *scale *= length);
    }

    /// Before the first input of a tile of `inputs`.
    fn begin(&mut self, inputs: usize) {
        self.costs = [[[1e30; 16]; 8]; 4];
        self.costs.iter_mut().for_each(|costs| costs[0] = [0.0; 16]);
        self.settled.resize(inputs, [0.0; 16]);
        self.levels.resize(inputs, [[0; 16]; 8]);
        self.from.resize(inputs, [0; 8]);
    }

    /// Searches block `b` of a factor's inputs for the rows `x`; spans are those of groups of `group`.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a step of run alone")]
    fn block<I: Isa>(&mut self, isa: I, search: &Search, factor: &Factor, b: usize, group: usize, x: &[[f32; 16]], c: &Coding) {
        let (start, panel) = (factor.inputs.start, &factor.panels[b]);
        let (first, end) = (b * BLOCK, factor.inputs.len().min((b + 1) * BLOCK));
        if b == 0 {
            self.errors.as_flattened_mut().fill([[0.0; 16]; 8]);
            self.best = [[[0.0; 16]; WINDOW]; 4];
        } else {
            for sequence in self.errors.iter_mut() {
                sequence.copy_within(STEPS.., 0);
            }
            for sequence in &mut self.best {
                sequence.copy_within(STEPS.., 0);
            }
        }
        let settled = first.saturating_sub(BLOCK);
        let mut asked = [[0.0; 16]; BLOCK];
        ask(isa, &panel[..settled], &self.settled[start..], &mut asked);
        // Numbers of the window's inputs, before the first of a factor none.
        let window = |q: usize, step: usize| -> Option<&[f32; BLOCK]> { (first + 4 * step + q).checked_sub(BLOCK).and_then(|i| panel.get(i)) };
        for t in 0..(end - first) / 4 {
            for q in 0..4 {
                let (own, j) = (4 * t + q, start + first + 4 * t + q);
                let mut target = isa.add(isa.load(&x[j]), isa.load(&asked[own]));
                for other in (0..4).filter(|other| *other != q) {
                    for step in 0..STEPS + t + usize::from(other < q) {
                        if let Some(numbers) = window(other, step) {
                            target = isa.fma(isa.splat(numbers[own]), isa.load(&self.best[other][step]), target);
                        }
                    }
                }
                let mut targets = [target; 8];
                for step in 0..STEPS + t {
                    if let Some(numbers) = window(q, step) {
                        let number = isa.splat(numbers[own]);
                        for (target, error) in targets.iter_mut().zip(&self.errors[q][step]) {
                            *target = isa.fma(number, isa.load(error), *target);
                        }
                    }
                }
                let span = isa.load(&c.spans[j / group]);
                self.step(isa, search, q, STEPS + t, j, isa.load(&x[j]), &targets, span, isa.splat(factor.d[first + own]));
            }
        }
        // The block before is settled; at the end of a factor's inputs the last one is too, but nothing follows that asks.
        if b > 0 {
            self.settle(isa);
        }
        for (i, to) in self.settled[start + settled..start + first].iter_mut().enumerate() {
            *to = self.best[i % 4][i / 4];
        }
    }

    /// Ends all paths that are not the cheapest one's in the window's older half: what follows is made of errors that stay.
    #[inline(always)]
    fn settle<I: Isa>(&mut self, isa: I) {
        for ((costs, errors), best) in self.costs.iter_mut().zip(&*self.errors).zip(&self.best) {
            for (s, cost) in costs.iter_mut().enumerate() {
                let mut other = 0;
                for (errors, best) in errors[..STEPS].iter().zip(best) {
                    let (error, best) = (isa.load(&errors[s]), isa.load(best));
                    other |= isa.lt(error, best) | isa.lt(best, error);
                }
                isa.store(isa.select(other, isa.splat(1e30), isa.load(cost)), cost);
            }
        }
    }

    /// One input of a sequence.
    #[expect(clippy::too_many_arguments, reason = "all in registers")]
    #[inline(always)]
    fn step<I: Isa>(&mut self, isa: I, search: &Search, q: usize, at: usize, j: usize, x: I::F, targets: &[I::F; 8], span: I::F, d: I::F) {
        let inverse = isa.div(isa.splat(1.0), span);
        let minus = isa.sub(isa.splat(0.0), span);
        let offset = isa.fma(isa.splat(MIDDLE), span, x);
        let costs = &mut self.costs[q];
        // Of every state and the u that it may append: the level, and the cost so far.
        let mut tried = [[(isa.splat(0.0), isa.splat(0.0)); 2]; 8];
        for (s, (tried, target)) in tried.iter_mut().zip(targets).enumerate() {
            let found = isa.lookup(&search.nearest, bin(isa, *target, inverse));
            let (middle, old) = (isa.fma(isa.splat(MIDDLE), span, *target), isa.load(&costs[s]));
            for (u, tried) in tried.iter_mut().enumerate() {
                let level = match subset(s, u) {
                    0 => level(isa, isa.shl_i::<16>(found)),
                    1 => level(isa, isa.shl_i::<8>(found)),
                    2 => level(isa, found),
                    _ => level(isa, isa.shr_i::<8>(found)),
                };
                let away = isa.fma(level, minus, middle);
                *tried = (level, isa.fma(isa.mul(away, away), d, old));
            }
        }
        let (from, levels) = (&mut self.from[j], &mut self.levels[j]);
        for s in 0..8 {
            let ((low, a), (high, b)) = (tried[s >> 1][s & 1], tried[s >> 1 | 4][s & 1]);
            from[s] = isa.lt(b, a);
            isa.store(isa.min(b, a), &mut costs[s]);
            let level = isa.select(from[s], high, low);
            isa.store(isa.fma(level, minus, offset), &mut self.errors[q][at][s]);
            let bytes = isa.to_bytes(isa.and_i(isa.shr_i::<16>(isa.as_i(level)), isa.splat_i(127)));
            levels[s].as_chunks_mut().0.iter_mut().zip(bytes).for_each(|(to, word)| *to = word.to_le_bytes());
        }
        for errors in &mut self.errors[q][..at] {
            let mut old = [isa.splat(0.0); 8];
            old.iter_mut().zip(&*errors).for_each(|(old, error)| *old = isa.load(error));
            for (s, to) in errors.iter_mut().enumerate() {
                isa.store(isa.select(from[s], old[s >> 1 | 4], old[s >> 1]), to);
            }
        }
        // The cheapest path's errors: one of two, of four, of eight.
        let cost = |s: usize| isa.load(&costs[s]);
        let pairs: [u16; 4] = std::array::from_fn(|i| isa.lt(cost(2 * i + 1), cost(2 * i)));
        let pair = |i: usize| isa.min(cost(2 * i + 1), cost(2 * i));
        let fours = [isa.lt(pair(1), pair(0)), isa.lt(pair(3), pair(2))];
        let all = isa.lt(isa.min(pair(3), pair(2)), isa.min(pair(1), pair(0)));
        for (errors, to) in self.errors[q][..=at].iter().zip(&mut self.best[q]) {
            let error = |s: usize| isa.load(&errors[s]);
            let pair = |i: usize| isa.select(pairs[i], error(2 * i + 1), error(2 * i));
            let four = |i: usize| isa.select(fours[i], pair(2 * i + 1), pair(2 * i));
            isa.store(isa.select(all, four(1), four(0)), to);
        }
    }

    /// What rows are multiplied with so that they are not biased: w^T H w / w^T H q. What a coded row makes of the inputs is then as large
    /// as it should be, as far as it is like what the row itself does.
    #[inline(always)]
    fn lengths<I: Isa>(&self, isa: I, feedback: &Feedback, x: &[[f32; 16]]) -> [f32; 16] {
        let (mut own, mut other) = ([0.0f64; 16], [0.0f64; 16]);
        for factor in feedback.spans() {
            let span = factor.inputs.clone();
            let (x, errors) = (&x[span.clone()], &self.settled[span]);
            for (b, panel) in factor.panels.iter().enumerate() {
                let mut sums = [[[0.0; 16]; BLOCK]; 2];
                ask(isa, panel, x, &mut sums[0]);
                ask(isa, panel, errors, &mut sums[1]);
                let first = b * BLOCK;
                for (i, ((x, error), d)) in x[first..].iter().zip(&errors[first..]).zip(&factor.d[first..]).take(BLOCK).enumerate() {
                    for r in 0..16 {
                        let (w, e) = (f64::from(x[r] + sums[0][i][r]), f64::from(error[r] + sums[1][i][r]));
                        own[r] += f64::from(*d) * w * w;
                        other[r] += f64::from(*d) * w * (w - e);
                    }
                }
            }
        }
        std::array::from_fn(|r| if other[r] > 0.0 { (own[r] / other[r]) as f32 } else { 1.0 })
    }

    /// Follows the decisions back: codes, and the errors that they leave.
    fn back(&mut self, search: &Search, group: usize, x: &[[f32; 16]], c: &mut Coding) {
        let mut states = [[0usize; 16]; 4];
        for (states, costs) in states.iter_mut().zip(&self.costs) {
            for (r, state) in states.iter_mut().enumerate() {
                for s in 1..8 {
                    *state = if costs[s][r] < costs[*state][r] { s } else { *state };
                }
            }
        }
        c.codes.fill([0; 16]);
        for (j, x) in x.iter().enumerate().rev() {
            let q = j % 4;
            for (r, state) in states[q].iter_mut().enumerate() {
                let byte = self.levels[j][*state][r];
                let (u, before) = (*state & 1, *state >> 1 | usize::from(self.from[j][*state] >> r & 1) << 2);
                c.codes[j / 4][r] |= i32::from(2 * search.index[subset(before, u)][usize::from(byte)] + u as u8) << (8 * q);
                let level = f32::from(byte) / SPAN - 0.5;
                self.settled[j][r] = x[r] - c.spans[j / group][r] * level;
                *state = before;
            }
        }
    }
}

/// Of a block's inputs: sums over the inputs of `panel` of its numbers times the rows' numbers there.
#[inline(always)]
pub fn ask<I: Isa>(isa: I, panel: &[[f32; BLOCK]], rows: &[[f32; 16]], to: &mut [[f32; 16]; BLOCK]) {
    if I::TOKENS == 8 { ask_by::<I, 8>(isa, panel, rows, to) } else { ask_by::<I, 4>(isa, panel, rows, to) }
}

/// The same, R inputs at a time: as many sums as registers hold.
#[inline(always)]
fn ask_by<I: Isa, const R: usize>(isa: I, panel: &[[f32; BLOCK]], rows: &[[f32; 16]], to: &mut [[f32; 16]; BLOCK]) {
    for (b, to) in to.as_chunks_mut::<R>().0.iter_mut().enumerate() {
        let mut sums = [isa.splat(0.0); R];
        for (numbers, row) in panel.iter().zip(rows) {
            let (row, numbers): (_, &[f32; R]) = (isa.load(row), &numbers.as_chunks().0[b]);
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum = isa.fma(isa.splat(*number), row, *sum);
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            isa.store(sum, to);
        }
    }
}
