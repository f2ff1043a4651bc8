//! How well a model knows a text: perplexity of a packed model, and its KL divergence from the dense one.
//!
//!     cargo run --release --example score_text
use ram_run::{Checkpoint, Error, Limit, Method, Model, Protocol, Request, plan};

fn main() -> Result<(), Error> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe").as_ref())?;
    let load = |request: Request| Model::load(&checkpoint, &plan(&checkpoint, &request, &|_| ())?, &|_| ());
    let packed = load(Request { limit: Limit::Weights(7_000_000), ..Request::default() })?;
    let dense = load(Request { method: Method::Dense, ..Request::default() })?;

    let text = include_str!("../README.md");
    let report = packed.perplexity(text, &Protocol::windows(128, 128), None, Some(&dense), &mut |_| ())?;
    println!("perplexity {:.2} +/- {:.2} over {} tokens", report.perplexity, report.perplexity_error, report.tokens_scored);
    println!("KL divergence from the dense model {:.5} nats per token", report.kl.unwrap_or_default());
    Ok(())
}
