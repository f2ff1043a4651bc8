//! Evenly spaced codes of unrotated weights: for every group the scale and offset that lose least, and error feedback where it is known what
//! inputs have in common.
use super::{
    affine,
    feedback::{BLOCK, Factor, Feedback, ask},
    pack::pack_all,
};
use crate::{
    Effort, Format, Scheme,
    isa::{Isa, Kernel},
};
use half::{bf16, f16};

/// Tiles of rows, packed.
pub struct Grid<'a> {
    pub format: Format,
    pub effort: Effort,
    pub rows: &'a [f32],
    pub cols: usize,
    /// What errors at every input count for where there is no feedback.
    pub weights: &'a [f32],
    pub feedback: Option<&'a Feedback>,
    pub out: &'a mut [u8],
}

/// Rows that what is said of all inputs counts as, beside those that say what one counts for.
const PRIOR: f32 = 8.0;

/// What errors count for where inputs are not known: as much as a column's weights are large, mean square over mean square. Inputs are large where
/// weights are, and a survey's scales make both alike (docs/encoder.md has what that gives).
pub fn weights(rows: &[f32], cols: usize) -> Vec<f32> {
    let mut sums = vec![0.0f32; cols];
    for row in rows.chunks_exact(cols) {
        sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += w * w);
    }
    let mean = sums.iter().sum::<f32>() / cols as f32;
    let n = (rows.len() / cols) as f32;
    let part = if mean > 0.0 { n / mean } else { 0.0 };
    sums.into_iter().map(|sum| (sum * part + PRIOR) / (n + PRIOR)).collect()
}

impl Kernel for Grid<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let padded = self.cols.next_multiple_of(16);
        let mut tile = Tile {
            format: self.format,
            factors: self.effort.shrinks(),
            x: vec![[0.0; 16]; self.cols],
            errors: vec![[0.0; 16]; self.cols],
            codes: vec![[0; 16]; padded / 4],
            steps: Vec::new(),
        };
        for (rows, out) in self.rows.chunks(16 * self.cols).zip(self.out.chunks_exact_mut(self.format.row_bytes(16, self.cols))) {
            tile.begin(rows, self.cols);
            match self.feedback {
                Some(feedback) => feedback.spans().iter().for_each(|factor| tile.with(isa, factor)),
                None => tile.without(isa, self.weights),
            }
            tile.end(rows.len() / self.cols, out);
        }
    }
}

/// 16 rows while they are coded.
struct Tile {
    format: Format,
    factors: &'static [f32],
    /// (inputs) of 16 rows.
    x: Vec<[f32; 16]>,
    /// What is left of them.
    errors: Vec<[f32; 16]>,
    /// (padded inputs / 4) of 16 rows of 4 bytes.
    codes: Vec<[i32; 16]>,
    steps: Vec<Step>,
}

impl Tile {
    fn begin(&mut self, rows: &[f32], cols: usize) {
        self.x.fill([0.0; 16]);
        for (r, row) in rows.chunks_exact(cols).enumerate() {
            self.x.iter_mut().zip(row).for_each(|(x, w)| x[r] = *w);
        }
        self.codes.fill([0; 16]);
        self.steps.clear();
    }

    /// Every weight to its nearest level.
    #[inline(always)]
    fn without<I: Isa>(&mut self, isa: I, weights: &[f32]) {
        let group = self.format.group();
        for first in (0..self.x.len()).step_by(group) {
            let inputs = first..self.x.len().min(first + group);
            let step = fit(isa, self.format, self.factors, &weights[inputs.clone()], &self.x[inputs.clone()]);
            for j in inputs {
                let target = isa.load(&self.x[j]);
                self.code(isa, &step, j, target);
            }
            self.steps.push(step);
        }
    }

    /// The inputs of a factor, each to the level nearest to what the errors before it ask for; scales are those of what is asked of a group
    /// before its first input is coded.
    #[inline(always)]
    fn with<I: Isa>(&mut self, isa: I, factor: &Factor) {
        let (start, end) = (factor.inputs.start, factor.inputs.end.min(self.x.len()));
        let group = self.format.group();
        let mut asked = vec![[[0.0; 16]; BLOCK]; group.div_ceil(BLOCK)];
        let mut targets = vec![[0.0; 16]; group];
        for first in (start..end).step_by(group) {
            let inputs = first..end.min(first + group);
            let (own, blocks) = (first - start, (first - start) / BLOCK..(inputs.end - start).div_ceil(BLOCK));
            for (b, asked) in blocks.clone().zip(&mut asked) {
                ask(isa, &factor.panels[b][..own], &self.errors[start..first], asked);
            }
            let targets = &mut targets[..inputs.len()];
            for ((target, x), asked) in targets.iter_mut().zip(&self.x[inputs.clone()]).zip(asked.as_flattened()) {
                isa.store(isa.add(isa.load(x), isa.load(asked)), target);
            }
            let step = fit(isa, self.format, self.factors, &factor.d[own..own + inputs.len()], targets);
            for b in blocks {
                let (panel, at) = (&factor.panels[b], b * BLOCK);
                let mut more = [[0.0; 16]; BLOCK];
                ask(isa, &panel[own..at], &self.errors[first..start + at], &mut more);
                for j in start + at..inputs.end.min(start + at + BLOCK) {
                    let i = j - start - at;
                    let mut target = isa.add(isa.load(&targets[j - first]), isa.load(&more[i]));
                    for (numbers, error) in panel[at..at + i].iter().zip(&self.errors[start + at..]) {
                        target = isa.fma(isa.splat(numbers[i]), isa.load(error), target);
                    }
                    self.code(isa, &step, j, target);
                }
            }
            self.steps.push(step);
        }
    }

