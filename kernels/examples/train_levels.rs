//! Finds the level tables of `src/decode/levels.rs`: climbs from tables of several shapes, integer level by integer level, by
//! the error of the encoder itself on Gaussian rows; prints the best as source, with its error on rows it has not seen.
//!
//!     cargo run --release -p ram-kernels --example train_levels [t4g128 ...]
use ram_kernels::{
    Effort, Format,
    training::{error_with, levels_of},
};

const COLS: usize = 1024;

fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n).map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32).collect()
}

/// Levels that grow towards the ends like sinh, more so with more `bend`.
fn bent(count: usize, bend: f64) -> Vec<i8> {
    let at = |i: usize| (2.0 * i as f64 + 1.0) / count as f64 - 1.0;
    let edge = (bend * at(count - 1)).sinh();
    (0..count).map(|i| (64.0 * (bend * at(i)).sinh() / edge).round().clamp(-64.0, 63.0) as i8).collect()
}

/// Moves single levels, and all levels from one outwards, while that lowers the error by more than 0.02 % a round.
fn climb(levels: &mut Vec<i8>, error: impl Fn(&[i8]) -> f64) -> f64 {
    let mut best = error(levels);
    for step in [3i8, 1] {
        loop {
            let before = best;
            for i in 0..levels.len() {
                for (by, outwards) in [(step, false), (-step, false), (step, true), (-step, true)] {
                    let mut moved = levels.clone();
                    let last = if !outwards {
                        i
                    } else if levels[i] < 0 {
                        0
                    } else {
                        levels.len() - 1
                    };
                    for level in &mut moved[i.min(last)..=i.max(last)] {
                        *level = (*level + by).clamp(-64, 63);
                    }
                    if moved != *levels && moved.is_sorted() {
                        let e = error(&moved);
                        if e < best {
                            (best, *levels) = (e, moved);
                        }
                    }
                }
            }
            if best > before * 0.9998 {
                break;
            }
        }
    }
    best
}

fn main() {
    let asked: Vec<Format> = std::env::args().skip(1).map(|f| f.parse().expect("arguments are trellis formats, say t4g128")).collect();
    let all = [2, 3, 4, 5].into_iter().flat_map(|bits| [16, 32, 64, 128].into_iter().filter_map(move |group| Format::rotated(bits, group)));
    let (train, test) = (gaussian(512 * COLS, 5), gaussian(512 * COLS, 6));
    for format in if asked.is_empty() { all.collect() } else { asked } {
        let shapes = [0.5, 1.0, 1.5, 2.0, 2.5].map(|bend| bent(2 << format.bits(), bend));
        let climbed = shapes.into_iter().chain([levels_of(format).to_vec()]).map(|mut levels| {
            let seen = climb(&mut levels, |levels| error_with(format, Effort::Default, levels, &train, COLS));
            (seen, levels)
        });
        let (seen, levels) = climbed.min_by(|a, b| a.0.total_cmp(&b.0)).expect("several shapes");
        println!("// {format}: {:.6}; {seen:.6} on the rows that were climbed on", error_with(format, Effort::Default, &levels, &test, COLS));
        println!("{levels:?},");
    }
}
