//! What a unit of squared relative error in each layer and kind costs, measured by noise, beside what the planner takes
//! it to cost from the weights alone.
//!
//! to cost from the weights alone; then the KL divergence of plans made with either, at equal bytes.
//!
//! Every matrix of a group gets Gaussian noise, in each row 1 % of the row's squared norm (0.1 % for the head); KL
//! divergence from the dense run, divided by that, is u. Like packed rows' errors, the noise is orthogonal to the weights
//! on average and as long as the row demands: with the same noise in all rows, the head costs 2.5 to 4 times as much,
//! because tokens that never come have rows many times longer than others.
//!
//!     cargo run --release --example sensitivity -- FOLDER TEXT [WINDOWS]
use ram_kernels::{Arena, Effort, Format, Matrix, quantize};
use ram_models::{Kind, TensorSpec, Transformer, Weights};
use ram_run::{Checkpoint, Error, Limit, Loaded, Method, Model, Plan, Protocol, Request, choose, load, measure, plan};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// A dense model's weights, with noise on some matrices.
struct Noisy<'a> {
    dense: &'a Loaded,
    noisy: &'a dyn Fn(&TensorSpec) -> bool,
    squared: f64,
}

impl Weights for Noisy<'_> {
    type Error = Error;
    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Error> {
        let m = self.dense.matrix(spec)?;
        if !(self.noisy)(spec) {
            return Ok(m);
        }
        let (rows, cols) = (m.rows(), m.cols());
        let mut w = vec![0.0; rows * cols];
        w.chunks_exact_mut(cols).enumerate().for_each(|(r, row)| ram_kernels::dequantize_row(m.format(), rows, cols, m.bytes(), r, row));
        let seed = spec.name.bytes().fold(14_695_981_039_346_656_037u64, |h, b| (h ^ u64::from(b)).wrapping_mul(1_099_511_628_211));
        let mut noise = gaussian(seed);
        for row in w.chunks_exact_mut(cols) {
            let norm: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
            let deviation = (self.squared * norm / cols as f64).sqrt() as f32;
            row.iter_mut().zip(&mut noise).for_each(|(w, noise)| *w += deviation * noise);
        }
        let len = Format::F32.bytes(rows, cols);
        let mut arena = Arena::new(len).map_err(|e| Error::Failed(e.to_string()))?;
        quantize(Format::F32, Effort::Default, &w, cols, &mut arena.bytes_mut()[..len]);
        Ok(Matrix::new(Arc::new(arena), 0, Format::F32, rows, cols))
    }
    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        self.dense.vector(spec)
    }
}

/// Gaussian numbers without end (Box and Muller).
fn gaussian(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    std::iter::from_fn(move || Some(((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32))
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let usage = || Error::Usage("sensitivity FOLDER TEXT [WINDOWS]".into());
    let folder = args.get(1).ok_or_else(usage)?;
    let text = args.get(2).ok_or_else(usage)?;
    let windows = args.get(3).map_or(Ok(16), |n| n.parse()).map_err(|_| usage())?;
    let text = std::fs::read_to_string(text).map_err(|source| Error::Io { path: text.into(), source })?;
    let checkpoint = Checkpoint::open(Path::new(folder))?;
    let plan = plan(&checkpoint, &Request { method: Method::Dense, context: Some(256), ..Request::default() }, &|_| ())?;
    let loaded = load(&checkpoint, &plan, &|_| ())?;
    let dense = Model::new(&checkpoint, &plan, &loaded)?;

    let mut groups: BTreeMap<(Kind, Option<usize>), (f64, usize)> = BTreeMap::new();
    for e in plan.entries.iter().filter(|e| e.spec.kind.is_matrix()) {
        let group = groups.entry((e.spec.kind, e.spec.layer)).or_default();
        *group = (group.0 + e.u, group.1 + 1);
    }
    println!("{:<14} {:>5} {:>10} {:>10} {:>7}", "kind", "layer", "measured", "predicted", "ratio");
    let mut measured: BTreeMap<(Kind, Option<usize>), f64> = BTreeMap::new();
    for (&(kind, layer), &(predicted, matrices)) in &groups {
        let squared = if kind == Kind::Head { 0.001 } else { 0.01 };
        let noisy = |s: &TensorSpec| s.kind == kind && s.layer == layer;
        let weights = Noisy { dense: &loaded, noisy: &noisy, squared };
        let u = kl(&checkpoint, &plan, &weights, &dense, &text, windows)? / squared;
        measured.insert((kind, layer), u / matrices as f64);
        let layer = layer.map_or("-".into(), |l| l.to_string());
        println!("{:<14} {layer:>5} {u:>10.5} {predicted:>10.5} {:>7.2}", kind.to_string(), u / predicted);
    }

    println!("\n{:>5} {:>10} {:>10} {:>7} {:>10}", "bits", "KL", "measured u", "ratio", "expected");
    let request = Request { context: Some(256), ..Request::default() };
    let mut curves = measure(&checkpoint, &request, &|_| ())?;
    let bits = [3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0, 5.5, 6.0];
    let limits = bits.map(|b| Limit::Weights((plan.parameters as f64 * b / 8.0) as u64));
    let own = limits.iter().map(|&limit| choose(&checkpoint, &curves, limit)).collect::<Result<Vec<Plan>, _>>()?;
    curves.price(checkpoint.specs(), &|s| measured.get(&(s.kind, s.layer)).copied().unwrap_or(0.0));
    for ((bits, limit), own) in bits.iter().zip(limits).zip(&own) {
        let best = choose(&checkpoint, &curves, limit)?;
        let kl = |plan: &Plan| kl(&checkpoint, plan, &load(&checkpoint, plan, &|_| ())?, &dense, &text, windows);
        let (a, b) = (kl(own)?, kl(&best)?);
        println!("{bits:>5} {a:>10.6} {b:>10.6} {:>7.2} {:>10.6}", a / b, own.expected_kl);
    }
    Ok(())
}

fn kl(checkpoint: &Checkpoint, plan: &Plan, weights: &impl Weights<Error = Error>, dense: &Model, text: &str, windows: usize) -> Result<f64, Error> {
    let transformer = Transformer::new(checkpoint.config().clone(), weights)?;
    let tokenizer = ram_run::Tokenizer::open(checkpoint.folder(), checkpoint.config().vocab_size)?;
    let model = Model { transformer, tokenizer, plan: plan.clone() };
    let report = model.perplexity(text, &Protocol::windows(256, 256), Some(windows), Some(dense), &mut |_| ())?;
    Ok(report.kl.unwrap_or(f64::NAN))
}