    /// Codes input `j` near `target`.
    #[inline(always)]
    fn code<I: Isa>(&mut self, isa: I, step: &Step, j: usize, target: I::F) {
        let code = nearest(isa, self.format, step, target);
        let level = isa.fma(isa.to_f(code), isa.load(&step.scale), isa.load(&step.offset));
        isa.store(isa.sub(isa.load(&self.x[j]), level), &mut self.errors[j]);
        let mut codes = [0; 16];
        isa.store_i(code, &mut codes);
        self.codes[j / 4].iter_mut().zip(codes).for_each(|(to, code)| *to |= code << (8 * (j % 4)));
    }

    /// Packs the first `n` rows; others have nothing but zeros.
    fn end(&mut self, n: usize, out: &mut [u8]) {
        let (heads, packed) = out.split_at_mut(self.steps.len() * self.format.group_bytes());
        heads.fill(0);
        for (step, head) in self.steps.iter().zip(heads.chunks_exact_mut(self.format.group_bytes())) {
            let halves = head.as_chunks_mut::<32>().0.iter_mut().zip(&step.bits);
            halves.for_each(|(to, bits)| to.as_chunks_mut().0.iter_mut().zip(bits).take(n).for_each(|(to, bits)| *to = bits.to_le_bytes()));
        }
        self.codes.iter_mut().for_each(|codes| codes[n..].fill(0));
        pack_all(self.format.bits(), &self.codes, packed);
    }
}

/// Levels of a group of 16 rows: `scale * code + offset`.
#[derive(Clone, Copy)]
struct Step {
    scale: [f32; 16],
    /// 1 over it, 0 where it is 0.
    inverse: [f32; 16],
    offset: [f32; 16],
    /// Scale and offset as they are stored.
    bits: [[u16; 16]; 2],
}

impl Step {
    /// The nearest that can be stored.
    fn stored(format: Format, scale: &[f32; 16], offset: &[f32; 16]) -> Step {
        let half = |v: f32| (f16::from_f32(v).to_bits(), f16::from_f32(v).to_f32());
        let brain = |v: f32| (bf16::from_f32(v).to_bits(), bf16::from_f32(v).to_f32());
        let mut step = Step { scale: [0.0; 16], inverse: [0.0; 16], offset: [0.0; 16], bits: [[0; 16]; 2] };
        for r in 0..16 {
            ((step.bits[0][r], step.scale[r]), (step.bits[1][r], step.offset[r])) = match format.scheme() {
                Scheme::AffineBf16 => (brain(scale[r]), brain(offset[r])),
                Scheme::Affine => (half(scale[r]), half(offset[r])),
                Scheme::Symmetric => {
                    let (bits, scale) = half(short(scale[r]));
                    ((bits, scale), (0, -scale * middle(format)))
                }
                Scheme::Trellis | Scheme::Signed | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Mx | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => {
                    unreachable!("{format} is coded otherwise")
                }
            };
            step.inverse[r] = if step.scale[r] == 0.0 { 0.0 } else { 1.0 / step.scale[r] };
        }
        step
    }

    /// Takes what another has for the rows of a mask.
    fn replace(&mut self, rows: u16, other: &Step) {
        for r in (0..16).filter(|r| rows >> r & 1 == 1) {
            (self.scale[r], self.inverse[r], self.offset[r]) = (other.scale[r], other.inverse[r], other.offset[r]);
            (self.bits[0][r], self.bits[1][r]) = (other.bits[0][r], other.bits[1][r]);
        }
    }
}

/// The code of 0 where zeros are not stored.
fn middle(format: Format) -> f32 {
    (1u32 << (format.bits() - 1)) as f32
}

/// A scale that bf16 and f16 both hold, so that a model of either can have it: 8 significant bits, none of them below f16's last.
fn short(scale: f32) -> f32 {
    const LEAST: f32 = 1.0 / (1 << 24) as f32;
    let brain = bf16::from_f32(scale.clamp(LEAST, 65280.0)).to_f32();
    if f16::from_f32(brain).to_f32() == brain {
        return brain;
    }
    let steps = (brain / LEAST).round_ties_even() as u32;
    let unused = (32 - steps.leading_zeros()).saturating_sub(8);
    (steps >> unused << unused) as f32 * LEAST
}

#[inline(always)]
fn nearest<I: Isa>(isa: I, format: Format, step: &Step, target: I::F) -> I::I {
    let most = ((1u32 << format.bits()) - 1) as f32;
    let exact = isa.mul(isa.sub(target, isa.load(&step.offset)), isa.load(&step.inverse));
    isa.round(isa.max(isa.min(exact, isa.splat(most)), isa.splat(0.0)))
}

