//! What happens to whole rows between products: the residual stream, heads and their positions.
use super::{
    kv::Heads,
    norm::{NormRow, RowNorm},
    values::{Same, Tiled, Values, sigmoid, store},
};
use crate::{
    isa::{Isa, Kernel, Level, dispatch},
    team::Team,
};
use std::ops::Range;

/// A product's part in the sum of one token.
#[derive(Clone, Copy, Default, Debug)]
pub struct Share {
    /// Which product.
    pub product: u32,
    /// Which of its tokens.
    pub token: u32,
    pub weight: f32,
}

/// `rows[t] += weight tiles[.., t]`: `tiles` (rows' length / 16, tokens) of 16, `rows` (tokens, length).
pub fn add_tiles(team: &Team, tiles: &[[f32; 16]], tokens: usize, weight: f32, rows: &mut [f32]) {
    let (len, level) = (rows.len() / tokens, team.level());
    team.chunks(rows, len, |token, row| {
        dispatch(level, Add { shares: &[Share { weight, ..Share::default() }], of: |_: &Share| Tiled { tiles, token, tokens }, row });
    });
}

/// Adds to columns `within` of `rows` (tokens, `len`) the weighted sums of their tokens' shares, as many for each token; `of` a share
/// is what it is of, from the first of these columns. They begin and end at a multiple of 16, or at the end.
pub fn add_shares<'a>(team: &Team, shares: &[Share], of: impl Fn(&Share) -> Tiled<'a> + Sync, rows: &mut [f32], len: usize, within: Range<usize>) {
    let (tokens, level) = (rows.len() / len, team.level());
    let each = shares.len() / tokens;
    team.chunks(rows, len, |t, row| dispatch(level, Add { shares: &shares[t * each..][..each], of: &of, row: &mut row[within.clone()] }));
}

/// Vectors that are summed side by side; as many ahead are asked for.
const BLOCK: usize = 8;

struct Add<'a, F> {
    shares: &'a [Share],
    of: F,
    row: &'a mut [f32],
}

impl<'a, F: Fn(&Share) -> Tiled<'a>> Kernel for Add<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (b, row) in self.row.chunks_mut(16 * BLOCK).enumerate() {
            let mut sums = [isa.splat(0.0); BLOCK];
            for share in self.shares {
                let (of, weight) = ((self.of)(share), isa.splat(share.weight));
                for (i, sum) in sums.iter_mut().enumerate().take(row.len().div_ceil(16)) {
                    of.ask(isa, (b + 1) * BLOCK + i);
                    *sum = isa.fma(weight, of.vector(isa, b * BLOCK + i), *sum);
                }
            }
            for (row, sum) in row.chunks_mut(16).zip(sums) {
                store(isa, isa.add(Same(row).vector(isa, 0), sum), row);
            }
        }
    }
}

/// Multiplies `rows`, (tokens, `len`) of heads of `head_dim`, with the sigmoids of their gates.
pub fn gate_heads(team: &Team, gates: Heads, head_dim: usize, rows: &mut [f32], len: usize) {
    let level = team.level();
    team.chunks(rows, len, |t, row| {
        row.chunks_exact_mut(head_dim).enumerate().for_each(|(h, head)| dispatch(level, Gate { head, gate: gates.head(t, h, head_dim) }));
    });
}

struct Gate<'a> {
    head: &'a mut [f32],
    gate: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, head) in self.head.chunks_mut(16).enumerate() {
            let gated = isa.mul(Same(head).vector(isa, 0), sigmoid(isa, Same(self.gate).vector(isa, i)));
            store(isa, gated, head);
        }
    }
}

/// What is done to the heads of one token.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// Norm of each head.
    pub norm: Option<RowNorm<'a>>,
    /// Cosines and sines of the token's position, one of each for every pair that is turned: the first numbers of a head, or all.
    pub angles: [&'a [f32]; 2],
    /// Which numbers are pairs.
    pub pairs: Pairs,
    /// Whether they are turned before the norm.
    pub turned_first: bool,
}

/// Which of the numbers of a head that are turned are turned together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairs {
    /// One of the first half with one of the second.
    #[default]
    Halves,
    /// Neighbours.
    Neighbours,
}

impl<'a> Turn<'a> {
    /// A norm alone.
    pub fn only_norm(norm: RowNorm<'a>) -> Turn<'a> {
        Turn { norm: Some(norm), angles: [&[]; 2], pairs: Pairs::Halves, turned_first: false }
    }

    /// Norms `heads` (heads, head_dim) and turns their pairs (Su et al., arXiv 2104.09864).
    pub fn apply(self, level: Level, heads: &mut [f32], head_dim: usize) {
        heads.chunks_exact_mut(head_dim).for_each(|head| dispatch(level, TurnHead { turn: self, head }));
    }
}

struct TurnHead<'a> {
    turn: Turn<'a>,
    head: &'a mut [f32],
}

impl Kernel for TurnHead<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let TurnHead { turn: Turn { norm, angles, pairs, turned_first }, head } = self;
        let normed = |head: &mut [f32], now: bool| {
            if let Some(norm) = norm.filter(|_| now) {
                NormRow { row: head, norm }.run(isa);
            }
        };
        normed(head, !turned_first);
        match pairs {
            Pairs::Halves => turn_halves(isa, head, angles),
            Pairs::Neighbours => {
                for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles[0]).zip(angles[1]) {
                    let [x, y] = *pair;
                    *pair = [x * cos - y * sin, x * sin + y * cos];
                }
            }
        }
        normed(head, turned_first);
    }
}

#[inline(always)]
fn turn_halves<I: Isa>(isa: I, head: &mut [f32], [cos, sin]: [&[f32]; 2]) {
    let (low, rest) = head.split_at_mut(cos.len());
    let high = &mut rest[..cos.len()];
    for (((a, b), cos), sin) in low.chunks_mut(16).zip(high.chunks_mut(16)).zip(cos.chunks(16)).zip(sin.chunks(16)) {
        let (x, y) = (Same(a).vector(isa, 0), Same(b).vector(isa, 0));
        let (cos, sin) = (Same(cos).vector(isa, 0), Same(sin).vector(isa, 0));
        store(isa, isa.sub(isa.mul(x, cos), isa.mul(y, sin)), a);
        store(isa, isa.add(isa.mul(x, sin), isa.mul(y, cos)), b);
    }
}
