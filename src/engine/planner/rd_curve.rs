//! Rate-distortion curves: for every matrix and every format of a menu, exact bytes and measured squared relative error.
use crate::{
    Error,
    checkpoint::{self, Checkpoint},
    survey::Survey,
};
use ram_kernels::{Effort, Format, relative_error};
use ram_models::TensorSpec;
use rand_pcg::{Pcg64Mcg, rand_core::Rng};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// One format of one matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// How the matrix would be stored.
    pub format: Format,
    /// [`Format::bytes`] of the whole matrix.
    pub bytes: u64,
    /// ||W - Q(W)||^2 / ||W||^2 over the sampled rows.
    pub error: f64,
}

/// Rows that a curve is measured on, evenly spaced: errors of rotated rows differ little (2 % at 32 rows of 256).
const ROWS: usize = 32;
/// Rows of a sample that lie together.
const RUN: usize = 8;
/// Of models with more weights than this, curves are measured on half the rows with one search, and corrected by what the
/// encoder's effort gains on Gaussian rows: in a third of the time, and on average within 0.8 % of full curves, single matrices
/// within 0.4 to 2.5 % (root mean square; `benches/curves.rs`).
const LARGE: usize = 1_000_000_000;

/// The default menu: every trellis format, 7 and 8 bits.
pub fn trellis_menu() -> Vec<Format> {
    let each = [2, 3, 4, 5, 6, 7, 8].into_iter().flat_map(|bits| [16, 32, 64, 128].into_iter().filter_map(move |group| Format::rotated(bits, group)));
    each.collect()
}

/// The menu of the published RAM method, without its 16 bits: (bits, group).
pub fn affine_menu() -> Vec<Format> {
    [(2, 32), (3, 64), (4, 32), (4, 64), (4, 128), (8, 64), (8, 128)].into_iter().filter_map(|(b, g)| Format::affine(b, g)).collect()
}

/// What is known of one matrix.
pub struct Curve {
    /// Every format of its menu.
    pub points: Vec<Point>,
    /// Mean square of its weights, where they were looked at.
    pub square: Option<f64>,
}

/// Curves of `specs`, each over its menu, with the encoder's `effort`, of weights scaled by a survey; matrices in parallel, read by sampled
/// rows.
///
/// # Errors
/// Where the checkpoint cannot be read, or a sampled weight is not finite.
pub fn curves(
    checkpoint: &Checkpoint,
    specs: &[&TensorSpec],
    menus: &[Vec<Format>],
    effort: Effort,
    survey: Option<&Survey>,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Curve>, Error> {
    let look = Look::new(specs, menus, effort);
    let each = specs.par_iter().zip(menus).map(|(spec, menu)| {
        let curve = curve(checkpoint, spec, menu, survey, &look);
        done(spec.shape.iter().product());
        curve
    });
    each.collect()
}

/// Rows of a matrix that are looked at, of a small model.
pub fn rows_looked_at(rows: usize) -> usize {
    rows.min(ROWS)
}

/// Whether a model has so many weights that half the rows are looked at.
pub fn is_large<'a>(specs: impl IntoIterator<Item = &'a TensorSpec>) -> bool {
    specs.into_iter().filter(|spec| spec.kind.is_matrix()).map(|spec| spec.shape.iter().product::<usize>()).sum::<usize>() > LARGE
}

/// How a curve is measured.
pub struct Look {
    rows: usize,
    effort: Effort,
    /// What errors are multiplied with; 1 where a format is not in it.
    gains: BTreeMap<Format, f64>,
}

impl Look {
    /// For all matrices of a model and their menus.
    pub fn new(specs: &[&TensorSpec], menus: &[Vec<Format>], effort: Effort) -> Look {
        if is_large(specs.iter().copied()) && effort != Effort::Fast {
            Look { rows: ROWS / 2, effort: Effort::Fast, gains: gains(specs, menus, effort) }
        } else {
            Look { rows: ROWS, effort, gains: BTreeMap::new() }
        }
    }
}

/// By format: the error with `effort` over that of the fast encoder, for Gaussian rows.
fn gains(specs: &[&TensorSpec], menus: &[Vec<Format>], effort: Effort) -> BTreeMap<Format, f64> {
    let formats: BTreeSet<Format> = menus.iter().flatten().copied().filter(|f| f.scheme().is_rotated() || f.takes_feedback()).collect();
    // 2,048 inputs, or fewer where no matrix has as many.
    let cols = specs.iter().map(|s| s.shape[s.shape.len() - 1]).max().unwrap_or(16).min(2048);
    let sample = normal(ROWS * cols);
    let each = formats.into_par_iter().map(|f| (f, relative_error(f, effort, &sample, cols) / relative_error(f, Effort::Fast, &sample, cols)));
    each.collect()
}

/// One matrix, over its menu.
///
/// # Errors
/// As for [`curves`].
pub fn curve(checkpoint: &Checkpoint, spec: &TensorSpec, menu: &[Format], survey: Option<&Survey>, look: &Look) -> Result<Curve, Error> {
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let picks = checkpoint::sampled_rows(rows, look.rows, RUN);
    let mut sample = checkpoint::read_rows(checkpoint, &spec.name, cols, &picks)?;
    if let Some(survey) = survey {
        for (row, pick) in sample.chunks_exact_mut(cols).zip(picks) {
            survey.apply(&spec.name, pick, row, cols);
        }
    }
    // What is kept as it is published needs no look.
    let kept = checkpoint.published(&spec.name);
    let error = |format: Format| {
        if kept == Some(format) { 0.0 } else { relative_error(format, look.effort, &sample, cols) * look.gains.get(&format).unwrap_or(&1.0) }
    };
    let point = |&format: &Format| Point { format, bytes: format.bytes(rows, cols) as u64, error: error(format) };
    let square = sample.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / sample.len().max(1) as f64;
    Ok(Curve { points: menu.iter().map(point).collect(), square: Some(square) })
}

/// Curves of matrices that nobody has seen: as if their weights were Gaussian, which rotated ones are like. One error per
/// format and number of inputs.
pub fn gaussian(specs: &[&TensorSpec], menus: &[Vec<Format>], effort: Effort) -> Vec<Vec<Point>> {
    let all: BTreeSet<(usize, Format)> = specs.iter().zip(menus).flat_map(|(s, menu)| menu.iter().map(|&f| (s.shape[1], f))).collect();
    let widths: BTreeSet<usize> = specs.iter().map(|s| s.shape[1]).collect();
    let samples: BTreeMap<usize, Vec<f32>> = widths.into_par_iter().map(|cols| (cols, normal(ROWS * cols))).collect();
    let errors = all.into_par_iter().map(|(cols, format)| ((cols, format), relative_error(format, effort, &samples[&cols], cols)));
    let errors: BTreeMap<(usize, Format), f64> = errors.collect();
    let point =
        |s: &TensorSpec, format: Format| Point { format, bytes: format.bytes(s.shape[0], s.shape[1]) as u64, error: errors[&(s.shape[1], format)] };
    specs.iter().zip(menus).map(|(s, menu)| menu.iter().map(|&f| point(s, f)).collect()).collect()
}

/// Gaussian numbers (Box and Muller). Not a library's: another version of it could draw others, and plans of large models would change.
fn normal(n: usize) -> Vec<f32> {
    let mut random = Pcg64Mcg::new(1);
    let mut uniform = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (0..n).map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32).collect()
}
