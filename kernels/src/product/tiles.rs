//! Tiles of packed matrices times prepared inputs, by the levels of each: integer sums of a span, scaled and added in floats.
use super::{
    activations::{Row, Rows},
    task::Product,
};
use crate::{Format, decode::Scaling, isa::Isa};
use std::ops::Range;

/// Tiles of a packed matrix, and the inputs that they are multiplied with.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    pub format: Format,
    pub bytes: &'a [u8],
    pub tile_bytes: usize,
    /// Of a tile's scales.
    scale_bytes: usize,
    pub x: &'a Rows,
    /// Inputs that share both a weight scale and an activation scale.
    span: usize,
}

/// One tile's parts.
pub struct Tile<'a> {
    row_scales: &'a [u8],
    scales: &'a [u8],
    pub codes: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// Some tiles of a product.
    pub fn new(product: &Product<'a>, first: usize, n: usize) -> Tiles<'a> {
        let Product { matrix, rows: x, .. } = *product;
        let (format, tile_bytes) = (matrix.format(), product.tile_bytes());
        let scale_bytes = x.padded().div_ceil(format.group()) * format.group_bytes();
        let bytes = &product.bytes_from(first)[..n * tile_bytes];
        Tiles { format, bytes, tile_bytes, scale_bytes, x, span: format.group().min(x.block()) }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.tile_bytes
    }

    #[inline(always)]
    pub fn tile(&self, i: usize) -> Tile<'a> {
        let (row_scales, rest) = self.bytes[i * self.tile_bytes..][..self.tile_bytes].split_at(self.format.head_bytes());
        let (scales, codes) = rest.split_at(self.scale_bytes);
        Tile { row_scales, scales, codes }
    }

    /// The inputs of N of `tokens`, from number `first`; beyond the last they repeat it.
    #[inline(always)]
    pub fn inputs<const N: usize>(&self, walk: &Walk, tokens: &[u32], first: usize) -> [Row<'a>; N] {
        let mut rows = [self.x.row(tokens[first], walk.of_row.clone()); N];
        for (row, token) in rows.iter_mut().zip(&tokens[first..]) {
            *row = self.x.row(*token, walk.of_row.clone());
        }
        rows
    }

    /// What is to be known of macro-steps `start` to `end`, of which the first begins a span: divisions, each of which takes as
    /// long as several steps.
    pub fn walk(&self, start: usize, end: usize) -> Walk {
        let (per_span, per_group) = (self.span / 16, self.format.group() / self.span);
        let spans = start / per_span..end.div_ceil(per_span);
        Walk {
            of_row: self.x.spans(self.span),
            per_span,
            group: spans.start / per_group,
            left: per_group - spans.start % per_group,
            per_group,
            spans,
            steps: start..end,
        }
    }

    /// Sums of R tiles times N tokens, with those of some macro-steps added, by the levels of each tile.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    pub fn times<I: Isa, S: Scaling, const N: usize, const R: usize>(
        &self,
        isa: I,
        tiles: [&Tile; R],
        x: &[Row; N],
        walk: &Walk,
        mut levels: [impl Levels<I>; R],
        mut sums: [[I::F; N]; R],
    ) -> [[I::F; N]; R] {
        let (format, group_bytes) = (self.format, self.format.group_bytes());
        // Slices of the same two lengths for all tokens: what holds for one index of one of them holds for all.
        let (mut codes, mut spans) = ([&[][..]; N], [&[][..]; N]);
        for t in 0..N {
            codes[t] = &x[t].codes[walk.steps.clone()];
            spans[t] = &x[t].spans[walk.spans.clone()];
        }
        let mut scales = tiles.map(|tile| tile.scales[walk.group * group_bytes..].chunks_exact(group_bytes));
        let (mut kept, mut left, mut from) = ([[isa.splat(0.0); 2]; R], 0, 0);
        for at in 0..spans[0].len() {
            if left == 0 {
                for r in 0..R {
                    kept[r] = S::group(isa, format.scheme(), scales[r].next().expect("scales of every group"));
                }
                left = if at == 0 { walk.left } else { walk.per_group };
            }
            left -= 1;
            let to = (from + walk.per_span).min(codes[0].len());
            for levels in &mut levels {
                levels.span(isa, from..to);
            }
            // With one or two sums each would wait for itself: every second step has its own.
            let (mut dots, mut more) = ([[isa.splat_i(0); N]; R], [[isa.splat_i(0); N]; R]);
            for t in 0..N {
                for r in 0..R {
                    dots[r][t] = S::start(isa, spans[t][at][1]);
                }
            }
            for i in from..to {
                let mut now = [[isa.splat_b(0); 4]; R];
                for r in 0..R {
                    now[r] = levels[r].step(isa);
                }
                for s in 0..4 {
                    for t in 0..N {
                        let x = isa.splat_word(codes[t][i][s]);
                        for r in 0..R {
                            let sum = if N * R <= 2 && s % 2 == 1 { &mut more[r][t] } else { &mut dots[r][t] };
                            *sum = S::dot(isa, *sum, now[r][s], x);
                        }
                    }
                }
            }
            for t in 0..N {
                for r in 0..R {
                    if N * R <= 2 {
                        dots[r][t] = isa.add_i(dots[r][t], more[r][t]);
                    }
                    sums[r][t] = S::add(isa, kept[r], dots[r][t], spans[t][at], sums[r][t]);
                }
            }
            from = to;
        }
        sums
    }
}

impl Tile<'_> {
    /// Scales of the rows; 1 where the format has none.
    #[inline(always)]
    pub fn rows<I: Isa>(&self, isa: I) -> I::F {
        let mut row_scales = [1.0; 16];
        for (to, from) in row_scales.iter_mut().zip(self.row_scales.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        isa.load(&row_scales)
    }
}

/// Some macro-steps, in spans and groups.
pub struct Walk {
    pub steps: Range<usize>,
    pub spans: Range<usize>,
    /// Macro-steps of a span.
    per_span: usize,
    /// The group that the first span is of.
    group: usize,
    /// Spans from there to the group's end.
    left: usize,
    /// Spans of a group.
    per_group: usize,
    /// Where all spans are in a row of inputs.
    of_row: Range<usize>,
}

/// Levels of macro-steps, one after the other. A trait instead of a closure, because it must be compiled with the features
/// of the kernel that it is part of, and only functions can be told to be inlined.
pub trait Levels<I: Isa> {
    /// Goes to a span's macro-steps, counted from the first that there are levels of.
    fn span(&mut self, isa: I, steps: Range<usize>);
    /// The next macro-step of the span.
    fn step(&mut self, isa: I) -> [I::B; 4];
}
