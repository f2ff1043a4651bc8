//! `ram-run bench`: loading, prefill and decode, each with the bytes it reads and the bandwidth that the machine has.
use super::{
    args::{Args, BenchArgs},
    open, print,
};
use ram_run::{Error, Model, peak_rss, size};
use serde::Serialize;
use std::time::Instant;

/// One line of the table.
#[derive(Serialize)]
struct Row {
    /// pp512, tg128, with @ depth.
    test: String,
    /// Tokens per second: median, least and most of the runs.
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// Weight bytes that one token reads (decode) or one run reads, each once (prefill).
    bytes: u64,
    gigabytes_per_second: f64,
    /// Of the read bandwidth measured beside it; decode only.
    share_of_bandwidth: Option<f64>,
}

/// Memory that is read to measure bandwidth: larger than any cache.
const MEASURED: usize = 512 << 20;

/// Measures and prints.
pub fn run(args: &Args, a: &BenchArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let mut request = open::request(args)?;
    let longest = a.depth.iter().max().unwrap_or(&0) + a.prompt.iter().chain(&a.generate).max().unwrap_or(&0);
    request.context = Some(args.ctx.unwrap_or(longest.max(1)));
    let plan = open::plan(&checkpoint, &request)?;
    let start = Instant::now();
    let model = open::model(args, &checkpoint, &plan)?;
    let load = start.elapsed().as_secs_f64();
    let per_token = active_bytes(&model);
    let mut rows = Vec::new();
    let mut bandwidths = vec![ram_run::read_bandwidth(MEASURED)];
    for &depth in &a.depth {
        for (kind, lengths) in [("pp", &a.prompt), ("tg", &a.generate)] {
            for &n in lengths.iter().filter(|&&n| n > 0) {
                let mut rates = runs(&model, kind == "tg", depth, n, a.repeat)?;
                // Between tests, so that what else the machine does shows in both.
                let bandwidth = ram_run::read_bandwidth(MEASURED);
                bandwidths.push(bandwidth);
                rates.sort_by(f64::total_cmp);
                let median = rates[rates.len() / 2];
                let bytes = if kind == "tg" { per_token } else { plan.weight_bytes };
                let speed = if kind == "tg" { bytes as f64 * median } else { bytes as f64 * median / n as f64 };
                rows.push(Row {
                    test: format!("{kind}{n}{}", if depth > 0 { format!(" @ {depth}") } else { String::new() }),
                    tokens_per_second: median,
                    slowest: rates[0],
                    fastest: rates[rates.len() - 1],
                    bytes,
                    gigabytes_per_second: speed / 1e9,
                    share_of_bandwidth: (kind == "tg").then_some(speed / bandwidth),
                });
            }
        }
    }
    bandwidths.sort_by(f64::total_cmp);
    let bandwidth = bandwidths[bandwidths.len() / 2];
    let weights: u64 = plan.parameters;
    if a.json {
        let json = serde_json::json!({
            "model": checkpoint.folder(), "plan": plan.fingerprint, "bits_per_weight": plan.bits_per_weight, "weight_bytes": plan.weight_bytes,
            "threads": rayon::current_num_threads(), "kernels": format!("{:?}", ram_run::isa().map_err(Error::Usage)?),
            "load_seconds": load, "load_weights_per_second": weights as f64 / load, "read_bandwidth": bandwidth, "peak_rss": peak_rss(), "tests": rows,
        });
        return print(&format!("{json:#}\n"));
    }
    if a.csv {
        print("test,tokens_per_second,slowest,fastest,bytes,gigabytes_per_second,share_of_bandwidth\n")?;
        for r in &rows {
            let share = r.share_of_bandwidth.map_or(String::new(), |s| format!("{s:.4}"));
            let numbers = format!("{:.3},{:.3},{:.3}", r.tokens_per_second, r.slowest, r.fastest);
            print(&format!("{},{numbers},{},{:.3},{share}\n", r.test, r.bytes, r.gigabytes_per_second))?;
        }
        return Ok(());
    }
    print("| test | tokens/s | least to most | weight bytes read | GB/s | of bandwidth |\n|---|---|---|---|---|---|\n")?;
    for r in &rows {
        let share = r.share_of_bandwidth.map_or(String::new(), |s| format!("{:.0} %", 100.0 * s));
        let each = if r.share_of_bandwidth.is_some() { "per token" } else { "per run" };
        let range = format!("{:.1} to {:.1}", r.slowest, r.fastest);
        let bytes = size::show(r.bytes);
        print(&format!("| {} | {:.1} | {range} | {bytes} {each} | {:.2} | {share} |\n", r.test, r.tokens_per_second, r.gigabytes_per_second))?;
    }
    let peak = peak_rss().map_or("unknown".into(), size::show);
    print(&format!(
        "\n{:.2} bits per weight, {}; load {load:.2} s; {} threads; read bandwidth {:.1} GB/s; peak memory {peak}\n",
        plan.bits_per_weight,
        size::show(plan.weight_bytes),
        rayon::current_num_threads(),
        bandwidth / 1e9,
    ))
}

/// Bytes of weights that one token reads: all but the embedding's other rows and the experts it is not routed to.
fn active_bytes(model: &Model) -> u64 {
    let config = model.transformer.config();
    let experts = (config.num_experts.max(1), config.num_experts_per_tok);
    let tied = config.tie_word_embeddings;
    let bytes = model.plan.entries.iter().map(|e| {
        if e.spec.expert.is_some() {
            e.bytes as f64 * experts.1 as f64 / experts.0 as f64
        } else if e.spec.kind == ram_run::Kind::Embedding && !tied {
            e.bytes as f64 / e.spec.shape[0] as f64
        } else {
            e.bytes as f64
        }
    });
    bytes.sum::<f64>() as u64
}

/// Tokens per second of `repeat` runs after one to warm up.
fn runs(model: &Model, decode: bool, depth: usize, n: usize, repeat: usize) -> Result<Vec<f64>, Error> {
    let vocab = model.transformer.config().vocab_size as u32;
    // Spread over the vocabulary, as text is over the experts.
    let tokens: Vec<u32> = (0..(depth + n) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    let mut cache = model.cache();
    for piece in tokens[..depth].chunks(model.plan.chunk) {
        model.transformer.forward(piece, &mut cache)?;
    }
    let mut rates = Vec::new();
    for run in 0..=repeat.max(1) {
        cache.truncate(depth);
        let start = Instant::now();
        for piece in tokens[depth..].chunks(if decode { 1 } else { model.plan.chunk }) {
            let hidden = model.transformer.forward(piece, &mut cache)?;
            // What comes next is asked for after every token while decoding, once after a prompt.
            std::hint::black_box(model.transformer.logits(&hidden.narrow(0, piece.len() - 1, 1)?)?);
        }
        if run > 0 {
            rates.push(n as f64 / start.elapsed().as_secs_f64());
        }
    }
    Ok(rates)
}
