//! Rows of a matrix looked up by token.
use super::unpack::dequantize_row;
use crate::{Matrix, Team};

/// `out[i] = matrix[tokens[i]]`, rotated back where the format rotates; `out` is (tokens, cols).
///
/// # Panics
/// If a token is not a row, or `out` has another size.
pub fn embed(team: &Team, matrix: &Matrix, tokens: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), tokens.len() * matrix.cols());
    team.chunks(out, matrix.cols(), |i, out| {
        dequantize_row(matrix.format(), matrix.rows(), matrix.cols(), matrix.bytes(), tokens[i] as usize, out);
    });
}
