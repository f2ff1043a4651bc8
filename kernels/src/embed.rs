//! Rows of a matrix looked up by token.
use crate::{Matrix, quantize::dequantize_row};
use rayon::prelude::*;

/// `out[i] = matrix[tokens[i]]`, rotated back where the format rotates; `out` is (tokens, cols).
///
/// # Panics
/// If a token is not a row, or `out` has another size.
pub fn embed(matrix: &Matrix, tokens: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), tokens.len() * matrix.cols());
    out.par_chunks_exact_mut(matrix.cols()).zip(tokens).with_min_len(16).for_each(|(out, &token)| {
        dequantize_row(matrix.format(), matrix.rows(), matrix.cols(), matrix.bytes(), token as usize, out);
    });
}
