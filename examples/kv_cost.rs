//! What the numbers of the KV cache cost: KL divergence of a model in full precision from itself with f32 in the cache.
//!
//!     cargo run --release --example kv_cost -- CHECKPOINT TEXT [WINDOWS]
//!
//! Windows of 512 tokens, every position but the first scored.
use ram_run::{Checkpoint, Error, KvElement, Limit, Method, Model, Plan, Protocol, Request, files, plan};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(text)) = (args.next(), args.next()) else {
        eprintln!("usage: kv_cost CHECKPOINT TEXT [WINDOWS]");
        std::process::exit(2);
    };
    let windows = args.next().and_then(|n| n.parse().ok()).unwrap_or(16);
    let (checkpoint, text) = (Checkpoint::open(folder.as_ref())?, files::text(text.as_ref(), 1 << 30)?);
    let request = Request { method: Method::Dense, limit: Limit::None, context: Some(512), ..Request::default() };
    let exact = plan(&checkpoint, &request, &|_| ())?;
    let load = |kv| Model::load(&checkpoint, &Plan { kv, ..exact.clone() }, &|_| ());
    let reference = load(KvElement::F32)?;
    println!("| KV cache | bytes per token | KL | standard error | top-1 the same | perplexity |\n|---|---|---|---|---|---|");
    for kv in KvElement::ALL {
        let model = load(kv)?;
        let r = model.perplexity(&text, &Protocol::windows(512, 512), Some(windows), Some(&reference), &mut |_| ())?;
        let bytes = checkpoint.description().state_bytes(1 << 16, kv) >> 16;
        let [kl, error, same] = [r.kl, r.kl_standard_error, r.top1_agreement].map(Option::unwrap_or_default);
        println!("| {} | {bytes} | {kl:.6} | {error:.6} | {:.2} % | {:.4} |", kv.name(), 100.0 * same, r.perplexity);
    }
    Ok(())
}
