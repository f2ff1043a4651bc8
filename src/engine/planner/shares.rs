//! What part of its layer's u each expert has, from norms of weights.
//!
//! Noise of relative size E in an expert's weights moves its output by E times that output's length, which for inputs of a given
//! length goes with the product P of the three matrices' squared norms; and it counts as often and as much as the router chooses
//! the expert, for which a longer row r of the router has the larger logits. Experts that are chosen rarely have learned less and
//! are short in all of these, so that P says more than the output's length: shares go with ||r||^2 P^(3/2). Against equal shares
//! that is half of the KL divergence at 4 bits per weight on two of three checkpoints, 20 % less on the third, 7 and 18 % less on two
//! hardly trained ones (docs/quality.md has other exponents). Where all experts are alike, so are the shares.
use super::rd_curve::Curve;
use ram_models::{Description, TensorSpec};
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

    /// From the mean square of every matrix' weights, where it is known, and from ||r||^2 of every row of a layer's router.
    pub fn of_norms(description: &Description, matrices: &[&TensorSpec], curves: &[Curve], routers: &BTreeMap<usize, Vec<f64>>) -> Shares {
        let experts = |layer| description.mixture(layer).map_or(0, |m| m.num_experts);
        let mut products: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (spec, curve) in matrices.iter().zip(curves) {
            if let (Some(layer), Some(expert)) = (spec.layer, spec.expert) {
                // What is not known leaves its layer's sum not a number.
                products.entry(layer).or_insert_with(|| vec![1.0; experts(layer)])[expert] *= curve.square.unwrap_or(f64::NAN);
            }
        }
        let parts = products.into_iter().filter_map(|(layer, products)| {
            // A square root is the same on every machine; a power need not be.
            let parts: Vec<f64> = products.iter().zip(routers.get(&layer)?).map(|(p, row)| row * p * p.sqrt()).collect();
            let sum: f64 = parts.iter().sum();
            (sum.is_finite() && sum > 0.0).then(|| (layer, parts.into_iter().map(|p| p / sum).collect()))
        });
        Shares(parts.collect())
    }
}
