//! A model with noise on some of its matrices.
use ram_kernels::{Arena, Effort, Format, Matrix, quantize, rotation};
use ram_models::{TensorSpec, Weights};
use ram_run::{Error, Loaded, Survey};
use std::sync::Arc;

/// A dense model's weights, with noise on some matrices.
pub struct Noisy<'a> {
    pub dense: &'a Loaded,
    pub noisy: &'a dyn Fn(&TensorSpec) -> bool,
    /// Of each row's squared norm.
    pub squared: f64,
    /// How columns are scaled before noise comes to them.
    pub survey: &'a Survey,
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
        let scale = self.survey.columns(&spec.name).map_or_else(|| vec![1.0; cols], <[f32]>::to_vec);
        for row in w.chunks_exact_mut(cols) {
            // As large for all inputs that are rotated together.
            let block = rotation(cols.next_multiple_of(16));
            for (row, scale) in row.chunks_mut(block).zip(scale.chunks(block)) {
                let norm: f64 = row.iter().zip(scale).map(|(&v, &s)| f64::from(v * s).powi(2)).sum();
                let deviation = (self.squared * norm / row.len() as f64).sqrt() as f32;
                row.iter_mut().zip(scale).zip(&mut noise).for_each(|((w, s), noise)| *w += deviation * noise / s);
            }
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
