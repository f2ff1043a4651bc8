//! What is to be multiplied.
use super::activations::Rows;
use crate::Matrix;

/// A matrix and the rows of inputs that it is multiplied with.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// Inputs of all tokens, in the form that it wants.
    pub rows: &'a Rows,
    /// Which rows, in the order of the results.
    pub tokens: &'a [u32],
    /// Which tiles of 16 rows of the matrix: from where, and how many. The last one may be partly empty.
    pub part: (usize, usize),
}

impl<'a> Product<'a> {
    /// Of all rows of the matrix.
    pub(super) fn new(matrix: &'a Matrix, rows: &'a Rows, tokens: &'a [u32]) -> Product<'a> {
        Product { matrix, rows, tokens, part: (0, matrix.rows().div_ceil(16)) }
    }

    /// The same of some rows of the matrix alone, `count` from `first`.
    ///
    /// # Panics
    /// If those are not whole tiles of 16.
    #[must_use]
    pub fn of_rows(self, first: usize, count: usize) -> Product<'a> {
        assert!(first.is_multiple_of(16) && count.is_multiple_of(16) && first + count <= self.matrix.rows(), "whole tiles");
        Product { part: (first / 16, count / 16), ..self }
    }

    /// Tiles of 16 rows, the last one partly empty.
    pub fn tiles(&self) -> usize {
        self.part.1
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.matrix.format().row_bytes(16, self.matrix.cols())
    }

    /// Bytes of the tiles from `first`.
    pub fn bytes_from(&self, first: usize) -> &'a [u8] {
        &self.matrix.bytes()[(self.part.0 + first) * self.tile_bytes()..]
    }
}
