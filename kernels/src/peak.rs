//! The other limit of a product, beside the memory: how many operations the processor does.
use crate::isa::{Isa, Kernel, Level, dispatch};
use std::{hint::black_box, time::Instant};

/// Integer operations (a product and a sum are two) per second of all threads together, in products that never leave registers:
/// the best of three, because threads that were just woken may share a core at first.
pub fn integer_peak() -> f64 {
    let level = Level::active();
    let rates = (0..3).map(|_| {
        let start = Instant::now();
        let threads = black_box(rayon::broadcast(|_| dispatch(level, Peak))).len();
        (threads * STEPS * level.block().0 * 128) as f64 / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}

/// Products and sums of floats (each pair is one) per second of all threads together, in sums that never leave registers.
pub fn float_peak() -> f64 {
    let level = Level::active();
    let rates = (0..3).map(|_| {
        let start = Instant::now();
        let threads = black_box(rayon::broadcast(|_| dispatch(level, FloatPeak))).len();
        (threads * STEPS * level.block().0 * 16) as f64 / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}

struct FloatPeak;

impl Kernel for FloatPeak {
    type Out = f32;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        let (mut sums, a, b) = ([isa.splat(0.5); 8], isa.splat(black_box(0.999)), isa.splat(black_box(1e-3)));
        for _ in 0..STEPS {
            // As many as stay in registers: 16 of AVX2 are 8 of these.
            for sum in sums.iter_mut().take(I::TOKENS) {
                *sum = isa.fma(*sum, a, b);
            }
        }
        sums.into_iter().map(|sum| isa.sum(sum)).sum()
    }
}

/// 20 ms or so.
const STEPS: usize = 1 << 21;

struct Peak;

impl Kernel for Peak {
    type Out = i32;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> i32 {
        // As many sums as products keep: more would not stay in registers.
        let (mut sums, mut w, mut x) = ([isa.splat_i(0); 8], [isa.splat_b(0); 8], isa.splat_b(1));
        for (i, w) in w.iter_mut().enumerate() {
            *w = isa.splat_b(i as u8);
        }
        for _ in 0..STEPS {
            // Inputs change, so that no product can be taken out of the loop.
            x = isa.xor_b(x, w[1]);
            for (s, w) in sums.iter_mut().zip(w).take(I::TOKENS) {
                *s = isa.dot_u7(*s, w, x);
            }
        }
        let mut all = isa.splat_i(0);
        for s in sums {
            all = isa.add_i(all, s);
        }
        isa.sum_i(all)
    }
}
