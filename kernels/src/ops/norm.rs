//! Norms of rows: by the root of their mean square, or of that around their mean.
use super::{
    finite::{NotFinite, Watch, finite},
    values::{Same, Values, store},
};
use crate::{
    isa::{Isa, Kernel, Level, dispatch},
    team::Team,
};

/// How rows are normalised.
#[derive(Clone, Copy, Debug)]
pub struct RowNorm<'a> {
    /// What each number is multiplied with.
    pub weights: &'a [f32],
    /// What is added then.
    pub bias: Option<&'a [f32]>,
    /// Added to the mean square.
    pub eps: f32,
    /// Whether the mean is taken off first: layer norm (Ba, Kiros and Hinton, arXiv 1607.06450). Else it is the root mean square norm (Zhang
    /// and Sennrich, arXiv 1910.07467).
    pub centred: bool,
}

impl<'a> RowNorm<'a> {
    /// By the root mean square alone.
    pub fn rms(weights: &'a [f32], eps: f32) -> RowNorm<'a> {
        RowNorm { weights, bias: None, eps, centred: false }
    }

    /// A row, normalised and multiplied with a number.
    pub fn of(self, level: Level, row: &'a [f32], times: f32) -> Normed<'a> {
        let [mean, scale] = dispatch(level, Size { row, norm: self });
        Normed { row, norm: self, mean, scale: scale * times, times }
    }

    /// `rows`, (rows, weights' length), in place.
    ///
    /// # Errors
    /// Where a result is not finite.
    pub fn apply(self, team: &Team, rows: &mut [f32]) -> Result<(), NotFinite> {
        let (level, watch) = (team.level(), Watch::default());
        team.chunks(rows, self.weights.len(), |_, row| {
            dispatch(level, NormRow { row, norm: self });
            watch.see(finite(level, row));
        });
        watch.result("normed rows")
    }
}

/// A row as a norm makes it.
pub struct Normed<'a> {
    row: &'a [f32],
    norm: RowNorm<'a>,
    mean: f32,
    /// With what the result is multiplied with.
    scale: f32,
    times: f32,
}

impl Normed<'_> {
    /// What the row, less its mean where that is taken off, is multiplied with before the weights.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// All of it.
    pub fn write_to(&self, level: Level, out: &mut [f32]) {
        dispatch(level, Write { normed: self, out });
    }
}

impl Values for Normed<'_> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F {
        let mut x = Same(self.row).vector(isa, i);
        if self.norm.centred {
            x = isa.sub(x, isa.splat(self.mean));
        }
        let y = isa.mul(isa.mul(x, isa.splat(self.scale)), Same(self.norm.weights).vector(isa, i));
        match self.norm.bias {
            Some(bias) => isa.fma(Same(bias).vector(isa, i), isa.splat(self.times), y),
            None => y,
        }
    }
}

struct Write<'a, 'b> {
    normed: &'a Normed<'b>,
    out: &'a mut [f32],
}

impl Kernel for Write<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, out) in self.out.chunks_mut(16).enumerate() {
            store(isa, self.normed.vector(isa, i), out);
        }
    }
}

/// The mean that is taken off, and 1 / root mean square of what is left.
struct Size<'a> {
    row: &'a [f32],
    norm: RowNorm<'a>,
}

impl Kernel for Size<'_> {
    type Out = [f32; 2];
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [f32; 2] {
        size(isa, self.row, &self.norm)
    }
}

/// One row, in place.
pub(super) struct NormRow<'a> {
    pub row: &'a mut [f32],
    pub norm: RowNorm<'a>,
}

impl Kernel for NormRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let NormRow { row, norm } = self;
        let [mean, scale] = size(isa, row, &norm);
        for (i, row) in row.chunks_mut(16).enumerate() {
            let at = (16 * i).min(norm.weights.len());
            let own = RowNorm { weights: &norm.weights[at..], bias: norm.bias.map(|bias| &bias[at..]), ..norm };
            let y = Normed { row, norm: own, mean, scale, times: 1.0 }.vector(isa, 0);
            store(isa, y, row);
        }
    }
}

#[inline(always)]
fn size<I: Isa>(isa: I, row: &[f32], norm: &RowNorm) -> [f32; 2] {
    if !norm.centred {
        return [0.0, scale(isa, row, norm.eps)];
    }
    let mut sum = isa.splat(0.0);
    for i in 0..row.len().div_ceil(16) {
        sum = isa.add(sum, Same(row).vector(isa, i));
    }
    let mean = isa.sum(sum) / row.len() as f32;
    let (whole, rest) = row.as_chunks::<16>();
    let mut squares = isa.splat(0.0);
    for part in whole {
        let x = isa.sub(isa.load(part), isa.splat(mean));
        squares = isa.fma(x, x, squares);
    }
    let squares = isa.sum(squares) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    [mean, inverse(squares / row.len() as f32 + norm.eps)]
}

/// 1 / root mean square.
#[inline(always)]
pub(super) fn scale<I: Isa>(isa: I, row: &[f32], eps: f32) -> f32 {
    let mut sum = isa.splat(0.0);
    for i in 0..row.len().div_ceil(16) {
        let x = Same(row).vector(isa, i);
        sum = isa.fma(x, x, sum);
    }
    inverse(isa.sum(sum) / row.len() as f32 + eps)
}

#[inline(always)]
fn inverse(square: f32) -> f32 {
    let scale = 1.0 / square.sqrt();
    // Squares whose sum is more than any number: nothing would be left of the row, without a word.
    if scale == 0.0 { f32::NAN } else { scale }
}

#[cfg(test)]
mod tests {
    use super::RowNorm;
    use crate::{
        team::team,
        tests::{gaussian, levels},
    };

    /// Against f64, with the mean far from 0, at lengths that end within a vector; in place and as inputs.
    #[test]
    fn norms_are_what_they_are_defined_as() {
        for level in levels() {
            for n in [1, 15, 16, 40, 333] {
                for (centred, biased) in [(false, false), (true, false), (true, true)] {
                    let row: Vec<f32> = gaussian(n, 1).iter().map(|x| x + 3.0).collect();
                    let (weights, bias) = (gaussian(n, 2), gaussian(n, 3));
                    let norm = RowNorm { weights: &weights, bias: biased.then_some(&bias), eps: 1e-5, centred };
                    let mean = if centred { row.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64 } else { 0.0 };
                    let square = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64 + 1e-5;
                    let expected = |i: usize| {
                        let y = (f64::from(row[i]) - mean) / square.sqrt() * f64::from(weights[i]);
                        y + if biased { f64::from(bias[i]) } else { 0.0 }
                    };
                    let (mut own, mut twice) = (row.clone(), vec![0.0; n]);
                    team(level, |team| norm.apply(team, &mut own)).expect("finite");
                    norm.of(level, &row, 2.0).write_to(level, &mut twice);
                    for i in 0..n {
                        assert!((f64::from(own[i]) - expected(i)).abs() < 2e-5 * (1.0 + expected(i).abs()), "{level:?} {n} {centred}");
                        assert!((f64::from(twice[i]) - 2.0 * expected(i)).abs() < 4e-5 * (1.0 + expected(i).abs()), "{level:?} {n} {centred}");
                    }
                }
            }
        }
    }
}
