//! A model with noise on some of its matrices.
use ram_kernels::{Arena, Effort, Format, Matrix, quantize};
use ram_models::{TensorSpec, Weights};
use ram_run::{Error, Loaded};
use std::sync::Arc;

/// A dense model's weights, with noise on some matrices.
pub struct Noisy<'a> {
    pub dense: &'a Loaded,
    pub noisy: &'a dyn Fn(&TensorSpec) -> bool,
    /// Of each row's squared norm.
    pub squared: f64,
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
        let mut arena = Arena::new(len).map_err(|source| Error::Io { path: spec.name.clone().into(), source })?;
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
