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
}

impl<'a> Product<'a> {
    /// Tiles of 16 rows, the last one partly empty.
    pub fn tiles(&self) -> usize {
        self.matrix.rows().div_ceil(16)
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.matrix.format().row_bytes(16, self.matrix.cols())
    }

    /// Bytes of the tiles from `first`.
    pub fn bytes_from(&self, first: usize) -> &'a [u8] {
        &self.matrix.bytes()[first * self.tile_bytes()..]
    }
}
