//! Matrices times tokens, in parallel over tiles of 16 rows.
use crate::{
    Matrix,
    activations::{Arranged, Rows, Want, reordered},
    dot::Tiles,
    isa::Level,
};
use rayon::prelude::*;

/// Tiles per task: enough work (16 x 4 rows) to be worth handing out, few enough to balance.
pub(crate) const TILES: usize = 4;

/// `out[m][t, r] = sum over c of matrices[m][r, c] * x[t, c]`: all matrices, which share `cols`, in one parallel region.
/// `x` is (tokens, cols), `out[m]` is (tokens, `matrices[m].rows()`).
///
/// # Panics
/// If the shapes do not fit together.
pub fn linear(x: &[f32], matrices: &[&Matrix], out: &mut [&mut [f32]]) {
    linear_at(Level::active(), x, matrices, out);
}

/// [`linear`] with a given instruction set.
pub fn linear_at(level: Level, x: &[f32], matrices: &[&Matrix], out: &mut [&mut [f32]]) {
    assert_eq!(matrices.len(), out.len());
    let Some(first) = matrices.first() else { return };
    let cols = first.cols();
    let tokens = x.len() / cols;
    assert_eq!(x.len(), tokens * cols);
    for (m, out) in matrices.iter().zip(out.iter()) {
        assert_eq!((m.cols(), out.len()), (cols, tokens * m.rows()));
    }
    if tokens == 0 {
        return;
    }
    let all: Vec<u32> = (0..tokens as u32).collect();
    let inputs = Inputs::new(level, x, cols, &[(&all, matrices)]);
    let mut tiles: Vec<Vec<[f32; 16]>> = matrices.iter().map(|m| vec![[0.0; 16]; m.rows().div_ceil(16) * tokens]).collect();
    let mut tasks = Vec::new();
    for (m, y) in matrices.iter().zip(&mut tiles) {
        let x = inputs.of(m, 0);
        tasks.extend(y.chunks_mut(TILES * tokens).enumerate().map(|(i, y)| tiles_of(m, i * TILES, x, y)));
    }
    tasks.into_par_iter().for_each(|task| task.multiply(level));
    for (y, out) in tiles.iter().zip(out) {
        let rows = out.len() / tokens;
        out.par_chunks_exact_mut(rows).enumerate().with_min_len(32).for_each(|(t, out)| {
            for (out, y) in out.chunks_mut(16).zip(y.iter().skip(t).step_by(tokens)) {
                out.copy_from_slice(&y[..out.len()]);
            }
        });
    }
}

/// Tiles from `first_tile` of `m` times `x`, as many as `y` has room for.
pub(crate) fn tiles_of<'a>(m: &'a Matrix, first_tile: usize, x: &'a Arranged, y: &'a mut [[f32; 16]]) -> Tiles<'a> {
    Tiles { format: m.format(), bytes: m.bytes(), rows: m.rows(), cols: m.cols(), first_tile, x, y }
}

/// Inputs in every form that some matrix wants, for sets of tokens.
pub(crate) struct Inputs<'a> {
    /// By form, then by set.
    forms: [Vec<Arranged>; 3],
    /// By set, those of matrices that take inputs in an order of their own.
    ordered: Vec<Vec<(&'a [u8], Arranged)>>,
}

impl<'a> Inputs<'a> {
    /// Each set of tokens with the matrices that it is multiplied with.
    pub(crate) fn new(level: Level, x: &[f32], cols: usize, sets: &[(&[u32], &[&'a Matrix])]) -> Inputs<'a> {
        let mut forms = [Vec::new(), Vec::new(), Vec::new()];
        for m in sets.iter().flat_map(|(_, matrices)| *matrices).filter(|m| m.order().is_none()) {
            let want = Want::of(m.format());
            let form = &mut forms[want as usize];
            if form.is_empty() {
                let rows = Rows::new(level, want, x, cols);
                *form = sets.par_iter().map(|(tokens, _)| rows.arrange(level, tokens)).collect();
            }
        }
        let ordered = sets.par_iter().map(|(tokens, matrices)| {
            let mut own: Vec<(&[u8], Arranged)> = Vec::new();
            for order in matrices.iter().filter_map(|m| m.order()) {
                // q, k and v, or gate and up, mostly have the same.
                if own.iter().all(|(o, _)| *o != order) {
                    own.push((order, arrange_ordered(level, x, cols, tokens, order)));
                }
            }
            own
        });
        let ordered = ordered.collect();
        Inputs { forms, ordered }
    }

    pub(crate) fn of(&self, m: &Matrix, set: usize) -> &Arranged {
        match m.order() {
            None => &self.forms[Want::of(m.format()) as usize][set],
            Some(order) => &self.ordered[set].iter().find(|(own, _)| *own == order).expect("inputs were made for this matrix").1,
        }
    }
}

/// Inputs of `tokens` for a matrix that takes them in `order`.
pub(crate) fn arrange_ordered(level: Level, x: &[f32], cols: usize, tokens: &[u32], order: &[u8]) -> Arranged {
    let all: Vec<u32> = (0..tokens.len() as u32).collect();
    Rows::new(level, Want::Plain, &reordered(x, cols, tokens, order), cols).arrange(level, &all)
}
