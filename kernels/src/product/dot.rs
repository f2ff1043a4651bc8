//! Sixteen rows of a packed matrix times prepared tokens: the inner loops, one per way of coding a weight.
//!
//! A tile is 16 rows; a step is 4 inputs of those rows, 64 weights in one register; four steps make a macro-step, the
//! unit in which codes are stored. With few tokens each step's levels go straight from the codes into the products;
//! with many, a tile's levels are decoded once and multiplied with all of them. Integer sums are exact, and every
//! token's float operations are the same ones in the same order whatever shares its batch.
use super::{dense::Dense, panel::by_panel, straight::Straight, task::Product, tiles::Tiles};
use crate::{
    decode::by_codec,
    isa::{Level, dispatch},
};

impl Product<'_> {
    /// Multiplies tiles from `first`, as many as `y`, (tiles, tokens) of 16 results, has room for. `then` is asked near the end what
    /// this thread reads next.
    pub fn multiply<'t>(&'t self, level: Level, first: usize, y: &'t mut [[f32; 16]], then: &'t dyn Fn() -> Option<&'t [u8]>) {
        let format = self.matrix.format();
        if format.is_dense() {
            return dispatch(level, Dense { product: *self, first, y });
        }
        let tiles = Tiles::new(self, first, y.len() / self.tokens.len());
        if self.tokens.len() <= level.block().0 {
            return by_codec(level, format, Straight { tiles, tokens: self.tokens, y, then });
        }
        by_panel(&tiles, level, self.tokens, y);
    }
}
