//! The encoder's curve: squared error on Gaussian rows (up to the lengths of rows, but for 7 and 8 bits), how much more
//! that is than Shannon's bound at the same rate, and encoding speed of one thread, the median of runs that take turns.
//!
//!     cargo run --release -p ram-kernels --example encoder_speed [t4g64 ...]
use ram_kernels::{
    Effort, Format, quantize, relative_error,
    training::{error_with, levels_of},
};
use std::time::Instant;

const COLS: usize = 1024;
const RUNS: usize = 15;

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

fn main() {
    let asked: Vec<Format> = std::env::args().skip(1).map(|f| f.parse().expect("arguments are trellis formats, say t4g128")).collect();
    let all = (2..=8).flat_map(|bits| [16, 32, 64, 128].into_iter().filter_map(move |group| Format::rotated(bits, group)));
    let (rows, timed) = (gaussian(1024 * COLS, 77), gaussian(64 * COLS, 78));
    println!("format   effort   error      over Shannon  M weights/s");
    for format in if asked.is_empty() { all.collect() } else { asked } {
        let bound = 4f64.powf(-(format.bits() as f64 + 8.0 / format.group() as f64));
        let mut out = vec![0; format.bytes(64, COLS)];
        let mut seconds = Effort::ALL.map(|_| Vec::new());
        for _ in 0..RUNS {
            for (seconds, effort) in seconds.iter_mut().zip(Effort::ALL) {
                let start = Instant::now();
                quantize(format, effort, &timed, COLS, &mut out);
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        for (mut seconds, effort) in seconds.into_iter().zip(Effort::ALL) {
            seconds.sort_by(f64::total_cmp);
            let levels = levels_of(format);
            let error = if levels.is_empty() { relative_error(format, effort, &rows, COLS) } else { error_with(format, effort, levels, &rows, COLS) };
            let speed = timed.len() as f64 / seconds[RUNS / 2] / 1e6;
            println!("{format:<8} {effort:<8} {error:<10.3e} {:>10.0} % {speed:>12.0}", 100.0 * (error / bound - 1.0));
        }
    }
}
