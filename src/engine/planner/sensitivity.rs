//! What a unit of squared relative error in a tensor costs, in nats of KL divergence: what a survey says, else from the weights alone.
//!
//! For the head it can be derived: noise of relative size E on row v moves that logit by E ||w_v * gamma||, gamma being
//! the final norm's weight, and half the variance of the logits' noise over the next token's probabilities is the KL
//! divergence that it causes. Tokens that never come have rows of up to 30 times the square of others, frequent ones shorter
//! rows than most: the mean over the vocabulary is 2.4 to 3.8 times what noise injection finds. The median knows nothing of
//! the former (nor of rows that are padding) and is 1.5 to 1.7 times it on three checkpoints, hence the factor.
//!
//! The other tensors' u are fractions of the head's, found by noise injection into trained checkpoints of the three
//! architectures.
use super::shares::Shares;
use crate::{
    Error,
    checkpoint::{self, Checkpoint},
    survey::Survey,
};
use ram_models::{Description, Kind, TensorSpec, description::Mixture};

/// Head rows that u is measured on, evenly spaced.
const ROWS: usize = 4096;
/// Of them, so many lie together.
const RUN: usize = 64;
/// u of the head, where the median square of its rows is 1.
const HEAD: f64 = 0.32;
/// A kind of weights of one layer, but the first, as a fraction of the head's u, where the tables below say 1.
const LAYER: f64 = 0.017;
/// The embedding's u as a fraction of the head's.
const EMBEDDING: f64 = 0.13;

/// u of the head, the matrix that makes logits: [`HEAD`] times the median over the vocabulary of ||w_v * gamma||^2.
///
/// # Errors
/// Where the checkpoint cannot be read, or a weight is not finite.
pub fn head(checkpoint: &Checkpoint, head: &TensorSpec) -> Result<f64, Error> {
    let specs = checkpoint.specs();
    let Some(norm) = specs.iter().find(|s| s.kind == Kind::Norm && s.layer.is_none()) else {
        return Err(Error::MissingTensor("model.norm.weight".into()));
    };
    let gamma = checkpoint::read_vector(checkpoint, &norm.name)?;
    let (rows, cols) = (head.shape[0], head.shape[1]);
    let picks = checkpoint::sampled_rows(rows, ROWS, RUN);
    let mut squares = Vec::with_capacity(picks.len());
    for picks in picks.chunks(256) {
        for row in checkpoint::read_rows(checkpoint, &head.name, cols, picks)?.chunks_exact(cols) {
            squares.push(row.iter().zip(&gamma).map(|(w, g)| (f64::from(*w) * f64::from(*g)).powi(2)).sum::<f64>());
        }
    }
    let scaling = checkpoint.description().logits_scaling;
    let (_, median, _) = squares.select_nth_unstable_by(picks.len() / 2, f64::total_cmp);
    Ok(HEAD * *median / scaling.powi(2))
}

