//! What the allocator chooses a format for: a matrix, or several that get the same, and what each choice costs.
use super::{allocate::Choice, method::Method, rd_curve::Point, target::Shared};
use ram_kernels::{Format, input_error};
use ram_models::{Kind, TensorSpec};
use std::collections::BTreeMap;

/// u (E^2 + what rounding the inputs of its products adds): nothing for an embedding, whose rows are looked up.
pub fn loss(spec: &TensorSpec, u: f64, format: Format, error: f64) -> f64 {
    u * (error + if spec.kind == Kind::Embedding { 0.0 } else { input_error(format) })
}

/// Matrices that get one format together.
pub struct Item {
    /// Their numbers among all matrices.
    pub matrices: Vec<usize>,
    prior: f64,
    /// Whether it is a router.
    pub router: bool,
}

/// The items of a method.
pub fn items(method: Method, matrices: &[&TensorSpec], layers: usize) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut by_key: BTreeMap<Shared, usize> = BTreeMap::new();
    for (m, spec) in matrices.iter().enumerate() {
        let shared = match method {
            Method::Ram => spec.layer.filter(|_| spec.expert.is_some()).map(|layer| (layer, spec.kind as usize)),
            Method::For(target) => target.shared(spec),
            Method::Kl | Method::RamExperts | Method::Uniform(_) | Method::Dense => None,
        };
        let at = shared.and_then(|key| by_key.get(&key).copied()).unwrap_or(items.len());
        if at == items.len() {
            items.push(Item { matrices: Vec::new(), prior: ram_prior(spec, layers), router: spec.kind.steers() });
            by_key.extend(shared.map(|key| (key, at)));
        }
        items[at].matrices.push(m);
    }
    items
}

/// RAM's fixed priors; the largest that applies.
fn ram_prior(spec: &TensorSpec, layers: usize) -> f64 {
    let kind = match spec.kind {
        Kind::Embedding | Kind::Head => 10.0,
        Kind::Router | Kind::SharedRouter | Kind::DeltaRates => 8.0,
        _ => 1.0f64,
    };
    let place = match spec.layer {
        Some(0) => 3.0,
        Some(l) if l + 1 == layers => 2.0,
        _ => 1.0,
    };
    kind.max(place)
}

/// RAM refuses formats with less than 9 dB of signal over noise.
const RAM_VETO: f64 = 0.125_892_541_179_416_73;

impl Item {
    /// Formats that all matrices of the item have on their curves, in order.
    pub fn formats(&self, method: Method, curves: &[Vec<Point>]) -> Vec<Format> {
        let first = &curves[self.matrices[0]];
        let worst = |f: Format| self.matrices.iter().filter_map(|&m| curves[m].iter().find(|p| p.format == f)).map(|p| p.error).fold(0.0, f64::max);
        let ram = matches!(method, Method::Ram | Method::RamExperts);
        let everywhere = |f: Format| self.matrices.iter().all(|&m| curves[m].iter().any(|p| p.format == f));
        let kept: Vec<Format> =
            first.iter().map(|p| p.format).filter(|&f| everywhere(f) && !(ram && first.len() > 1 && worst(f) > RAM_VETO)).collect();
        kept
    }

    /// What each of [`Item::formats`] takes and costs; `u` is that of every matrix.
    pub fn choices(&self, method: Method, matrices: &[&TensorSpec], curves: &[Vec<Point>], u: &dyn Fn(&TensorSpec) -> f64) -> Vec<Choice> {
        let ram = matches!(method, Method::Ram | Method::RamExperts);
        let each = self.formats(method, curves).into_iter().map(|format| {
            let points = || self.matrices.iter().filter_map(|&m| curves[m].iter().find(|p| p.format == format).map(|p| (m, p)));
            let bytes = points().map(|(_, p)| p.bytes).sum();
            let loss = if ram {
                self.prior * points().map(|(_, p)| p.error.sqrt()).fold(0.0, f64::max)
            } else {
                points().map(|(m, p)| loss(matrices[m], u(matrices[m]), p.format, p.error)).sum()
            };
            Choice { bytes, loss }
        });
        each.collect()
    }
}
