//! Products of every format beside their two limits: bytes (read bandwidth) for one token, integer operations for many.
//!
//!     cargo bench --bench kernels -- [FORMAT ...]
//!
//! Each figure is the median of interleaved runs over enough matrices that no cache holds them. Limits are measured in the
//! same minutes, with the same threads.
use ram_kernels::{Arena, Effort, Format, Inputs, Matrix, Products, Same, isa::Level, quantize, team};
use std::{sync::Arc, time::Instant};

const ROWS: usize = 4096;
const COLS: usize = 4096;
/// Bytes of matrices that one token goes through.
const BYTES: usize = 256 << 20;
const TOKENS: usize = 128;
const RUNS: usize = 21;

fn main() {
    let mut formats: Vec<Format> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if formats.is_empty() {
        formats = "t2g64 t3g64 t4g64 t4g128 t5g64 t6g64 t7g64 t8g64 a4g64 q4g128 bf16".split(' ').filter_map(|f| f.parse().ok()).collect();
    }
    let threads = rayon::current_num_threads();
    println!("{threads} threads, kernels {:?}, {ROWS} x {COLS}", Level::active());
    println!("| format | 1 token: GB/s | of bandwidth | from cache, 1 thread: GB/s | {TOKENS} tokens: Gop/s | of integer peak |");
    println!("|---|---|---|---|---|---|");
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    for format in formats {
        let matrices = matrices(format, ROWS, BYTES);
        let bytes: usize = matrices.iter().map(|m| m.bytes().len()).sum();
        let (one, many) = (vec![0.5; COLS], (0..TOKENS * COLS).map(|i| (i * 7919 % 1001) as f32 - 500.0).collect::<Vec<f32>>());
        let (mut read, mut decode, mut cached, mut peak, mut prefill) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let small = self::matrices(format, 128, 1);
        for _ in 0..RUNS {
            read.push(ram_run::read_bandwidth(BYTES) / 1e9);
            decode.push(bytes as f64 / 1e9 / multiply(&matrices, &one));
            let again = small.iter().cycle().take(50).cloned().collect::<Vec<_>>();
            cached.push((50 * small[0].bytes().len()) as f64 / 1e9 / alone.install(|| multiply(&again, &one)));
            peak.push(ram_kernels::integer_peak() / 1e9);
            let n = 2;
            let operations = (2 * n * ROWS * COLS * TOKENS) as f64 / 1e9;
            prefill.push(operations / multiply(&matrices[..n], &many));
        }
        let [read, decode, cached, peak, prefill] = [read, decode, cached, peak, prefill].map(median);
        let (of_read, of_peak) = (100.0 * decode / read, 100.0 * prefill / peak);
        println!("| {format} | {decode:.1} | {of_read:.0} % of {read:.1} | {cached:.1} | {prefill:.0} | {of_peak:.0} % of {peak:.0} |");
    }
}

/// Seconds for every matrix times all of `x`, one after the other, once inputs are ready.
fn multiply(matrices: &[Matrix], x: &[f32]) -> f64 {
    let tokens: Vec<u32> = (0..(x.len() / COLS) as u32).collect();
    team(Level::active(), |team| {
        let (mut inputs, mut products) = (Inputs::default(), Products::default());
        inputs.fill(team, [(&matrices[0], tokens.as_slice())].into_iter(), tokens.len(), COLS, |t| Same(&x[t * COLS..][..COLS])).expect("numbers");
        seconds(|| {
            for m in matrices {
                products.run(team, &[inputs.product(m, &tokens)]);
            }
        })
    })
}

/// One packed tile repeated: products do not depend on what the codes are.
fn matrices(format: Format, rows: usize, bytes: usize) -> Vec<Matrix> {
    let weights: Vec<f32> = (0..16 * COLS).map(|i| ((i * 2_654_435_761) % 65537) as f32 / 65537.0 - 0.5).collect();
    let mut tile = vec![0; format.row_bytes(16, COLS)];
    quantize(format, Effort::Fast, &weights, COLS, &mut tile);
    let each = format.bytes(rows, COLS).next_multiple_of(ram_kernels::ALIGN);
    let count = bytes.div_ceil(each);
    let mut arena = Arena::new(each * count).expect("memory");
    for m in arena.bytes_mut().chunks_exact_mut(each) {
        m.chunks_exact_mut(tile.len()).for_each(|t| t.copy_from_slice(&tile));
    }
    let arena = Arc::new(arena);
    (0..count).map(|i| Matrix::new(arena.clone(), i * each, format, rows, COLS)).collect()
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