/// u of one tensor: by a survey where there is one and it knows; else given the head's and the experts' shares of their layers'.
pub fn of(spec: &TensorSpec, head: f64, shares: &Shares, description: &Description, survey: Option<&Survey>) -> f64 {
    if let Some(cost) = survey.and_then(|survey| survey.cost(&spec.name)) {
        return if spec.kind == Kind::Embedding && description.tie_word_embeddings { cost + head } else { cost };
    }
    let mixture = spec.layer.and_then(|layer| description.mixture(layer));
    let experts = mixture.map_or(1, |m| m.num_experts);
    let share = shares.of(spec, experts);
    let experts = experts as f64;
    let first = spec.layer == Some(0);
    // Every layer reads what the embedding and the first layer say, and what each makes of an error there adds up. With up
    // to 6 layers nothing of that is seen; with 12 the embedding costs 5 times as much, the first layer 6 times.
    let readers = (description.layers.len() as f64 / 6.0).max(1.0);
    // Where the chosen experts' weights do not sum to 1, their outputs are shorter by that sum. It lies between k / E, where
    // a router does not decide, and 1, where it does; its square is taken at (k / E)^(1/2) (0.50 where 0.56 to 0.77 is
    // measured). In the first layer routers decide: 0.88 is measured.
    let mass =
        mixture.filter(|m| !first && m.router.norm_topk_prob.is_none()).map_or(1.0, |m| (m.router.num_experts_per_tok as f64 / experts).sqrt());
    // Errors of k routed experts, whose weights sum to 1, reach the stream by 1 / sqrt(k), a shared one's by what its gate lets through: a
    // quarter of its size is between what is measured where k is 2 (0.03 to 0.32 of all routed ones, twice as wide) and 4 (0.16 to 1.1, as wide).
    // Without a gate it would be whole, but routed outputs are scaled or longer to make up for it: it is taken for what all routed ones are
    // together; not measured yet.
    let part = |m: &Mixture| if m.shared_gate { m.router.num_experts_per_tok as f64 / 16.0 } else { 1.0 };
    let shared = mixture.and_then(|m| Some(part(m) * m.shared.as_ref()?.width as f64 / m.expert.width as f64)).unwrap_or(0.0);
    let depth = |at| depth(spec, description.layers.len(), at) * if first { readers } else { 1.0 };
    let attention = spec.layer.and_then(|layer| description.layers[layer].mixer.attention());
    let tied_values = attention.is_some_and(|attention| attention.tied_values);
    head * match spec.kind {
        Kind::Head => 1.0,
        Kind::Embedding => EMBEDDING * readers + if description.tie_word_embeddings { 1.0 } else { 0.0 },
        Kind::Norm | Kind::Bias | Kind::Recurrence => 0.0,
        Kind::Value => depth([0.036, 0.35, 0.25]),
        Kind::Output => depth([0.034, 0.24, 0.28]),
        // On one checkpoint of 8 layers, beside what its attention and MLPs cost.
        Kind::DeltaInput => depth([0.063, 1.6, 1.6]),
        Kind::DeltaGate => depth([0.025, 1.0, 1.0]),
        Kind::DeltaOutput => depth([0.031, 1.6, 1.6]),
        Kind::Query => depth([0.009, 0.21, 0.20]),
        // Keys that are values too cost what both do.
        Kind::Key if tied_values => depth([0.048, 0.56, 0.47]),
        Kind::Key => depth([0.012, 0.21, 0.22]),
        // What keys and values, or queries, are made of counts as these do: a plan by that loses 6 to 9 % more than a survey's (docs/quality.md).
        Kind::QueryDown => depth([0.009, 0.21, 0.20]),
        Kind::LatentDown => depth([0.048, 0.56, 0.47]),
        Kind::KeyUp => depth([0.012, 0.21, 0.22]),
        Kind::ValueUp => depth([0.036, 0.35, 0.25]),
        Kind::Router | Kind::DeltaRates => depth([0.027, 1.0, 1.6]) * mass,
        Kind::Gate => depth(GATE) * share * mass,
        Kind::Up => depth(UP) * share * mass,
        Kind::Down => depth(DOWN) * share * mass,
        Kind::SharedRouter => depth([0.004, 0.13, 0.15]),
        Kind::SharedGate => depth(GATE) * shared,
        Kind::SharedUp => depth(UP) * shared,
        Kind::SharedDown => depth(DOWN) * shared,
    }
}

// At the first layer as a fraction of the head's u; between, and at the last, as fractions of LAYER. Measured on three
// checkpoints of 4 and 6 layers (`examples/sensitivity`), and looked at on two more, of 8 and 12, trained for minutes. The
// first layer's outputs are most of what all other layers read (the embedding is a hundred times shorter). A layer's u
// does not fall with the number of layers, although its part of the residual stream does: what it does wrong, the
// layers behind it read. In the last layer gate and up cost as much as down, between a third: there the next layers'
// norms and residuals even out what a wrong activation of one expert does.
const DOWN: [f64; 3] = [0.075, 0.75, 1.0];
const GATE: [f64; 3] = [0.013, 0.28, 0.70];
const UP: [f64; 3] = [0.013, 0.165, 0.48];

fn depth(spec: &TensorSpec, layers: usize, [first, between, last]: [f64; 3]) -> f64 {
    match spec.layer {
        Some(0) => first,
        Some(l) if l + 1 == layers => last * LAYER,
        _ => between * LAYER,
    }
}
