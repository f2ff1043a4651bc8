//! `ram-run compare`: perplexity and KL divergence at equal bytes, one Markdown table.
use super::{
    args::{Args, CompareArgs},
    eval, open, print,
};
use ram_run::{Error, Limit, Method, Request};

/// Runs every method at the bytes of each uniform affine format.
pub fn run(args: &Args, a: &CompareArgs) -> Result<(), Error> {
    let (text, source) = eval::text(args, a.text.as_deref())?;
    let checkpoint = open::checkpoint(args)?;
    let protocol = eval::protocol(&a.windows, &open::tokenizer(&checkpoint)?);
    let base = Request { context: Some(protocol.window), pins: args.request()?.pins, ..Request::default() };
    let dense = open::model(args, &checkpoint, &open::plan(&checkpoint, &Request { method: Method::Dense, ..base.clone() })?)?;
    let own = eval::score(&dense, None, &text, &protocol, a.windows.max_windows)?;
    print(&format!(
        "{}: window {}, stride {}, {} windows, {} tokens, {source}\n\n| method | weight bytes | bits per weight | KL | +/- | expected KL | same top-1 | perplexity |\n|---|---|---|---|---|---|---|---|\n",
        checkpoint.folder().display(),
        protocol.window,
        protocol.stride,
        own.windows,
        own.tokens_scored,
    ))?;
    print(&format!("| dense | {} | {:.2} | | | | | {:.3} |\n", dense.plan.weight_bytes, dense.plan.bits_per_weight, own.perplexity))?;
    for &format in &a.at {
        let uniform = Request { method: Method::Uniform(format), ..base.clone() };
        let bytes = open::plan(&checkpoint, &uniform)?.weight_bytes;
        let limit = Limit::Weights(bytes);
        let within = |method| Request { method, limit, ..base.clone() };
        for request in [uniform.clone(), within(Method::Ram), within(Method::RamExperts), within(Method::Kl)] {
            let plan = open::plan(&checkpoint, &request)?;
            let model = open::model(args, &checkpoint, &plan)?;
            let r = eval::score(&model, Some(&dense), &text, &protocol, a.windows.max_windows)?;
            let number = |v: Option<f64>| v.unwrap_or(f64::NAN);
            let (kl, error, top) = (number(r.kl), number(r.kl_standard_error), number(r.top1_agreement));
            print(&format!(
                "| {} | {} | {:.3} | {kl:.5} | {error:.5} | {:.5} | {:.2} % | {:.3} |\n",
                plan.method,
                plan.weight_bytes,
                plan.bits_per_weight,
                plan.expected_kl,
                100.0 * top,
                r.perplexity
            ))?;
        }
    }
    Ok(())
}
