//! Attention over latents: one token and a prompt behind a context, against what their sums take.
//!
//!     cargo bench --bench latents -- [CONTEXT ...]
//!
//! Each figure is the median of interleaved runs. Every head of a token multiplies each number of a latent once for its score and most of them
//! again for its value; the limit is what the same threads do of those with numbers in registers, measured in the same minutes.
use ram_kernels::{KvElement, KvLayer, attention, float_peak, isa::Level};
use std::time::Instant;

/// Query heads.
const SHAPES: [(&str, usize); 4] = [("DeepSeek-V3", 128), ("Kimi-K2", 64), ("GLM-4.7-Flash", 20), ("DeepSeek-V2-Lite", 16)];
/// Numbers that are kept of a token, and those of its value: the same in all of them.
const KEPT: usize = 576;
const VALUES: usize = 512;
const PROMPT: usize = 64;
const RUNS: usize = 9;

fn main() {
    let mut contexts: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if contexts.is_empty() {
        contexts = vec![512, 4096];
    }
    println!("{} threads, kernels {:?}", rayon::current_num_threads(), Level::active());
    println!(
        "| shape | context | KV | us, one token | GFMA/s | of peak | us per token of {PROMPT} | GFMA/s | of peak |\n|---|---|---|---|---|---|---|---|---|"
    );
    for ((name, heads), context) in SHAPES.into_iter().flat_map(|shape| contexts.iter().map(move |&context| (shape, context))) {
        let (queries, latents) = (numbers(PROMPT * heads * KEPT), numbers(context * KEPT));
        let mut out = vec![0.0; PROMPT * heads * VALUES];
        let mut layers = KvElement::ALL.map(|element| {
            let mut layer = KvLayer::latent(KEPT, VALUES, context + PROMPT, element);
            // One head is enough to have them there.
            for part in latents.chunks(PROMPT * KEPT) {
                let tokens = part.len() / KEPT;
                attention(&mut layer, &queries[..tokens * KEPT], part, &[], 1, &mut out[..tokens * VALUES]).expect("numbers");
            }
            (element, layer, [Vec::new(), Vec::new()])
        });
        let mut peaks = Vec::new();
        for _ in 0..RUNS {
            peaks.push(float_peak());
            for (_, layer, seconds) in &mut layers {
                let held = layer.len();
                for (seconds, tokens) in seconds.iter_mut().zip([1, PROMPT]) {
                    let start = Instant::now();
                    attention(layer, &queries[..tokens * heads * KEPT], &latents[..tokens * KEPT], &[], heads, &mut out[..tokens * heads * VALUES])
                        .expect("numbers");
                    seconds.push(start.elapsed().as_secs_f64() / tokens as f64);
                    layer.truncate(held);
                }
            }
        }
        let peak = median(peaks);
        for (element, layer, seconds) in layers {
            let held = layer.len();
            let sums = |seen: f64| heads as f64 * seen * (KEPT + VALUES) as f64;
            let each = seconds.map(median);
            let rates = [sums(held as f64 + 1.0) / each[0], sums(held as f64 + PROMPT as f64 / 2.0) / each[1]];
            let told = [0, 1].map(|i| format!("{:.0} | {:.0} | {:.0} %", 1e6 * each[i], rates[i] / 1e9, 100.0 * rates[i] / peak));
            println!("| {name} | {held} | {} | {} | {} of {:.0} |", element.name(), told[0], told[1], peak / 1e9);
        }
    }
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
