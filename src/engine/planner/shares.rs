//! What part of its layer's u each expert has, from norms of weights.
//!
//! Noise of relative size E in an expert's weights moves its output by E times that output's length, which for inputs of a given
//! length goes with the product P of the three matrices' squared norms; and it counts as often and as much as the router chooses
//! the expert, for which a longer row r of the router has the larger logits. Experts that are chosen rarely have learned less and
//! are short in all of these, so that P says more than the output's length: shares go with ||r||^2 P^(3/2). Against equal shares
//! that is half of the KL divergence at 4 bits per weight on two of three checkpoints, 20 % less on the third, 7 and 18 % less on two
//! hardly trained ones (docs/quality.md has other exponents). Where all experts are alike, so are the shares.
use super::rd_curve::Curve;
use crate::{
    Error,
    checkpoint::{self, Checkpoint},
};
use ram_models::{Kind, TensorSpec};
use std::collections::BTreeMap;

/// Parts that sum to 1 over the experts of a layer.
#[derive(Default)]
pub struct Shares(BTreeMap<usize, Vec<f64>>);

impl Shares {
    /// The part of a matrix' expert, of `experts` in its layer; all are equal where nothing is known. 1 for other matrices.
    pub fn of(&self, spec: &TensorSpec, experts: usize) -> f64 {
        let Some(expert) = spec.expert else { return 1.0 };
        spec.layer.and_then(|l| self.0.get(&l)).map_or(1.0 / experts.max(1) as f64, |layer| layer[expert])
    }

    /// From the mean square of every matrix' weights, where it is known, and from the routers, which are read.
    ///
    /// # Errors
    /// Where the checkpoint cannot be read, or a weight is not finite.
    pub fn measure(checkpoint: &Checkpoint, matrices: &[&TensorSpec], curves: &[Curve]) -> Result<Shares, Error> {
        let experts = |layer| checkpoint.description().mixture(layer).map_or(0, |m| m.num_experts);
        let mut products: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut rows: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (spec, curve) in matrices.iter().zip(curves) {
            let Some(layer) = spec.layer else { continue };
            match (spec.kind, spec.expert) {
                (Kind::Router, _) => {
                    let cols = spec.shape[1];
                    let weights = checkpoint::read_rows(checkpoint, &spec.name, cols, &(0..spec.shape[0]).collect::<Vec<_>>())?;
                    rows.insert(layer, weights.chunks_exact(cols).map(|row| row.iter().map(|w| f64::from(*w).powi(2)).sum()).collect());
                }
                // What is not known leaves its layer's sum not a number.
                (_, Some(expert)) => products.entry(layer).or_insert_with(|| vec![1.0; experts(layer)])[expert] *= curve.square.unwrap_or(f64::NAN),
                _ => {}
            }
        }
        let parts = products.into_iter().filter_map(|(layer, products)| {
            // A square root is the same on every machine; a power need not be.
            let parts: Vec<f64> = products.iter().zip(rows.get(&layer)?).map(|(p, row)| row * p * p.sqrt()).collect();
            let sum: f64 = parts.iter().sum();
            (sum.is_finite() && sum > 0.0).then(|| (layer, parts.into_iter().map(|p| p / sum).collect()))
        });
        Ok(Shares(parts.collect()))
    }
}