/// The best of several scales and offsets for a group's weights, of which every input counts as `d` says: the published rule's, and of each of
/// `factors` what fits the codes best that the range of all weights, so much narrower, gives (least squares).
#[inline(always)]
fn fit<I: Isa>(isa: I, format: Format, factors: &[f32], d: &[f32], x: &[[f32; 16]]) -> Step {
    let (mut low, mut high) = (isa.splat(f32::INFINITY), isa.splat(f32::NEG_INFINITY));
    for x in x {
        (low, high) = (isa.min(low, isa.load(x)), isa.max(high, isa.load(x)));
    }
    let (mut lows, mut highs) = ([0.0; 16], [0.0; 16]);
    isa.store(low, &mut lows);
    isa.store(high, &mut highs);
    let mut best = first(format, &lows, &highs);
    let mut least = error(isa, format, &best, d, x);
    for factor in factors {
        let mut step = narrowed(format, *factor, &lows, &highs);
        // Codes say what fits them, and what fits gives other codes.
        for _ in 0..REFITS {
            step = refitted(isa, format, &step, d, x);
            let found = error(isa, format, &step, d, x);
            let better = isa.lt(found, least);
            least = isa.min(found, least);
            best.replace(better, &step);
        }
    }
    best
}

const REFITS: usize = 2;

/// As MLX rounds where there are offsets; else with the largest magnitude at the last code.
fn first(format: Format, lows: &[f32; 16], highs: &[f32; 16]) -> Step {
    let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
    for r in 0..16 {
        if format.scheme() == Scheme::Symmetric {
            scales[r] = (highs[r] / (middle(format) - 1.0)).max(-lows[r] / middle(format));
        } else {
            [scales[r], offsets[r]] = affine::rule(lows[r], highs[r], format.bits());
        }
    }
    Step::stored(format, &scales, &offsets)
}

fn narrowed(format: Format, factor: f32, lows: &[f32; 16], highs: &[f32; 16]) -> Step {
    let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
    for r in 0..16 {
        if format.scheme() == Scheme::Symmetric {
            scales[r] = factor * highs[r].max(-lows[r]) / (middle(format) - 0.5);
        } else {
            let range = highs[r] - lows[r];
            scales[r] = factor * range / ((1u32 << format.bits()) - 1) as f32;
            offsets[r] = lows[r] + (1.0 - factor) / 2.0 * range;
        }
    }
    Step::stored(format, &scales, &offsets)
}

/// The scale and offset that fit the codes of a step best.
#[inline(always)]
fn refitted<I: Isa>(isa: I, format: Format, step: &Step, d: &[f32], x: &[[f32; 16]]) -> Step {
    let zero = isa.splat(0.0);
    let centre = isa.splat(-middle(format));
    let (mut all, mut codes, mut squares, mut weights, mut products) = (zero, zero, zero, zero, zero);
    for (x, d) in x.iter().zip(d) {
        let (x, d) = (isa.load(x), isa.splat(*d));
        // Around the middle code: less is lost when sums are subtracted.
        let code = isa.add(isa.to_f(nearest(isa, format, step, x)), centre);
        let weighed = isa.mul(code, d);
        all = isa.add(all, d);
        codes = isa.add(codes, weighed);
        squares = isa.fma(weighed, code, squares);
        weights = isa.fma(x, d, weights);
        products = isa.fma(weighed, x, products);
    }
    let mut sums = [[0.0f32; 16]; 5];
    for (sum, to) in [all, codes, squares, weights, products].into_iter().zip(&mut sums) {
        isa.store(sum, to);
    }
    let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
    for r in 0..16 {
        let [all, codes, squares, weights, products] = sums.map(|sum| f64::from(sum[r]));
        let (scale, offset) = if format.scheme() == Scheme::Symmetric {
            (if squares > 0.0 { products / squares } else { f64::from(step.scale[r]) }, 0.0)
        } else {
            let spread = all * squares - codes * codes;
            let scale = if spread > 0.0 { (all * products - codes * weights) / spread } else { f64::from(step.scale[r]) };
            (scale, (weights - scale * codes) / all - scale * f64::from(middle(format)))
        };
        (scales[r], offsets[r]) = (scale as f32, offset as f32);
    }
    Step::stored(format, &scales, &offsets)
}

/// Squared errors of 16 rows.
#[inline(always)]
fn error<I: Isa>(isa: I, format: Format, step: &Step, d: &[f32], x: &[[f32; 16]]) -> I::F {
    let (scale, offset) = (isa.load(&step.scale), isa.load(&step.offset));
    let mut sum = isa.splat(0.0);
    for (x, d) in x.iter().zip(d) {
        let x = isa.load(x);
        let away = isa.sub(x, isa.fma(isa.to_f(nearest(isa, format, step, x)), scale, offset));
        sum = isa.fma(isa.mul(away, away), isa.splat(*d), sum);
    }
    sum
}
