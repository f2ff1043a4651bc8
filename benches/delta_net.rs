//! Gated delta nets: one token against what reading and writing their states takes, a prompt against what its sums take.
//!
//!     cargo bench --bench delta_net
//!
//! Each figure is the median of interleaved runs, one token over enough layers that no cache holds them. A token of a head takes 4 products
//! and sums for each number of its memory; the limit of a prompt is what the same threads do of them with numbers in registers, measured in
//! the same minutes.
use ram_kernels::{DeltaLayer, DeltaShape, DeltaWeights, delta_net, float_peak, isa::Level, team};
use std::time::Instant;

const SHAPES: [(&str, usize, usize); 3] = [("Qwen3.5-35B-A3B", 16, 32), ("Qwen3.5-397B-A17B", 16, 64), ("Qwen3.5-27B", 16, 48)];
/// Bytes that a run over single tokens reads.
const BYTES: usize = 256 << 20;
const PROMPT: usize = 256;
const RUNS: usize = 11;

fn main() {
    println!("{} threads, kernels {:?}", rayon::current_num_threads(), Level::active());
    println!(
        "| shape | state of a layer | us per layer, one token | read and written | of reading alone | us per token of {PROMPT} | GFMA/s | of peak |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, key_heads, value_heads) in SHAPES {
        let shape = DeltaShape { key_heads, value_heads, key_dim: 128, value_dim: 128, kernel: 4 };
        let bytes = DeltaLayer::state_bytes(shape);
        let inputs = numbers(PROMPT * shape.inputs());
        let (taps, heads, norm) = (numbers(4 * shape.channels()), numbers(value_heads), numbers(128));
        let weights = DeltaWeights { taps: &taps, decay: &heads, time: &heads, norm: &norm, eps: 1e-6 };
        let (mut work, mut out) = (Vec::new(), vec![0.0; PROMPT * shape.values()]);
        let mut run = |layers: &mut [DeltaLayer], tokens: usize| {
            let start = Instant::now();
            team(Level::active(), |team| {
                for layer in layers.iter_mut() {
                    let (inputs, out) = (&inputs[..tokens * shape.inputs()], &mut out[..tokens * shape.values()]);
                    delta_net(team, &mut [(layer, tokens)], inputs, weights, &mut work, out).expect("numbers");
                }
            });
            start.elapsed().as_secs_f64() / layers.len() as f64
        };
        let mut layers: Vec<DeltaLayer> = std::iter::repeat_with(|| DeltaLayer::new(shape)).take(BYTES.div_ceil(bytes)).collect();
        let mut prompts = [DeltaLayer::new(shape)];
        // The first passes make the memory that states take turns in.
        for _ in 0..8 {
            run(&mut layers, 1);
            run(&mut prompts, PROMPT);
        }
        let (mut one, mut many, mut read, mut peak) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            read.push(ram_run::read_bandwidth(BYTES));
            one.push(run(&mut layers, 1));
            peak.push(float_peak());
            many.push(run(&mut prompts, PROMPT) / PROMPT as f64);
        }
        let (one, many, read, peak) = (median(one), median(many), median(read), median(peak));
        let (moved, sums) = (2.0 * bytes as f64 / one, 4.0 * (value_heads * 128 * 128) as f64 / many);
        println!(
            "| {name} | {bytes} | {:.0} | {:.1} GB/s | {:.0} % of {:.1} | {:.1} | {:.1} | {:.0} % of {:.1} |",
            1e6 * one,
            moved / 1e9,
            100.0 * moved / read,
            read / 1e9,
            1e6 * many,
            sums / 1e9,
            100.0 * sums / peak,
            peak / 1e9
        );
    }
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
