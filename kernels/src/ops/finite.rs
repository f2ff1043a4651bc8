//! Whether numbers are numbers. The 8-bit code of a NaN would be one of a number, so a NaN or an infinity is looked for where inputs are
//! made ready and where results leave.
use crate::isa::{Isa, Kernel, Level, dispatch};
use std::{
    error, fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// What holds a NaN or an infinity: "inputs", say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite(pub &'static str);

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} are no numbers", self.0)
    }
}

impl error::Error for NotFinite {}

/// What the threads of a region have seen.
#[derive(Debug, Default)]
pub struct Watch(AtomicBool);

impl Watch {
    /// Takes note of numbers that are not all finite.
    pub fn see(&self, finite: bool) {
        if !finite {
            self.0.store(true, Relaxed);
        }
    }

    /// After the region.
    ///
    /// # Errors
    /// [`NotFinite`] of `what`, where a thread has seen such numbers.
    pub fn result(self, what: &'static str) -> Result<(), NotFinite> {
        if self.0.into_inner() { Err(NotFinite(what)) } else { Ok(()) }
    }
}

/// Whether all of `row` are finite.
pub fn finite(level: Level, row: &[f32]) -> bool {
    dispatch(level, Finite(row))
}

struct Finite<'a>(&'a [f32]);

impl Kernel for Finite<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> bool {
        let (whole, rest) = self.0.as_chunks();
        let mut most = isa.splat_i(0);
        for v in whole {
            most = isa.larger_bits(isa.load(v), most);
        }
        isa.largest_bits(most).is_finite() && rest.iter().all(|v| v.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Experts, Format, Glu, Inputs, KvElement, KvLayer, Look, Matrix, RowNorm, attention_at, experts_at, linear_at, log_sum_exp, team,
        tests::{gaussian, levels, matrix},
    };

    const BAD: [f32; 4] = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

    fn format(name: &str) -> Format {
        name.parse().expect("a format")
    }

    #[test]
    fn every_place_is_looked_at() {
        for level in levels() {
            for n in 0..70 {
                let row = vec![f32::MAX; n];
                assert!(finite(level, &row));
                for (at, bad) in (0..n).flat_map(|at| BAD.map(|bad| (at, bad))) {
                    let mut row = row.clone();
                    row[at] = bad;
                    assert!(!finite(level, &row), "{level:?}: {bad} at {at} of {n}");
                }
            }
        }
    }

    #[test]
    fn inputs_of_every_form_are_refused_on_every_instruction_set() {
        for format in ["t2g16", "t4g64", "t8g64", "a4g64", "b8g32", "q4g32", "p4g32", "bf16", "f32"].map(format) {
            for cols in [1, 16, 40, 130, 1100] {
                let (m, x) = (matrix(format, &gaussian(16 * cols, 1), cols), gaussian(3 * cols, 2));
                for level in levels() {
                    let done = |x: &[f32]| linear_at(level, x, &[&m], &mut [&mut [0.0; 48]]);
                    assert_eq!(done(&x), Ok(()), "{format} {level:?} {cols}");
                    for (at, bad) in [0, cols / 2, cols - 1, 3 * cols - 1].into_iter().flat_map(|at| BAD.map(|bad| (at, bad))) {
                        let mut x = x.clone();
                        x[at] = bad;
                        assert_eq!(done(&x), Err(NotFinite("inputs")), "{format} {level:?}: {bad} at {at} of {cols}");
                    }
                }
            }
        }
    }

    #[test]
    fn results_that_overflow_are_refused() {
        let m = matrix(Format::F32, &[1e30; 16 * 48], 48);
        for level in levels() {
            let done = |x: f32| linear_at(level, &[x; 48], &[&m], &mut [&mut [0.0; 16]]);
            assert_eq!([1e3, 1e8, 1e10].map(done), [Ok(()), Err(NotFinite("results")), Err(NotFinite("results"))], "{level:?}");
        }
    }

    #[test]
    fn what_overflows_within_an_expert_is_refused() {
        let of = |rows: usize, cols: usize, w: f32| vec![matrix(Format::F32, &vec![w; rows * cols], cols)];
        for (level, down) in levels().into_iter().flat_map(|level| ["t4g64", "a4g64", "f32"].map(|down| (level, format(down)))) {
            let run = |gate: f32, up: f32, x: f32| {
                let down = vec![matrix(down, &gaussian(32 * 48, 1), 48)];
                let e = Experts { gate: of(48, 32, gate), up: of(48, 32, up), down, glu: Glu::Silu, weigh_inputs: false };
                experts_at(level, &[x; 32], &e, &[(0, 1.0)], 1, &mut [0.0; 32])
            };
            assert_eq!(run(1e15, 1e15, 1.0), Ok(()), "{level:?}");
            for (gate, up) in [(1e25, 1e25), (-1e38, 1.0), (1.0, 1e38)] {
                assert_eq!(run(gate, up, 1.0 + 1e5), Err(NotFinite("inputs of the down projections")), "{level:?} {gate} {up}");
            }
            assert_eq!(run(1.0, 1.0, f32::NAN), Err(NotFinite("inputs of the experts")), "{level:?}");
        }
    }

    /// Attention of `tokens` tokens with 2 heads of 24 and one KV head, whose numbers `change` has changed.
    fn attend(level: Level, cache: &mut KvLayer, tokens: usize, change: impl Fn(&mut [Vec<f32>; 3])) -> (Result<(), NotFinite>, Vec<f32>) {
        let mut all = [(48, 1), (24, 2), (24, 3)].map(|(n, seed)| gaussian(tokens * n, seed));
        change(&mut all);
        let mut out = vec![0.0; tokens * 48];
        (attention_at(level, cache, [&all[0], &all[1], &all[2]], 2, Look::default(), &mut out), out)
    }

