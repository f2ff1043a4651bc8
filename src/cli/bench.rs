//! `ram-run bench`: planning, loading, prefill and decode, each beside what the machine can do: bytes read per second, and integer
//! operations.
use super::{
    args::{Args, BenchArgs},
    open, print,
};
use crate::cli::Error;
use ram_run::{KvCache, Model, Next, Sampling, peak_rss, size};
use serde::Serialize;
use std::time::Instant;

/// One line of the table.
#[derive(Serialize)]
struct Row {
    /// pp512, tg128, with x sequences and @ depth.
    test: String,
    /// Tokens per second: median, least and most of the runs.
    tokens_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// Weight bytes that one token reads (decode) or one run reads, each once (prefill), or a step of several sequences at least.
    bytes: u64,
    #[serde(skip)]
    per: &'static str,
    gigabytes_per_second: f64,
    /// Of the read bandwidth measured between the runs; decode only, and where the budget leaves memory to measure it.
    share_of_bandwidth: Option<f64>,
    /// Integer operations on weights, two per weight and token; prefill only.
    gigaoperations_per_second: Option<f64>,
    /// Of the integer peak measured between the runs; prefill only.
    share_of_peak: Option<f64>,
}

/// Measures and prints.
pub fn run(args: &Args, a: &BenchArgs) -> Result<(), Error> {
    // Who asks for one of both does not wait for the other.
    let all = a.prompt.is_empty() && a.generate.is_empty();
    let (prompts, generate): (&[usize], &[usize]) = if all { (&[16, 512], &[128]) } else { (&a.prompt, &a.generate) };
    let checkpoint = open::checkpoint(args)?;
    let mut request = open::request(args)?;
    let most = |n: &[usize]| n.iter().copied().max().unwrap_or(0);
    let (depth, prompt, new) = (most(&a.depth), most(prompts), most(generate));
    let longest = depth + prompt.max(new);
    let room = args.ctx.unwrap_or(checkpoint.description().max_position_embeddings);
    if longest > room {
        let each = [("--depth", depth), if prompt >= new { ("--prompt", prompt) } else { ("--generate", new) }];
        let flags: Vec<String> = each.iter().filter(|(_, n)| *n > 0).map(|(flag, n)| format!("{flag} {n}")).collect();
        let whose = if args.ctx.is_some() { "--ctx has" } else { "the model was made for" };
        return Err(Error::Usage(format!("{}: {longest} tokens are too many, as {whose} {room}", flags.join(" and "))));
    }
    request.context = Some(args.ctx.unwrap_or(longest));
    request.sequences = most(&a.parallel);
    let start = Instant::now();
    let plan = open::planned(args, &checkpoint, request)?;
    let planning = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let model = open::model(args, &checkpoint, &plan)?;
    let load = start.elapsed().as_secs_f64();
    let per_token = active(&model, |e| e.bytes as f64) as u64;
    let (mut rows, mut bandwidths, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for &depth in &a.depth {
        let decoding = a.parallel.iter().map(|&sequences| (Some(sequences), generate));
        for (sequences, lengths) in [(None, prompts)].into_iter().chain(decoding) {
            for &n in lengths {
                let decode = sequences.is_some();
                let runs = runs(&model, sequences, depth, n, a.repeat)?;
                let mut rates: Vec<f64> = runs.iter().map(|r| r.rate).collect();
                let rate = median(&mut rates).unwrap_or(0.0);
                bandwidths.extend(runs.iter().filter_map(|r| r.bandwidth));
                peaks.extend(runs.iter().map(|r| r.peak));
                let bytes = if decode { per_token } else { plan.weight_bytes };
                let alone = sequences == Some(1);
                // What a prompt, or a step of several sequences, reads once; those may read other experts each.
                let speed = bytes as f64 * rate / sequences.unwrap_or(n) as f64;
                let operations = operations(&model, n);
                let (name, at) = (if decode { "tg" } else { "pp" }, if depth > 0 { format!(" @ {depth}") } else { String::new() });
                let times = sequences.filter(|_| !alone).map_or(String::new(), |n| format!(" x {n}"));
                let share = |f: &dyn Fn(&Run) -> Option<f64>| median(&mut runs.iter().filter_map(f).collect::<Vec<_>>());
                rows.push(Row {
                    test: format!("{name}{n}{times}{at}"),
                    tokens_per_second: rate,
                    slowest: rates[0],
                    fastest: rates[rates.len() - 1],
                    bytes,
                    per: if !decode {
                        "per run"
                    } else if alone {
                        "per token"
                    } else {
                        "per step, at least"
                    },
                    gigabytes_per_second: speed / 1e9,
                    share_of_bandwidth: if alone { share(&|r| Some(bytes as f64 * r.rate / r.bandwidth?)) } else { None },
                    gigaoperations_per_second: (!decode).then(|| operations * rate / n as f64 / 1e9),
                    share_of_peak: if decode { None } else { share(&|r| Some(operations * r.rate / n as f64 / r.peak)) },
                });
            }
        }
    }
    let (bandwidth, peak) = (median(&mut bandwidths), median(&mut peaks).unwrap_or(0.0));
    let weights: u64 = plan.parameters;
    if a.json {
        let json = serde_json::json!({
            "model": checkpoint.folder(), "plan": plan.fingerprint, "bits_per_weight": plan.bits_per_weight, "weight_bytes": plan.weight_bytes,
            "threads": rayon::current_num_threads(), "kernels": format!("{:?}", ram_run::isa().map_err(Error::Usage)?),
            "plan_seconds": planning, "load_seconds": load, "load_weights_per_second": weights as f64 / load, "read_bandwidth": bandwidth,
            "integer_peak": peak, "peak_rss": peak_rss(), "tests": rows,
        });
        return print(&format!("{json:#}\n"));
    }
    if a.csv {
        print("test,tokens_per_second,slowest,fastest,bytes,gigabytes_per_second,share_of_bandwidth,gigaoperations_per_second,share_of_peak\n")?;
        for r in &rows {
            let [share, operations, of_peak] =
                [r.share_of_bandwidth, r.gigaoperations_per_second, r.share_of_peak].map(|s| s.map_or(String::new(), |s| format!("{s:.4}")));
            let numbers = format!("{:.3},{:.3},{:.3}", r.tokens_per_second, r.slowest, r.fastest);
            print(&format!("{},{numbers},{},{:.3},{share},{operations},{of_peak}\n", r.test, r.bytes, r.gigabytes_per_second))?;
        }
        return Ok(());
    }
    print("| test | tokens/s | least to most | weight bytes read | of the machine's limit |\n|---|---|---|---|---|\n")?;
    for r in &rows {
        let limit = match (r.share_of_bandwidth, r.gigaoperations_per_second, r.share_of_peak) {
            (Some(share), ..) => format!("{:.1} GB/s, {:.0} % of the bandwidth", r.gigabytes_per_second, 100.0 * share),
            (_, Some(operations), Some(share)) => format!("{operations:.0} Gop/s, {:.0} % of the integer peak", 100.0 * share),
            _ => format!("{:.1} GB/s", r.gigabytes_per_second),
        };
        let range = format!("{:.1} to {:.1}", r.slowest, r.fastest);
        let bytes = size::show(r.bytes);
        print(&format!("| {} | {:.1} | {range} | {bytes} {} | {limit} |\n", r.test, r.tokens_per_second, r.per))?;
    }
    let bandwidth = bandwidth.map_or("not measured (the budget leaves no memory for it)".into(), |b| format!("{:.1} GB/s", b / 1e9));
    let memory = peak_rss().map_or("unknown".into(), size::show);
    print(&format!(
        "\n{:.2} bits per weight, {}; plan {planning:.2} s, load {load:.2} s ({:.0} million weights/s); {} threads; read bandwidth {bandwidth}; integer peak {:.0} Gop/s; peak memory {memory}\n",
        plan.bits_per_weight,
        size::show(plan.weight_bytes),
        weights as f64 / load / 1e6,
        rayon::current_num_threads(),
        peak / 1e9,
    ))
}

/// The middle one, after sorting.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Sum over what one token reads: all but the embedding's other rows and the experts it is not routed to.
fn active(model: &Model, of: impl Fn(&ram_run::Entry) -> f64) -> f64 {
    let description = model.transformer.description();
    let each = model.plan.entries.iter().map(|e| {
        let looked_up = e.spec.kind == ram_run::Kind::Embedding && !description.tie_word_embeddings;
        of(e) * description.active(&e.spec) / if looked_up { e.spec.shape[0] as f64 } else { 1.0 }
    });
    each.sum()
}

/// Integer operations of a prompt of `n` tokens, of which only the last one's logits are computed.
fn operations(model: &Model, n: usize) -> f64 {
    let weights = |e: &ram_run::Entry| e.spec.shape.iter().product::<usize>() as f64;
    let head = |e: &ram_run::Entry| if matches!(e.spec.kind, ram_run::Kind::Head | ram_run::Kind::Embedding) { weights(e) } else { 0.0 };
    let (all, last) = (active(model, weights), active(model, head));
    2.0 * (n as f64 * (all - last) + last)
}

/// One run, and what the machine could do right after it.
struct Run {
    /// Tokens per second.
    rate: f64,
    bandwidth: Option<f64>,
    peak: f64,
}

/// `repeat` runs after one to warm up.
fn runs(model: &Model, sequences: Option<usize>, depth: usize, n: usize, repeat: usize) -> Result<Vec<Run>, Error> {
    let vocab = model.transformer.description().vocab_size as u32;
    // Spread over the vocabulary, as text is over the experts.
    let tokens: Vec<u32> = (0..(depth + n) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    let mut begun = model.session(Sampling::default())?;
    if sequences.is_none() && depth > 0 {
        begun.prompt(&tokens[..depth])?;
        model.logits(&mut begun)?;
    }
    let mut caches: Vec<KvCache> = (0..sequences.unwrap_or(0)).map(|_| model.transformer.cache(model.plan.context, model.plan.kv)).collect();
    for piece in tokens[..depth].chunks(model.plan.chunk) {
        for cache in &mut caches {
            model.transformer.advance(&mut [Next { logits: false, ..Next::new(piece, cache) }])?;
        }
    }
    let mut runs = Vec::new();
    for run in 0..=repeat {
        caches.iter_mut().for_each(|cache| cache.truncate(depth));
        let mut session = begun.fork(depth);
        let start = Instant::now();
        // What comes next is asked for after every token while decoding, once after a prompt.
        match sequences {
            None => {
                session.prompt(&tokens)?;
                std::hint::black_box(model.logits(&mut session)?);
            }
            Some(_) => {
                for step in 0..n {
                    // Each sequence has another token.
                    let token = |i: usize| std::slice::from_ref(&tokens[depth + (step + 7 * i) % n]);
                    let mut batch: Vec<Next> = caches.iter_mut().enumerate().map(|(i, cache)| Next::new(token(i), cache)).collect();
                    model.transformer.advance(&mut batch)?;
                }
            }
        }
        if run > 0 {
            let rate = (n * caches.len().max(1)) as f64 / start.elapsed().as_secs_f64();
            let bandwidth = ram_run::bandwidth_bytes(model.plan.memory.budget).map(ram_run::read_bandwidth);
            runs.push(Run { rate, bandwidth, peak: ram_run::integer_peak() });
        }
    }
    Ok(runs)
}
