//! Second moments of the inputs that a matrix gets to see.
use super::outer::{Tiles, add_outer};
use crate::Team;
use std::ops::Range;

/// Rows that are summed together: their tiles stay in a core's cache.
const ROWS: usize = 128;

/// Sums of x x^T over rows of inputs, in squares along the diagonal: what inputs far apart have in common is left out where there are many.
#[derive(Debug)]
pub struct Moments {
    cols: usize,
    span: usize,
    rows: usize,
    /// Of every span a square of whole tiles, row-major; left of a row's tile there is nothing.
    squares: Vec<Vec<f32>>,
    tiles: Tiles,
}

impl Moments {
    /// Of no inputs yet. A square has `span` inputs, a multiple of 128; the last may have fewer.
    pub fn new(cols: usize, span: usize) -> Moments {
        let padded = cols.next_multiple_of(16);
        let squares = spans(padded, span).map(|own| vec![0.0; own.len() * own.len()]);
        Moments { cols, span, rows: 0, squares: squares.collect(), tiles: Tiles::default() }
    }

    /// Adds `n` rows of inputs; `row(i, to)` writes one.
    pub fn add(&mut self, team: &Team, n: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
        let (cols, padded) = (self.cols, self.cols.next_multiple_of(16));
        let mut own = vec![0.0; ROWS.min(n) * padded];
        for first in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - first);
            team.chunks(&mut own[..rows * padded], padded, |i, to| row(first + i, &mut to[..cols]));
            for (span, square) in spans(padded, self.span).zip(&mut self.squares) {
                self.tiles.resize(span.len() / 16, rows);
                let (start, own) = (span.start, &own);
                team.chunks(&mut self.tiles.values, rows, |tile, to| {
                    for (row, to) in own.chunks_exact(padded).zip(to) {
                        to.copy_from_slice(&row[start + 16 * tile..][..16]);
                    }
                });
                add_outer(team, &self.tiles, 1.0, 0, span.len(), square);
            }
        }
        self.rows += n;
    }

    /// Adds as many rows as a matrix has columns that are like those of `others`: what few rows of its own do not tell.
    pub fn add_like(&mut self, others: &Moments) {
        let prior = self.cols.min(others.rows);
        let part = prior as f32 / others.rows.max(1) as f32;
        for (own, other) in self.squares.iter_mut().zip(&others.squares) {
            own.iter_mut().zip(other).for_each(|(own, other)| *own += part * other);
        }
        self.rows += prior;
    }

    /// Adds inputs that have nothing in common: of all that there is, `part` once more, the same for every input.
    pub fn add_alike(&mut self, part: f64) {
        let padded = self.cols.next_multiple_of(16);
        let diagonals = spans(padded, self.span).zip(&self.squares).flat_map(|(own, square)| square.iter().step_by(own.len() + 1));
        let mean = diagonals.map(|v| f64::from(*v)).sum::<f64>() / self.cols as f64;
        for (own, square) in spans(padded, self.span).zip(&mut self.squares) {
            square.iter_mut().step_by(own.len() + 1).for_each(|v| *v += (part * mean) as f32);
        }
    }

    /// Rows that were added.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrices that take such inputs.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Which inputs a square has, and the square, whole.
    pub(super) fn whole(&self) -> impl Iterator<Item = (Range<usize>, Vec<f32>)> {
        spans(self.cols.next_multiple_of(16), self.span).zip(&self.squares).map(|(span, square)| {
            let (n, mut all) = (span.len(), square.clone());
            for i in 0..n {
                for j in i + 1..n {
                    all[j * n + i] = all[i * n + j];
                }
            }
            (span, all)
        })
    }
}

fn spans(padded: usize, span: usize) -> impl Iterator<Item = Range<usize>> {
    (0..padded).step_by(span).map(move |start| start..padded.min(start + span))
}