    #[test]
    fn keys_and_values_are_refused_and_leave_nothing_behind() {
        for (level, element) in levels().into_iter().flat_map(|level| KvElement::ALL.map(|e| (level, e))) {
            for tokens in [1, 20] {
                let new = || KvLayer::new(1, 24, 64, element);
                let (done, want) = attend(level, &mut new(), tokens, |_| ());
                assert_eq!(done, Ok(()));
                for (part, at, bad) in [1, 2].into_iter().flat_map(|part| BAD.map(|bad| (part, tokens * 24 - 5, bad))) {
                    let mut cache = new();
                    let (done, _) = attend(level, &mut cache, tokens, |all| all[part][at] = bad);
                    assert_eq!(done, Err(NotFinite("keys or values")), "{level:?} {element:?} {bad}");
                    assert!(cache.is_empty());
                    let (done, out) = attend(level, &mut cache, tokens, |_| ());
                    assert!(done.is_ok() && out == want, "{level:?} {element:?}, {tokens} tokens");
                }
            }
        }
    }

    #[test]
    fn products_of_queries_and_keys_that_are_not_finite_make_no_number() {
        for (level, element) in levels().into_iter().flat_map(|level| KvElement::ALL.map(|e| (level, e))) {
            for tokens in [1, 20] {
                let last = |change: &dyn Fn(&mut [Vec<f32>; 3])| {
                    let (done, out) = attend(level, &mut KvLayer::new(1, 24, 64, element), tokens, change);
                    assert_eq!(done, Ok(()));
                    out[(tokens - 1) * 48..].to_vec()
                };
                let n = tokens * 48;
                for bad in BAD {
                    let out = last(&|all| all[0][n - 48] = bad);
                    assert!(out[..24].iter().all(|v| v.is_nan()), "{level:?} {element:?} {bad}: {out:?}");
                }
                // Of finite numbers: up, down, and one after the other, which products of codes do without.
                let signs = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]];
                for signs in signs.into_iter().take(if matches!(element, KvElement::Q8 | KvElement::Q4) { 2 } else { 4 }) {
                    let out = last(&|all| {
                        (0..2).for_each(|i| (all[0][n - 48 + i], all[1][i]) = (2e38 * signs[i], 6e4));
                    });
                    assert!(out[..24].iter().all(|v| v.is_nan()), "{level:?} {element:?} {signs:?}: {out:?}");
                }
                // As large as may be.
                let out = last(&|all| (all[0][n - 48], all[1][0]) = (1e33, 6e4));
                assert!(out.iter().all(|v| v.is_finite()), "{level:?} {element:?}: {out:?}");
            }
        }
    }

    #[test]
    fn norms_of_what_is_too_large_are_refused() {
        let (row, m) = (vec![1e20f32; 48], matrix(format("t4g64"), &gaussian(48, 1), 48));
        let weights = vec![1.0; 48];
        for level in levels() {
            let norm = |row: &[f32], weights: &[f32]| {
                let mut rows = row.to_vec();
                let done = team(level, |team| RowNorm::rms(weights, 1e-6).apply(team, &mut rows));
                let fill = |_| RowNorm::rms(weights, 1e-6).of(level, row, 1.0);
                let filled = team(level, |team| Inputs::default().fill(team, [(&m, &[0][..])].into_iter(), 1, 48, fill));
                assert_eq!(done.is_ok(), filled.is_ok());
                done.is_ok()
            };
            assert!(norm(&gaussian(48, 2), &weights) && norm(&[1e18; 48], &weights) && norm(&[0.0; 48], &weights), "{level:?}");
            assert!(!norm(&row, &weights) && !norm(&gaussian(48, 2), &[f32::MAX; 48]), "{level:?}");
            for bad in BAD {
                let mut row = gaussian(48, 2);
                row[17] = bad;
                assert!(!norm(&row, &weights), "{level:?} {bad}");
            }
        }
    }

    #[test]
    fn a_nan_stays_one() {
        struct Exp(f32);
        impl Kernel for Exp {
            type Out = f32;
            #[inline(always)]
            fn run<I: Isa>(self, isa: I) -> f32 {
                isa.sum(isa.exp(isa.splat(self.0)))
            }
        }
        for level in levels() {
            assert!(dispatch(level, Exp(f32::NAN)).is_nan() && dispatch(level, Exp(-f32::NAN)).is_nan(), "{level:?}");
            assert_eq!(dispatch(level, Exp(f32::NEG_INFINITY)), 0.0, "{level:?}");
        }
        for at in [0, 20, 39] {
            let mut row = gaussian(40, 1);
            row[at] = f32::NAN;
            assert!(log_sum_exp(&row).is_nan());
        }
    }

    #[test]
    fn a_matrix_whose_size_wraps_is_none() {
        let arena = std::sync::Arc::new(crate::Arena::new(1 << 12).expect("memory"));
        let fits = |at: usize, format: Format, rows: usize, cols: usize| {
            std::panic::catch_unwind(|| Matrix::new(arena.clone(), at, format, rows, cols)).is_ok()
        };
        for format in ["t4g64", "a4g64", "q4g32", "p4g32", "bf16", "f32"].map(format) {
            assert!(fits(64, format, 16, 32), "{format}");
            for (rows, cols) in [(1 << 60, 16), (16, 1 << 60), (1 << 32, 1 << 32), (usize::MAX, 1), (1, usize::MAX), (1 << 63, 1 << 63)] {
                assert!(!fits(0, format, rows, cols), "{format} {rows} {cols}");
            }
            assert!(!fits(usize::MAX - 8, format, 16, 32), "{format}");
        }
        assert_eq!(KvLayer::bytes(1 << 32, 1 << 20, 1 << 20, KvElement::F16), usize::MAX);
    }
}
