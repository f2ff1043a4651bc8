//! What is asked of rows of logits: how likely a token is, and how far one distribution is from another.
use super::values::{Same, Values, sigmoid, store};
use crate::{
    isa::{Isa, Kernel, Level, dispatch},
    team::Team,
};

/// Logits that are summed in f32, 256 per lane, before f64 takes the sum: an error of 1e-7.
const PART: usize = 4096;

/// The natural logarithm of the sum of e^logit over a row.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    dispatch(Level::active(), LogSum(row))
}

/// The Kullback-Leibler divergence of `row`'s distribution from `reference`'s, in nats: the sum over tokens of p (ln p - ln q), p
/// that of `reference`. `log_sum` is `row`'s [`log_sum_exp`].
pub fn divergence(row: &[f32], log_sum: f64, reference: &[f32]) -> f64 {
    dispatch(Level::active(), Divergence { row, log_sum, reference })
}

/// Makes of every logit `cap tanh(logit / cap)`: what comes near `cap` and never reaches it.
pub fn bound(team: &Team, logits: &mut [f32], cap: f32) {
    let level = team.level();
    team.chunks(logits, PART, |_, part| dispatch(level, Bound { part, cap }));
}

struct Bound<'a> {
    part: &'a mut [f32],
    cap: f32,
}

impl Kernel for Bound<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        // The tangent is 2 sigmoid(2 x) - 1, which near 0 is as exact as 1 is: 1e-7 of the cap.
        let (cap, twice) = (isa.splat(self.cap), isa.splat(2.0 / self.cap));
        for part in self.part.chunks_mut(16) {
            let half = sigmoid(isa, isa.mul(Same(part).vector(isa, 0), twice));
            store(isa, isa.mul(cap, isa.sub(isa.add(half, half), isa.splat(1.0))), part);
        }
    }
}

struct LogSum<'a>(&'a [f32]);

impl Kernel for LogSum<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        let most = largest(isa, self.0);
        let mut all = 0.0;
        for part in self.0.chunks(PART) {
            let mut sum = isa.splat(0.0);
            for i in 0..part.len().div_ceil(16) {
                sum = isa.add(sum, weight(isa, part, i, most));
            }
            all += f64::from(isa.sum(sum));
        }
        f64::from(most) + all.ln()
    }
}

struct Divergence<'a> {
    row: &'a [f32],
    log_sum: f64,
    reference: &'a [f32],
}

impl Kernel for Divergence<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f64 {
        // With logits p and q: the mean of p - q under p's distribution, and the difference of the logarithms of both sums.
        let most = largest(isa, self.reference);
        let (mut all, mut apart) = (0.0, 0.0);
        for (q, p) in self.row.chunks(PART).zip(self.reference.chunks(PART)) {
            let (mut sum, mut difference) = (isa.splat(0.0), isa.splat(0.0));
            for i in 0..p.len().div_ceil(16) {
                let weight = weight(isa, p, i, most);
                sum = isa.add(sum, weight);
                difference = isa.fma(weight, isa.sub(Same(p).vector(isa, i), Same(q).vector(isa, i)), difference);
            }
            all += f64::from(isa.sum(sum));
            apart += f64::from(isa.sum(difference));
        }
        apart / all + self.log_sum - (f64::from(most) + all.ln())
    }
}

/// e^(logit - most) of the i-th 16 of a part; 0 past its end.
#[inline(always)]
fn weight<I: Isa>(isa: I, part: &[f32], i: usize, most: f32) -> I::F {
    let all = isa.exp(isa.sub(Same(part).vector(isa, i), isa.splat(most)));
    let left = part.len() - 16 * i;
    if left < 16 { isa.select((1u16 << left) - 1, all, isa.splat(0.0)) } else { all }
}

#[inline(always)]
fn largest<I: Isa>(isa: I, row: &[f32]) -> f32 {
    let (whole, rest) = row.as_chunks();
    let mut most = isa.splat(f32::NEG_INFINITY);
    for v in whole {
        most = isa.max(isa.load(v), most);
    }
    rest.iter().fold(isa.largest(most), |most, v| v.max(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        team::team,
        tests::{gaussian, levels},
    };

    #[test]
    fn bounded_logits_are_their_tangent() {
        for level in levels() {
            for n in [1, 15, 16, 40, PART + 7] {
                let plain: Vec<f32> = gaussian(n, 3).iter().map(|v| 20.0 * v).collect();
                let mut bounded = [&plain[..], &[1e9, f32::MIN, 0.0]].concat();
                team(level, |team| bound(team, &mut bounded, 30.0));
                for (got, x) in bounded.iter().zip(&plain) {
                    assert!((f64::from(*got) - 30.0 * (f64::from(*x) / 30.0).tanh()).abs() < 1e-5, "{level:?}: {got} of {x}");
                }
                assert_eq!(bounded[n..], [30.0, -30.0, 0.0], "{level:?}");
                let mut bad = [f32::NAN];
                team(level, |team| bound(team, &mut bad, 30.0));
                assert!(bad[0].is_nan(), "{level:?}");
            }
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_f64() {
        for n in [1, 15, 16, 17, 4096, 8192, 50_001] {
            let [row, reference] = [1, 2].map(|seed| gaussian(n, seed).iter().map(|v| 4.0 * v).collect::<Vec<f32>>());
            let exact = |row: &[f32]| row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
            let (norm, reference_norm) = (exact(&row), exact(&reference));
            let terms = row.iter().zip(&reference).map(|(q, p)| {
                let log_p = f64::from(*p) - reference_norm;
                log_p.exp() * (log_p - f64::from(*q) + norm)
            });
            let expected = terms.sum::<f64>();
            for level in Level::ALL.into_iter().filter(|l| l.available()) {
                let log_sum = dispatch(level, LogSum(&row));
                assert!((log_sum - norm).abs() < 1e-6, "{level:?} {n}: {log_sum} is not {norm}");
                let found = dispatch(level, Divergence { row: &row, log_sum, reference: &reference });
                assert!((found - expected).abs() < 1e-6 * (1.0 + expected), "{level:?} {n}: {found} is not {expected}");
            }
        }
    }

    #[test]
    fn the_same_row_is_not_apart_and_far_logits_are_no_numbers_less() {
        let row = [1e4, -1e4, 0.0, 3.0];
        assert_eq!((log_sum_exp(&row), divergence(&row, 1e4, &row)), (1e4, 0.0));
    }
}
