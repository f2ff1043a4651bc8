//! What a trellis format would be with another table of levels: how the tables were found.
use super::{coder::transpose_rotated, coding::Coding, effort::Effort, search::Search, trellis};
use crate::{
    Format,
    isa::{Isa, Kernel, Level, dispatch},
};
use rayon::prelude::*;

/// ||W - Q(W)||^2 / ||W||^2 of row-major (n, cols) weights in a trellis format of 2 to 6 bits whose levels are `levels`
/// (`2 << bits` of them, rising, from -64 to 63), up to the lengths of rows.
///
/// # Panics
/// If the format has another number of levels.
pub fn error_with(format: Format, effort: Effort, levels: &[i8], rows: &[f32], cols: usize) -> f64 {
    assert!(levels.len() == 2 << format.bits(), "{format} has no table of {} levels", levels.len());
    let search = Search::new(levels);
    let tiles = rows.par_chunks(16 * cols).map(|rows| dispatch(Level::active(), Tile { format, effort, search: &search, rows, cols }));
    let sums: Vec<(f64, f64)> = tiles.collect();
    let (error, norm) = sums.into_iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    error / norm
}

pub use crate::decode::levels as levels_of;

struct Tile<'a> {
    format: Format,
    effort: Effort,
    search: &'a Search,
    rows: &'a [f32],
    cols: usize,
}

impl Kernel for Tile<'_> {
    type Out = (f64, f64);
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> (f64, f64) {
        let mut x = vec![[0.0f32; 16]; self.cols.next_multiple_of(16)];
        let mut coding = Coding::default();
        transpose_rotated(isa, self.rows, self.cols, &mut x);
        trellis::encode(isa, self.format, self.effort.searches(), self.search, &x, &mut coding);
        trellis::squared_error(&x, &coding)
    }
}
