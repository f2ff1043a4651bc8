//! `ram-run compare`: perplexity and KL divergence at equal bytes, as a Markdown table and as a picture.
use super::{
    args::{Args, CompareArgs},
    draw::{self, Curve},
    eval, open, output, print, refine,
};
use crate::cli::{Error, note};
use ram_run::{Checkpoint, Effort, KvElement, Limit, Method, Pin, Plan, Report, Request, trellis_menu};

/// Runs every method at the bytes of each uniform affine format and at `--weights`, and this project's plan beside other checkpoints.
pub fn run(args: &Args, a: &CompareArgs) -> Result<(), Error> {
    a.markdown.iter().chain(&a.svg).try_for_each(|path| output::check(path))?;
    let text = eval::Text::find(args, a.text.as_deref())?;
    let checkpoint = open::checkpoint(args)?;
    let protocol = eval::protocol(&a.windows, &open::tokenizer(&checkpoint)?);
    let asked = args.request()?;
    let base = Request { context: Some(protocol.window), pins: asked.pins, effort: asked.effort, ..Request::default() };
    let dense = open::plan(&checkpoint, &Request { method: Method::Dense, pins: Vec::new(), reserved: text.reserved(), ..base.clone() })?;
    let others = a.against.iter().map(|folder| Checkpoint::open(folder)).collect::<Result<Vec<_>, _>>()?;
    if args.refine {
        refine::check_weights(&checkpoint, &base)?;
    }
    let base = open::plainly_surveyed(args, &checkpoint, base)?;
    let mut contests = sizes(args, a, &checkpoint, &base)?;
    for other in &others {
        contests.extend(against(&checkpoint, other, &base)?);
    }
    // The dense model, and one at a time beside it.
    let most = contests.iter().map(|c| c.plan.memory.total - c.plan.memory.other).max().unwrap_or(0);
    let need = dense.memory.total + most;
    if let Some(have) = args.budget.filter(|have| *have < need) {
        return Err(ram_run::Error::Budget { need, have, weights_only: false }.into());
    }
    let (text, source) = text.read()?;
    others.iter().try_for_each(|other| eval::same_tokens(&checkpoint, other, &text))?;
    let dense = open::uncached(args, &checkpoint, &dense)?;
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
    let mut curves: Vec<Curve> = Vec::new();
    let (mut best, mut of) = (f64::INFINITY, 0);
    for Contest { name, checkpoint, plan, pinned, size } in contests {
        let model = open::uncached(args, checkpoint, &plan)?;
        let r = eval::score(&model, Some(&dense), &text, &protocol, a.windows.max_windows)?;
        if size != of {
            (best, of) = (f64::INFINITY, size);
        }
        // Others are those whose formats are not this project's.
        let trellis = matches!(plan.method, Method::Uniform(format) if format.scheme().is_rotated());
        let own = plan.method == Method::Kl || trellis;
        let row = row(&name, &plan, &r, own.then_some(best));
        if !own {
            best = best.min(r.kl.unwrap_or(f64::INFINITY));
        }
        print(&row)?;
        table += &row;
        let curve = match plan.method {
            Method::Uniform(_) if trellis => "uniform trellis",
            Method::Uniform(_) => "uniform affine",
            Method::Dense if plan.entries.iter().any(|e| e.format.to_string().starts_with(['q', 'p'])) => "GPTQ",
            Method::Dense => "MLX",
            Method::Kl if pinned => "ram-run, pinned",
            Method::Kl if plan.survey.text().is_some() => "ram-run, refined",
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
    plan: Plan,
    /// Whether the tensors are dense that are so in another checkpoint.
    pinned: bool,
    /// Bytes that its rivals have.
    size: u64,
}

impl Contest<'_> {
    /// The row of a request, if it can be had: the published method has no format below 2-bit g32 with its scales, and that it cannot
    /// is a result too.
    fn of<'a>(checkpoint: &'a Checkpoint, size: u64, request: &Request) -> Result<Option<Contest<'a>>, Error> {
        match open::plan(checkpoint, request) {
            Ok(plan) => Ok(Some(Contest { name: request.method.to_string(), checkpoint, plan, pinned: false, size })),
            Err(e @ ram_run::Error::Budget { .. }) => {
                note(&format!("{}: {}", request.method, Error::from(e)));
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Every method at the bytes of the uniform formats asked for, and at `--weights`.
fn sizes<'a>(args: &Args, a: &CompareArgs, checkpoint: &'a Checkpoint, base: &Request) -> Result<Vec<Contest<'a>>, Error> {
    let usual = ["a3g64", "a3g32", "a4g64", "a4g32"].map(|f| f.parse().map_err(|_| Error::Failed(format!("{f} is no format"))));
    let usual = usual.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut contests = Vec::new();
    // A size alone is a comparison at that size alone, and another checkpoint is one with that alone.
    for &format in if a.at.is_empty() && args.weights.is_none() && a.against.is_empty() { &usual } else { &a.at } {
        // Rounded as MLX does.
        let uniform = Request { method: Method::Uniform(format), survey: None, effort: Effort::Fast, ..base.clone() };
        let plan = open::plan(checkpoint, &uniform)?;
        let bytes = plan.weight_bytes;
        contests.push(Some(Contest { name: uniform.method.to_string(), checkpoint, plan, pinned: false, size: bytes }));
        contests.extend(equal(args, checkpoint, base, bytes)?);
    }
    if let Some(bytes) = args.weights {
        contests.extend(equal(args, checkpoint, base, bytes)?);
    }
    Ok(contests.into_iter().flatten().collect())
}

/// Those that keep to a size: the published method, the largest trellis format for all that fits, this project's plan, and that refined.
fn equal<'a>(args: &Args, checkpoint: &'a Checkpoint, base: &Request, bytes: u64) -> Result<Vec<Option<Contest<'a>>>, Error> {
    let request = |method| Request { method, limit: Limit::Weights(bytes), ..base.clone() };
    let mut contests = Vec::new();
    for method in [Method::Ram, Method::RamExperts] {
        contests.push(Contest::of(checkpoint, bytes, &request(method))?);
    }
    let mut formats = trellis_menu();
    formats.sort_by_key(|format| std::cmp::Reverse(format.bytes(256, 4096)));
    let fitting = formats.into_iter().map(|format| request(Method::Uniform(format))).find(|request| ram_run::check(checkpoint, request).is_ok());
    contests.extend(fitting.map(|request| Contest::of(checkpoint, bytes, &request)).transpose()?);
    let own = request(Method::Kl);
    contests.push(Contest::of(checkpoint, bytes, &own)?);
    if args.refine && contests.last().is_some_and(Option::is_some) {
        let survey = refine::survey(args, checkpoint, &own, open::weights(checkpoint))?;
        let refined = Contest::of(checkpoint, bytes, &Request { survey: Some(survey.into()), ..own })?;
        contests.push(refined.map(|contest| Contest { name: "kl, refined".into(), ..contest }));
    }
    Ok(contests)
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
    let plan = open::plan(other, &request)?;
    let mut own = Request { limit: Limit::Weights(plan.weight_bytes), ..base.clone() };
    for (spec, theirs) in checkpoint.specs().iter().zip(other.specs()).filter(|(s, _)| s.kind.is_matrix()) {
        if other.own_format(&theirs.name).is_dense() {
            own.pins.push(Pin::exact(&spec.name, checkpoint.own_format(&spec.name)));
        }
    }
    let name = other.folder().file_name().map_or_else(|| other.folder().display().to_string(), |n| n.to_string_lossy().into_owned());
    let size = plan.weight_bytes;
    let theirs = Contest { name, checkpoint: other, plan, pinned: false, size };
    let plan = open::plan(checkpoint, &own)?;
    Ok([theirs, Contest { name: "kl, the same dense".into(), checkpoint, plan, pinned: own.pins.len() > base.pins.len(), size }])
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
