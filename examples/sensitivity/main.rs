//! What a unit of squared relative error in each layer and kind costs, measured by noise, beside what the planner takes it
//! to cost from the weights alone; then the KL divergence of plans made with either, at equal bytes; then whether what an
//! expert costs follows anything but 1 / E. All of it with the scales of a survey.
//!
//! Every matrix of a group gets Gaussian noise, in each row 1 % of the row's squared norm (0.1 % for the head); KL
//! divergence from the dense run, divided by that, is u. Like packed rows' errors, the noise is orthogonal to the weights
//! on average and as long as the row demands: with the same noise in all rows, the head costs 2.5 to 4 times as much,
//! because tokens that never come have rows many times longer than others.
//!
//!     cargo run --release --example sensitivity -- FOLDER TEXT [WINDOWS]
mod experts;
mod noise;

use noise::Noisy;
use ram_models::{Kind, TensorSpec, Transformer, Weights};
use ram_run::{Checkpoint, Error, Limit, Loaded, Method, Model, Plan, Protocol, Request, Survey, choose, load, measure, plan};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Runs of one checkpoint on one text.
struct Run<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    dense: &'a Loaded,
    survey: &'a Survey,
    reference: &'a Model,
    text: &'a str,
    windows: usize,
}

impl Run<'_> {
    /// KL divergence of a model with other weights from the dense one.
    fn kl(&self, weights: &impl Weights<Error = Error>) -> Result<f64, Error> {
        let transformer = Transformer::new(self.checkpoint.description().clone(), weights, &ram_run::Backend::Fused)?;
        let tokenizer = ram_run::Tokenizer::open(self.checkpoint.folder(), self.checkpoint.description().vocab_size)?;
        let model = Model { transformer, tokenizer: tokenizer.into(), plan: self.plan.clone() };
        let report = model.perplexity(self.text, &Protocol::windows(256, 256), Some(self.windows), Some(self.reference), &mut |_| ())?;
        Ok(report.kl.unwrap_or(f64::NAN))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let usage = || "sensitivity FOLDER TEXT [WINDOWS]";
    let folder = args.get(1).ok_or_else(usage)?;
    let text = args.get(2).ok_or_else(usage)?;
    let windows = args.get(3).map_or(Ok(16), |n| n.parse()).map_err(|_| usage())?;
    let text = std::fs::read_to_string(text).map_err(|source| Error::Io { path: text.into(), source })?;
    let checkpoint = Checkpoint::open(Path::new(folder))?;
    let plan = plan(&checkpoint, &Request { method: Method::Dense, context: Some(256), ..Request::default() }, &|_| ())?;
    let survey = Arc::new(Survey::measure(&checkpoint, &|_| ())?);
    let loaded = load(&checkpoint, &plan, &|_| ())?;
    let reference = Model::new(&checkpoint, &plan, &loaded)?;
    let run = Run { checkpoint: &checkpoint, plan: &plan, dense: &loaded, survey: &survey, reference: &reference, text: &text, windows };

    let mut groups: BTreeMap<(Kind, Option<usize>), f64> = BTreeMap::new();
    let request = Request { context: Some(256), survey: Some(survey.clone()), ..Request::default() };
    let mut curves = measure(&checkpoint, &request, &|_| ())?;
    let free = choose(&curves, Limit::None)?;
    for e in free.entries.iter().filter(|e| e.spec.kind.is_matrix()) {
        *groups.entry((e.spec.kind, e.spec.layer)).or_default() += e.u;
    }
    // Over predicted. Experts keep their shares of it.
    println!("{:<14} {:>5} {:>10} {:>10} {:>7}", "kind", "layer", "measured", "predicted", "ratio");
    let mut measured: BTreeMap<(Kind, Option<usize>), f64> = BTreeMap::new();
    for (&(kind, layer), &predicted) in &groups {
        let squared = if kind == Kind::Head { 0.001 } else { 0.01 };
        let noisy = |s: &TensorSpec| s.kind == kind && s.layer == layer;
        let weights = Noisy { dense: &loaded, noisy: &noisy, squared, survey: &survey };
        let u = run.kl(&weights)? / squared;
        measured.insert((kind, layer), u / predicted);
        let layer = layer.map_or("-".into(), |l| l.to_string());
        println!("{:<14} {layer:>5} {u:>10.5} {predicted:>10.5} {:>7.2}", kind.to_string(), u / predicted);
    }

    println!("\n{:>5} {:>10} {:>10} {:>7} {:>10}", "bits", "KL", "measured u", "ratio", "expected");
    let bits = [3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0, 5.5, 6.0];
    let limits = bits.map(|b| Limit::Weights((plan.parameters as f64 * b / 8.0) as u64));
    let priced: BTreeMap<String, f64> = free.entries.into_iter().map(|e| (e.spec.name, e.u)).collect();
    let own = limits.iter().map(|&limit| choose(&curves, limit)).collect::<Result<Vec<Plan>, _>>()?;
    curves.price(&|s| measured.get(&(s.kind, s.layer)).map_or(0.0, |ratio| ratio * priced[&s.name]));
    for ((bits, limit), own) in bits.iter().zip(limits).zip(&own) {
        let best = choose(&curves, limit)?;
        let kl = |plan: &Plan| Run { plan, ..run }.kl(&load(&checkpoint, plan, &|_| ())?);
        let (a, b) = (kl(own)?, kl(&best)?);
        println!("{bits:>5} {a:>10.6} {b:>10.6} {:>7.2} {:>10.6}", a / b, own.expected_kl);
    }
    Ok(experts::print(&run)?)
}
