//! Error and speed of every trellis format's encoder on Gaussian rows, one thread.
use ram_kernels::{Format, quantize, relative_error};
use std::time::Instant;

fn main() {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let rows: Vec<f32> = (0..64 * 4096).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    for bits in [2, 3, 4, 5, 6, 8] {
        for format in [16, 32, 64, 128].into_iter().filter_map(|group| Format::trellis(bits, group)) {
            let mut out = vec![0; format.bytes(64, 4096)];
            let best = (0..3).map(|_| {
                let start = Instant::now();
                quantize(format, &rows, 4096, &mut out);
                start.elapsed().as_secs_f64()
            });
            let best = best.fold(f64::INFINITY, f64::min);
            println!("{format:<7} error {:.5}  {:>6.1} M weights/s", relative_error(format, &rows, 4096), rows.len() as f64 / best / 1e6);
        }
    }
}
