//! Matrices times tokens: any number of them as one parallel region over tiles of 16 rows.
use super::{inputs::Inputs, task::Product};
use crate::{
    Matrix,
    arena::resize,
    isa::Level,
    ops::{NotFinite, Same, Tiled, Watch, finite},
    team::{Team, team},
};
use std::ops::Range;

/// Bytes of weights of the smallest tasks: some microseconds, next to the tenth of one that taking a task costs.
const LEAST: usize = 32 << 10;
/// And of the largest: looking ahead begins anew with every task, and tiles of one task share their inputs in the L2 cache.
const MOST: usize = 4 << 20;

/// Results of one region, in memory that is used again.
#[derive(Debug, Default)]
pub struct Products {
    tiles: Vec<[f32; 16]>,
    /// Where each product's results end.
    ends: Vec<usize>,
    tasks: Vec<(u32, u32)>,
    task_ends: Vec<usize>,
}

impl Products {
    /// Computes all of `products`.
    pub fn run(&mut self, team: &Team, products: &[Product]) {
        self.run_within(team, products, 0..usize::MAX);
    }

    /// Computes of each of `products` only the tiles in `within`.
    pub fn run_within(&mut self, team: &Team, products: &[Product], within: Range<usize>) {
        self.ends.clear();
        self.tasks.clear();
        self.task_ends.clear();
        let own = |p: &Product| within.start.min(p.tiles())..within.end.min(p.tiles());
        let bytes = |p: &Product| own(p).len() * p.tile_bytes();
        let (mut end, mut left) = (0, products.iter().map(bytes).sum::<usize>());
        for (i, p) in products.iter().enumerate() {
            let Range { start: mut first, end: tiles } = own(p);
            while first < tiles {
                self.tasks.push((i as u32, first as u32));
                let step = next_task(team, left, p.tile_bytes()).min(tiles - first);
                first += step;
                left -= step * p.tile_bytes();
                end += step * p.tokens.len();
                self.task_ends.push(end);
            }
            self.ends.push(end);
        }
        let len = self.tiles.len().max(end);
        resize(&mut self.tiles, len);
        let (tasks, level) = (&self.tasks, team.level());
        team.parts(&mut self.tiles[..end], &self.task_ends, |i, y, turns| {
            let at = |i: usize| (&products[tasks[i].0 as usize], tasks[i].1 as usize);
            let (p, first) = at(i);
            p.multiply(level, first, y, &|| turns.then().map(|i| at(i).0.bytes_from(at(i).1)));
        });
    }

    /// Bytes that results have taken.
    pub fn bytes(&self) -> usize {
        self.tiles.capacity() * size_of::<[f32; 16]>()
    }

    /// The most that the results of products of so many rows in all take, where each ends with a tile, for `tokens` tokens.
    pub fn most_bytes(tokens: usize, rows: usize) -> usize {
        tokens * rows.div_ceil(16) * size_of::<[f32; 16]>()
    }

    /// Results of product `i`, (tiles, tokens) of 16 rows.
    pub fn of(&self, i: usize) -> &[[f32; 16]] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.tiles[start..self.ends[i]]
    }

    /// Of product `i`, the results of its token number `token` of `tokens`.
    pub fn token(&self, i: usize, token: usize, tokens: usize) -> Tiled<'_> {
        Tiled { tiles: self.of(i), token, tokens }
    }
}

/// How many tiles of `tile_bytes` make the next task where `left` bytes are left: a part of them, so that tasks are long while
/// much is left and short at the end, where threads wait for each other (guided self-scheduling, Polychronopoulos and Kuck 1987).
fn next_task(team: &Team, left: usize, tile_bytes: usize) -> usize {
    ((left / (4 * team.threads())).clamp(LEAST, MOST) / tile_bytes.max(1)).max(1)
}

/// `out[m][t, r] = sum over c of matrices[m][r, c] * x[t, c]`: all matrices, which share `cols`, in one parallel region.
/// `x` is (tokens, cols), `out[m]` is (tokens, `matrices[m].rows()`).
///
/// # Errors
/// Where an input or a result is not finite.
///
/// # Panics
/// If the shapes do not fit together.
pub fn linear(x: &[f32], matrices: &[&Matrix], out: &mut [&mut [f32]]) -> Result<(), NotFinite> {
    linear_at(Level::active(), x, matrices, out)
}

/// [`linear`] with a given instruction set.
///
/// # Errors
/// As for [`linear`].
pub fn linear_at(level: Level, x: &[f32], matrices: &[&Matrix], out: &mut [&mut [f32]]) -> Result<(), NotFinite> {
    assert_eq!(matrices.len(), out.len());
    let Some(first) = matrices.first() else { return Ok(()) };
    let cols = first.cols();
    let tokens = x.len() / cols;
    assert_eq!(x.len(), tokens * cols);
    for (m, out) in matrices.iter().zip(out.iter()) {
        assert_eq!((m.cols(), out.len()), (cols, tokens * m.rows()));
    }
    let all: Vec<u32> = (0..tokens as u32).collect();
    let (mut inputs, mut products) = (Inputs::default(), Products::default());
    team(level, |team| {
        inputs.fill(team, matrices.iter().map(|m| (*m, all.as_slice())), tokens, cols, |t| Same(&x[t * cols..][..cols]))?;
        let each: Vec<Product> = matrices.iter().map(|m| inputs.product(m, &all)).collect();
        products.run(team, &each);
        let watch = Watch::default();
        for (i, (m, out)) in matrices.iter().zip(out).enumerate() {
            team.chunks(out, m.rows(), |t, out| {
                products.token(i, t, tokens).copy_to(out);
                watch.see(finite(level, out));
            });
        }
        watch.result("results")
    })
}
