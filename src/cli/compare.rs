//! `ram-run compare`: perplexity and KL divergence at equal bytes, as a Markdown table and as a picture.
use super::{
    args::{Args, CompareArgs},
    draw::{self, Curve},
    eval, open, output, print,
};
use crate::cli::Error;
use ram_run::{Checkpoint, KvElement, Limit, Method, Pin, Plan, Report, Request};

/// Runs every method at the bytes of each uniform affine format and at `--weights`, and this project's plan beside other checkpoints.
pub fn run(args: &Args, a: &CompareArgs) -> Result<(), Error> {
    a.markdown.iter().chain(&a.svg).try_for_each(|path| output::check(path))?;
    let (text, source) = eval::text(args, a.text.as_deref())?;
    let checkpoint = open::checkpoint(args)?;
    let protocol = eval::protocol(&a.windows, &open::tokenizer(&checkpoint)?);
    let asked = args.request()?;
    let base = Request { context: Some(protocol.window), pins: asked.pins, effort: asked.effort, ..Request::default() };
    let dense = open::uncached(args, &checkpoint, &open::plan(&checkpoint, &Request { method: Method::Dense, ..base.clone() })?)?;
    let own = eval::score(&dense, None, &text, &protocol, a.windows.max_windows)?;
    let mut table = format!(
        "{}: window {}, stride {}, {} windows, {} tokens, {source}\n\n| method | weight bytes | bits per weight | KL | +/- | of the best other | expected KL | same top-1 | perplexity |\n|---|---|---|---|---|---|---|---|---|\n",
        checkpoint.folder().display(),
        protocol.window,
        protocol.stride,
        own.windows,
        own.tokens_scored,
    );
    table += &format!("| dense | {} | {:.2} | | | | | | {:.3} |\n", dense.plan.weight_bytes, dense.plan.bits_per_weight, own.perplexity);
    print(&table)?;
    let others = a.against.iter().map(|folder| Checkpoint::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let mut contests = sizes(args, a, &checkpoint, &base)?;
    for other in &others {
        eval::same_tokens(&checkpoint, other, &text)?;
        contests.extend(against(&checkpoint, other, &base)?);
    }
    let mut curves: Vec<Curve> = Vec::new();
    let mut best = f64::INFINITY;
    for Contest { name, checkpoint, request } in contests {
        let plan = match open::plan(checkpoint, &request) {
            Ok(plan) => plan,
            // The published method has no format below 2-bit g32 with its scales: that it cannot is a result too.
            Err(e @ ram_run::Error::Budget { .. }) => {
                eprintln!("{}: {e}", request.method);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let model = open::uncached(args, checkpoint, &plan)?;
        let r = eval::score(&model, Some(&dense), &text, &protocol, a.windows.max_windows)?;
        // A size is done with this project's plan, its last row.
        let own = plan.method == Method::Kl;
        let row = row(&name, &plan, &r, own.then_some(best));
        best = if own { f64::INFINITY } else { best.min(r.kl.unwrap_or(f64::INFINITY)) };
        print(&row)?;
        table += &row;
        let curve = match plan.method {
            Method::Uniform(_) => "uniform affine",
            Method::Dense if plan.entries.iter().any(|e| e.format.to_string().starts_with(['q', 'p'])) => "GPTQ",
            Method::Dense => "MLX",
            Method::Kl if request.pins.len() > base.pins.len() => "ram-run, pinned",
            Method::Kl => "ram-run",
            _ => &name,
        };
        let point = (plan.bits_per_weight, r.kl.unwrap_or(f64::NAN));
        match curves.iter_mut().find(|c| c.name == curve) {
            Some(c) => c.points.push(point),
            None => curves.push(Curve { name: curve.into(), points: vec![point], dots: true }),
        }
    }
    if let Some(path) = &a.markdown {
        output::write(path, &table)?;
    }
    if let Some(path) = &a.svg {
        curves.iter_mut().for_each(|c| c.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        output::write(path, &draw::file(&draw::plot("bits per weight", "KL divergence from the dense run, nats per token", &curves, None)))?;
    }
    Ok(())
}

/// One row: what runs, how.
struct Contest<'a> {
    name: String,
    checkpoint: &'a Checkpoint,
    request: Request,
}

/// Every method at the bytes of the uniform formats asked for, and at `--weights`.
fn sizes<'a>(args: &Args, a: &CompareArgs, checkpoint: &'a Checkpoint, base: &Request) -> Result<Vec<Contest<'a>>, Error> {
    let usual = ["a3g64", "a3g32", "a4g64", "a4g32"].map(|f| f.parse().map_err(|_| Error::Failed(format!("{f} is no format"))));
    let usual = usual.into_iter().collect::<Result<Vec<_>, _>>()?;
    let contest = |request: Request| Contest { name: request.method.to_string(), checkpoint, request };
    let mut contests = Vec::new();
    // A size alone is a comparison at that size alone, and another checkpoint is one with that alone.
    for &format in if a.at.is_empty() && args.weights.is_none() && a.against.is_empty() { &usual } else { &a.at } {
        let uniform = Request { method: Method::Uniform(format), ..base.clone() };
        let bytes = open::plan(checkpoint, &uniform)?.weight_bytes;
        contests.push(contest(uniform));
        contests.extend(equal(base, bytes).map(contest));
    }
    contests.extend(args.weights.into_iter().flat_map(|bytes| equal(base, bytes)).map(contest));
    Ok(contests)
}

/// The methods that keep to a size.
fn equal(base: &Request, bytes: u64) -> [Request; 3] {
    [Method::Ram, Method::RamExperts, Method::Kl].map(|method| Request { method, limit: Limit::Weights(bytes), ..base.clone() })
}

/// A quantized checkpoint of the same model as it is, and the plan at its bytes that leaves the same tensors dense. Both with the
/// KV cache that packed plans have.
fn against<'a>(checkpoint: &'a Checkpoint, other: &'a Checkpoint, base: &Request) -> Result<[Contest<'a>; 2], Error> {
    let shape = |c: &Checkpoint| c.specs().iter().map(|s| (s.kind, s.shape.clone())).collect::<Vec<_>>();
    if !other.is_quantized() || shape(checkpoint) != shape(other) {
        let [own, other] = [checkpoint, other].map(|c| c.folder().display());
        return Err(Error::Usage(format!("--against {other}: it must be a quantized checkpoint of the model {own}")));
    }
    let request = Request { method: Method::Dense, kv: Some(KvElement::F16), pins: Vec::new(), ..base.clone() };
    let bytes = open::plan(other, &request)?.weight_bytes;
    let mut own = Request { limit: Limit::Weights(bytes), ..base.clone() };
    for (spec, theirs) in checkpoint.specs().iter().zip(other.specs()).filter(|(s, _)| s.kind.is_matrix()) {
        if other.own_format(&theirs.name).is_dense() {
            own.pins.push(Pin::exact(&spec.name, checkpoint.own_format(&spec.name)));
        }
    }
    let name = other.folder().file_name().map_or_else(|| other.folder().display().to_string(), |n| n.to_string_lossy().into_owned());
    let theirs = Contest { name, checkpoint: other, request };
    Ok([theirs, Contest { name: "kl, the same dense".into(), checkpoint, request: own }])
}

fn row(name: &str, plan: &Plan, r: &Report, best: Option<f64>) -> String {
    let number = |v: Option<f64>| v.unwrap_or(f64::NAN);
    let (kl, error, top) = (number(r.kl), number(r.kl_standard_error), number(r.top1_agreement));
    let share = best.filter(|b| b.is_finite()).map_or(String::new(), |b| format!("1/{:.1}", b / kl));
    format!(
        "| {} | {} | {:.3} | {kl:.5} | {error:.5} | {share} | {:.5} | {:.2} % | {:.3} |\n",
        name,
        plan.weight_bytes,
        plan.bits_per_weight,
        plan.expected_kl,
        100.0 * top,
        r.perplexity
    )
}
