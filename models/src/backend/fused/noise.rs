//! What an error in a matrix costs: noise in its weights, and how far it moves what the head would say.
use crate::forward_error::Fault;
use ram_kernels::{Arena, Effort, Inputs, Matrix, NotFinite, Products, Same, Team, dequantize_row, mix, quantize, rotation, split_mix};
use std::sync::Arc;

/// Squared relative error of the noise.
pub const SQUARED: f64 = 0.01;

/// Adds noise to a row that is like what coding leaves of it, times `scale` by column where there is one: as large for all inputs that are
/// rotated together. Signs are random.
pub fn add_noise(row: &mut [f32], scale: Option<&[f32]>, seed: u64) {
    let (block, mut state) = (rotation(row.len().next_multiple_of(16)), mix(seed));
    for (b, weights) in row.chunks_mut(block).enumerate() {
        let first = b * block;
        let square = match scale {
            Some(scale) => weights.iter().zip(&scale[first..]).map(|(w, s)| (w * s).powi(2)).sum::<f32>(),
            None => weights.iter().map(|w| w.powi(2)).sum(),
        };
        let size = (f64::from(square) / weights.len() as f64 * SQUARED).sqrt() as f32;
        for (c, weights) in weights.chunks_mut(64).enumerate() {
            let signs = split_mix(&mut state);
            let at = first + 64 * c;
            let mut sizes = [size; 64];
            if let Some(scale) = scale {
                sizes.iter_mut().zip(&scale[at..at + weights.len()]).for_each(|(size, s)| *size /= s);
            }
            for (i, (w, size)) in weights.iter_mut().zip(sizes).enumerate() {
                *w += if signs >> i & 1 == 1 { size } else { -size };
            }
        }
    }
}

/// The matrix with noise in all of its rows.
///
/// # Errors
/// If there is not enough memory.
pub fn noisy(team: &Team, matrix: &Matrix, scale: Option<&[f32]>) -> Result<Matrix, Fault> {
    let (rows, cols, format) = (matrix.rows(), matrix.cols(), matrix.format());
    let row_bytes = format.row_bytes(1, cols);
    let mut arena = Arena::new(rows * row_bytes).map_err(candle_core::Error::from)?;
    team.chunks(&mut arena.bytes_mut()[..rows * row_bytes], row_bytes, |row, out| {
        let mut own = vec![0.0; cols];
        dequantize_row(format, rows, cols, matrix.bytes(), row, &mut own);
        add_noise(&mut own, scale, row as u64);
        quantize(format, Effort::Fast, &own, cols, out);
    });
    Ok(Matrix::new(Arc::new(arena), 0, format, rows, cols))
}

/// Some rows of the head, times the last norm's weights, less their mean: what moves all logits alike costs nothing.
#[derive(Debug)]
pub struct Lens {
    rows: Matrix,
    inputs: Inputs,
    products: Products,
    /// 0, 1, 2, ...
    tokens: Vec<u32>,
}

impl Lens {
    /// Of rows of the head, (n, hidden_size), and the last norm's weights. Rows of more than twice the median square are left out: those
    /// of tokens that never come are up to 30 times as long as others, and nothing is said of them.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(rows: &[f32], norm: &[f32]) -> Result<Lens, Fault> {
        let cols = norm.len();
        let mut each: Vec<(f64, Vec<f32>)> = Vec::new();
        for row in rows.chunks_exact(cols) {
            let row: Vec<f32> = row.iter().zip(norm).map(|(w, n)| w * n).collect();
            each.push((row.iter().map(|w| f64::from(*w).powi(2)).sum(), row));
        }
        let mut squares: Vec<f64> = each.iter().map(|(square, _)| *square).collect();
        squares.sort_by(f64::total_cmp);
        let most = 2.0 * squares.get(squares.len() / 2).copied().unwrap_or(0.0);
        each.retain(|(square, _)| *square <= most);
        let mut mean = vec![0.0f64; cols];
        for (_, row) in &each {
            mean.iter_mut().zip(row).for_each(|(mean, w)| *mean += f64::from(*w) / each.len() as f64);
        }
        let mut arena = Arena::new(4 * each.len() * cols).map_err(candle_core::Error::from)?;
        let own = each.iter().flat_map(|(_, row)| row.iter().zip(&mean).map(|(w, mean)| (f64::from(*w) - mean) as f32));
        arena.bytes_mut().as_chunks_mut().0.iter_mut().zip(own).for_each(|(to, w)| *to = w.to_le_bytes());
        let rows = Matrix::new(Arc::new(arena), 0, ram_kernels::Format::F32, each.len(), cols);
        Ok(Lens { rows, inputs: Inputs::default(), products: Products::default(), tokens: Vec::new() })
    }

    /// Of every change of the stream, (n, hidden_size), the variance over the rows of what it adds to them, before the norm divides.
    ///
    /// # Errors
    /// If a change is not finite.
    pub fn spread(&mut self, team: &Team, changes: &[f32]) -> Result<Vec<f64>, Fault> {
        let Lens { rows, inputs, products, tokens } = self;
        let (cols, n) = (rows.cols(), changes.len() / rows.cols());
        tokens.clear();
        tokens.extend(0..n as u32);
        let own = |t: usize| Same(&changes[t * cols..][..cols]);
        inputs.fill(team, [(&*rows, tokens.as_slice())].into_iter(), n, cols, own).map_err(|_| NotFinite("results with noise"))?;
        products.run(team, &[inputs.product(rows, tokens)]);
        let mut out = vec![0.0; rows.rows()];
        let spread = (0..n).map(|t| {
            products.token(0, t, n).copy_to(&mut out);
            out.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>() / out.len() as f64
        });
        Ok(spread.collect())
    }
}
