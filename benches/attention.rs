//! A token's attention over a long context, beside what reading its keys and values takes.
//!
//!     cargo bench --bench attention -- [TOKENS ...]
//!
//! Each figure is the median of interleaved runs over enough layers that no cache holds them; the limit is measured in the same minutes,
//! with the same threads.
use ram_kernels::{KvElement, KvLayer, attention, isa::Level};
use std::time::Instant;

/// Query heads, KV heads, head_dim.
const SHAPES: [(&str, usize, usize, usize); 4] =
    [("Mixtral-8x7B", 32, 8, 128), ("Qwen3-30B-A3B", 32, 4, 128), ("Qwen1.5-MoE-A2.7B", 16, 16, 128), ("SmolLM2-135M", 9, 3, 64)];
const ELEMENTS: [KvElement; 3] = [KvElement::F16, KvElement::Q8, KvElement::Q4];
/// Bytes that a run reads.
const BYTES: usize = 256 << 20;
const RUNS: usize = 15;

fn main() {
    let mut contexts: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if contexts.is_empty() {
        contexts = vec![1024, 16_384];
    }
    println!("{} threads, kernels {:?}", rayon::current_num_threads(), Level::active());
    println!("| shape | context | KV | bytes of a layer | us per layer | GB/s | of bandwidth |\n|---|---|---|---|---|---|---|");
    for ((name, heads, kv_heads, head_dim), tokens) in SHAPES.into_iter().flat_map(|shape| contexts.iter().map(move |&tokens| (shape, tokens))) {
        let (queries, new) = (numbers(heads * head_dim), numbers(kv_heads * head_dim));
        let mut out = vec![0.0; queries.len()];
        let mut each = ELEMENTS.map(|element| {
            let bytes = KvLayer::bytes(kv_heads, head_dim, tokens, element);
            (element, bytes, layers(kv_heads, head_dim, tokens, element, BYTES.div_ceil(bytes)), Vec::new())
        });
        let mut reads = Vec::new();
        for _ in 0..RUNS {
            reads.push(ram_run::read_bandwidth(BYTES) / 1e9);
            for (.., layers, seconds) in &mut each {
                let start = Instant::now();
                for layer in layers.iter_mut() {
                    attention(layer, &queries, &new, &new, heads, &mut out).expect("numbers");
                }
                seconds.push(start.elapsed().as_secs_f64() / layers.len() as f64);
                layers.iter_mut().for_each(|layer| layer.truncate(tokens - 1));
            }
        }
        let read = median(reads);
        for (element, bytes, _, seconds) in each {
            let seconds = median(seconds);
            let rate = bytes as f64 / 1e9 / seconds;
            let element = element.name();
            println!("| {name} | {tokens} | {element} | {bytes} | {:.0} | {rate:.1} | {:.0} % of {read:.1} |", 1e6 * seconds, 100.0 * rate / read);
        }
    }
}

/// Layers that have one token less: a page of tokens, repeated, as time does not depend on what they are.
fn layers(kv_heads: usize, head_dim: usize, tokens: usize, element: KvElement, count: usize) -> Vec<KvLayer> {
    let (mut page, mut bytes) = (KvLayer::new(kv_heads, head_dim, 64, element), Vec::new());
    let kv = numbers(64 * kv_heads * head_dim);
    attention(&mut page, &kv, &kv, &kv, kv_heads, &mut vec![0.0; kv.len()]).expect("numbers");
    page.save(&mut bytes).expect("memory");
    let heads = bytes.chunks_exact(bytes.len() / kv_heads);
    let all: Vec<u8> = heads.flat_map(|page| std::iter::repeat_n(page, tokens.div_ceil(64)).flatten().copied()).collect();
    let layer = || {
        let mut layer = KvLayer::new(kv_heads, head_dim, tokens, element);
        layer.restore(tokens - 1, &mut all.as_slice()).expect("what was saved");
        layer
    };
    std::iter::repeat_with(layer).take(count).collect()
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
