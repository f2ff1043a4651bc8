//! What an expert costs: noise on one at a time, beside what its weights say of it, and what the planner takes it to cost.
use crate::{Run, noise::Noisy};
use ram_kernels::dequantize_row;
use ram_models::{Kind, TensorSpec, Weights};
use ram_run::{Error, Loaded};

/// Prints, for the first, a middle and the last layer with experts, the spread of measured u over the mean, and the correlation of
/// its logarithm with those of the router row's norm and of the product of the three matrices' norms.
pub fn print(run: &Run) -> Result<(), Error> {
    let specs = run.checkpoint.specs();
    let routers: Vec<&TensorSpec> = specs.iter().filter(|s| s.kind == Kind::Router).collect();
    println!("\n{:>5} {:>24} {:>24} {:>24}", "layer", "u / mean, least to most", "with router row's norm", "with weights' norms");
    let picks = [0, routers.len() / 2, routers.len().saturating_sub(1)];
    for router in picks.iter().filter_map(|&i| routers.get(i)) {
        let norms = squares(run.dense, router)?;
        let mut shares = Vec::new();
        let mut weights = Vec::new();
        for expert in 0..norms.len() {
            let of = |s: &TensorSpec| s.layer == router.layer && s.expert == Some(expert) && s.kind.is_matrix();
            let noisy = Noisy { dense: run.dense, noisy: &of, squared: 0.04, survey: run.survey };
            shares.push(run.kl(&noisy)?);
            let product = specs.iter().filter(|s| of(s)).map(|s| Ok(squares(run.dense, s)?.iter().sum::<f64>().ln())).sum::<Result<f64, Error>>()?;
            weights.push(product.exp());
        }
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let (least, most) = shares.iter().fold((f64::INFINITY, 0.0f64), |(a, b), s| (a.min(s / mean), b.max(s / mean)));
        // What is never chosen costs nothing, give or take rounding: a thousandth has a logarithm.
        shares.iter_mut().for_each(|s| *s = s.max(1e-3 * mean));
        let layer = router.layer.map_or_else(String::new, |l| l.to_string());
        let spread = format!("{least:.2} to {most:.2}");
        println!("{layer:>5} {spread:>24} {:>24.2} {:>24.2}", correlation(&shares, &norms), correlation(&shares, &weights));
    }
    Ok(())
}

/// Squared norm of every row.
fn squares(weights: &Loaded, spec: &TensorSpec) -> Result<Vec<f64>, Error> {
    let m = weights.matrix(spec)?;
    let mut row = vec![0.0; m.cols()];
    let square = |r: usize| {
        dequantize_row(m.format(), m.rows(), m.cols(), m.bytes(), r, &mut row);
        row.iter().map(|w| f64::from(*w).powi(2)).sum()
    };
    Ok((0..m.rows()).map(square).collect())
}

/// Of logarithms.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let center = |v: &[f64]| {
        let logs: Vec<f64> = v.iter().map(|v| v.ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        logs.into_iter().map(|l| l - mean).collect::<Vec<_>>()
    };
    let (a, b) = (center(a), center(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}
