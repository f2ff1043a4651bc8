//! Sums of outer products, the work of second moments and of their factors alike.
use crate::{
    Team,
    isa::{Isa, Kernel, dispatch},
};

/// Rows side by side: (columns / 16, rows) of 16 columns, so that sums over rows read one run of memory.
#[derive(Debug, Default)]
pub struct Tiles {
    pub rows: usize,
    pub values: Vec<[f32; 16]>,
}

impl Tiles {
    /// Makes room for rows of 16 times `tiles` columns.
    pub fn resize(&mut self, tiles: usize, rows: usize) {
        self.rows = rows;
        self.values.resize(tiles * rows, [0.0; 16]);
    }
}

/// Adds `sign` times the sum over rows of `x`'s outer product with itself to `a`, square and row-major, where columns are not left of the
/// row's tile; the first column of both is `first`. Every number of it is a sum in the order of the rows.
pub fn add_outer(team: &Team, x: &Tiles, sign: f32, first: usize, width: usize, a: &mut [f32]) {
    let level = team.level();
    team.chunks(&mut a[first * width..], 16 * width, |i, rows| dispatch(level, Outer { x, sign, i, first, width, rows }));
}

struct Outer<'a> {
    x: &'a Tiles,
    sign: f32,
    /// The tile of the rows.
    i: usize,
    first: usize,
    width: usize,
    rows: &'a mut [f32],
}

impl Kernel for Outer<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        if I::TOKENS == 8 { self.blocks::<I, 8>(isa) } else { self.blocks::<I, 4>(isa) }
    }
}

impl Outer<'_> {
    /// R rows at a time: as many sums as registers hold.
    #[inline(always)]
    fn blocks<I: Isa, const R: usize>(self, isa: I) {
        let n = self.x.rows;
        let own = &self.x.values[self.i * n..][..n];
        for (b, rows) in self.rows.chunks_exact_mut(R * self.width).enumerate() {
            for (j, other) in self.x.values.chunks_exact(n).enumerate().skip(self.i) {
                let at = self.first + 16 * j;
                let mut sums = [isa.splat(0.0); R];
                for (own, other) in own.iter().zip(other) {
                    let other = isa.load(other);
                    let own: &[f32; R] = own[b * R..].first_chunk().expect("a tile has 16");
                    for (sum, own) in sums.iter_mut().zip(own) {
                        *sum = isa.fma(isa.splat(*own), other, *sum);
                    }
                }
                for (row, sum) in rows.chunks_exact_mut(self.width).zip(sums) {
                    let to: &mut [f32; 16] = row[at..].first_chunk_mut().expect("a width of whole tiles");
                    isa.store(isa.fma(sum, isa.splat(self.sign), isa.load(to)), to);
                }
            }
        }
    }
}
