//! Sixteen rows of a packed matrix times prepared tokens: the inner loops, one per way of coding a weight.
//!
//! A tile is 16 rows; a step is 4 inputs of those rows, 64 weights in one register; four steps make a macro-step, the
//! unit in which codes are stored. With few tokens each step's levels go straight from the codes into the products;
//! with many, a panel of levels is decoded once and multiplied with all of them. Integer sums are exact, and every
//! token's float operations are the same ones in the same order whatever shares its batch.
use crate::{
    Format, Scheme,
    activations::{Arranged, Group, Want},
    codec::{Affine, Codec, Decoder, Trellis},
    isa::{Isa, Kernel, Level, dispatch},
    levels,
};
use std::marker::PhantomData;

/// Inputs whose levels are decoded at a time when many tokens share them: 16 rows x 512 = 8 KiB, a quarter of an L1 cache.
const PANEL: usize = 512;

/// Tiles `first_tile..` of a matrix times all tokens of `x`: `y` is (tiles, tokens) of 16 rows each, overwritten.
pub struct Tiles<'a> {
    /// How the matrix is stored.
    pub format: Format,
    /// The whole packed matrix.
    pub bytes: &'a [u8],
    pub rows: usize,
    pub cols: usize,
    pub first_tile: usize,
    pub x: &'a Arranged,
    pub y: &'a mut [[f32; 16]],
}

impl Tiles<'_> {
    /// Computes them. Each way of coding is a kernel of its own: as one, they would be a single function of half a million
    /// instructions per instruction set, which the compiler takes minutes over.
    pub fn multiply(self, level: Level) {
        assert_eq!(self.x.want, Want::of(self.format));
        assert_eq!(self.x.padded, self.cols.next_multiple_of(16));
        match (self.format.scheme(), self.format.bits()) {
            (Scheme::Trellis, 2) => self.packed::<Trellis<2>>(level),
            (Scheme::Trellis, 3) => self.packed::<Trellis<3>>(level),
            (Scheme::Trellis, 4) => self.packed::<Trellis<4>>(level),
            (Scheme::Trellis, 5) => self.packed::<Trellis<5>>(level),
            (Scheme::Trellis, 6) => self.packed::<Trellis<6>>(level),
            (Scheme::Trellis, 7) => self.packed::<Trellis<7>>(level),
            (Scheme::Trellis, _) => self.packed::<Trellis<8>>(level),
            (Scheme::Bf16 | Scheme::F16 | Scheme::F32, _) => dispatch(level, Dense(self)),
            (_, 2) => self.packed::<Affine<2>>(level),
            (_, 3) => self.packed::<Affine<3>>(level),
            (_, 4) => self.packed::<Affine<4>>(level),
            (_, 5) => self.packed::<Affine<5>>(level),
            (_, 6) => self.packed::<Affine<6>>(level),
            (_, _) => self.packed::<Affine<8>>(level),
        }
    }

    fn packed<C: Codec>(self, level: Level) {
        dispatch(level, Packed::<C> { tiles: self, codec: PhantomData });
    }
}

struct Dense<'a>(Tiles<'a>);

impl Kernel for Dense<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        crate::dense::tiles(isa, self.0);
    }
}

struct Packed<'a, C> {
    tiles: Tiles<'a>,
    codec: PhantomData<C>,
}

impl<C: Codec> Kernel for Packed<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tiles { format, bytes, cols, first_tile, x, y, .. } = self.tiles;
        let tile_bytes = format.row_bytes(16, cols);
        let mut panel = [[0u8; 64]; PANEL / 4];
        for (i, y) in y.chunks_exact_mut(x.tokens).enumerate() {
            let bytes = &bytes[(first_tile + i) * tile_bytes..][..tile_bytes];
            let tile = Tile::new(format, bytes, x);
            match x.groups.as_slice() {
                [Group { width: 1, .. }] => tile.straight::<I, C, 1>(isa, y),
                [Group { width: 2, .. }] => tile.straight::<I, C, 2>(isa, y),
                [Group { width: 4, .. }] => tile.straight::<I, C, 4>(isa, y),
                [Group { width: 8, .. }] if I::TOKENS == 8 => tile.straight::<I, C, 8>(isa, y),
                groups => tile.by_panel::<I, C>(isa, groups, &mut panel, y),
            }
        }
    }
}

/// One tile's parts.
struct Tile<'a> {
    row_scales: &'a [u8],
    scales: &'a [u8],
    codes: &'a [u8],
    table: [u8; 64],
    scheme: Scheme,
    group: usize,
    group_bytes: usize,
    /// Inputs that share both a weight scale and an activation scale.
    inner: usize,
    x: &'a Arranged,
}

impl<'a> Tile<'a> {
    #[inline(always)]
    fn new(format: Format, bytes: &'a [u8], x: &'a Arranged) -> Tile<'a> {
        let (row_scales, rest) = bytes.split_at(format.head_bytes());
        let (scheme, group, group_bytes) = (format.scheme(), format.group(), format.group_bytes());
        let (scales, codes) = rest.split_at(x.padded.div_ceil(group) * group_bytes);
        Tile { row_scales, scales, codes, table: levels::table(format), scheme, group, group_bytes, inner: group.min(x.block), x }
    }

    /// Few tokens: levels go straight into the products.
    #[inline(always)]
    fn straight<I: Isa, C: Codec, const N: usize>(&self, isa: I, y: &mut [[f32; 16]]) {
        let mut sums = [isa.splat(0.0); N];
        let mut decoder = Decoder::new(isa, &self.table);
        let mut codes = self.codes.chunks_exact(32 * C::BITS);
        let mut x = self.x.codes.as_chunks::<N>().0.as_chunks::<4>().0.iter();
        let mut start = 0;
        while start < self.x.padded {
            let end = (start + self.inner).min(self.x.padded);
            let mut dots = [isa.splat_i(0); N];
            for (codes, x) in codes.by_ref().zip(x.by_ref()).take((end - start) / 16) {
                let levels = C::levels(isa, &mut decoder, codes);
                for s in 0..4 {
                    for t in 0..N {
                        dots[t] = C::dot(isa, dots[t], levels[s], isa.splat_b4(x[s][t]));
                    }
                }
            }
            self.add::<I, C, N>(isa, &self.x.groups[0], start, end, &dots, &mut sums);
            start = end;
        }
        self.finish::<I, C, N>(isa, &sums, y);
    }

    /// Many tokens: levels of `PANEL` inputs are decoded once and multiplied with all of them; partial sums wait in `y`.
    #[inline(always)]
    fn by_panel<I: Isa, C: Codec>(&self, isa: I, groups: &[Group], panel: &mut [[u8; 64]; PANEL / 4], y: &mut [[f32; 16]]) {
        y.fill([0.0; 16]);
        let mut decoder = Decoder::new(isa, &self.table);
        for (p, codes) in self.codes.chunks(PANEL / 16 * 32 * C::BITS).enumerate() {
            let start = p * PANEL;
            let end = (start + PANEL).min(self.x.padded);
            for (to, codes) in panel.as_chunks_mut::<4>().0.iter_mut().zip(codes.chunks_exact(32 * C::BITS)) {
                let levels = C::levels(isa, &mut decoder, codes);
                for (to, level) in to.iter_mut().zip(levels) {
                    isa.store_b(level, to);
                }
            }
            let last = end == self.x.padded;
            for g in groups {
                let y = &mut y[g.first..g.first + g.width];
                match g.width {
                    1 => self.panel_group::<I, C, 1>(isa, g, panel, start, end, last, y),
                    2 => self.panel_group::<I, C, 2>(isa, g, panel, start, end, last, y),
                    4 => self.panel_group::<I, C, 4>(isa, g, panel, start, end, last, y),
                    _ => self.panel_group::<I, C, 8>(isa, g, panel, start, end, last, y),
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn panel_group<I: Isa, C: Codec, const N: usize>(
        &self,
        isa: I,
        g: &Group,
        panel: &[[u8; 64]; PANEL / 4],
        from: usize,
        to: usize,
        last: bool,
        y: &mut [[f32; 16]],
    ) {
        let mut sums = [isa.splat(0.0); N];
        for (sum, y) in sums.iter_mut().zip(y.iter()) {
            *sum = isa.load(y);
        }
        let x = &self.x.codes[g.codes..][..self.x.padded / 4 * N].as_chunks::<N>().0[from / 4..to / 4];
        let mut start = from;
        while start < to {
            let end = (start + self.inner).min(to);
            let (levels, x) = (&panel[(start - from) / 4..(end - from) / 4], &x[(start - from) / 4..(end - from) / 4]);
            let mut dots = [isa.splat_i(0); N];
            for (level, x) in levels.iter().zip(x) {
                let level = isa.load_b(level);
                for t in 0..N {
                    dots[t] = C::dot(isa, dots[t], level, isa.splat_b4(x[t]));
                }
            }
            self.add::<I, C, N>(isa, g, start, end, &dots, &mut sums);
            start = end;
        }
        if last {
            self.finish::<I, C, N>(isa, &sums, y);
        } else {
            for (sum, y) in sums.into_iter().zip(y) {
                isa.store(sum, y);
            }
        }
    }

    /// Integer dots of inputs start..end, scaled, onto the float sums.
    #[inline(always)]
    fn add<I: Isa, C: Codec, const N: usize>(&self, isa: I, g: &Group, start: usize, end: usize, dots: &[I::I; N], sums: &mut [I::F; N]) {
        let x_scales: &[f32; N] = self.x.scales[g.scales + start / self.x.block * N..].first_chunk().expect("a scale per block and token");
        let running = &self.x.sums[g.sums..];
        let before: &[i32; N] = running[start / 16 * N..].first_chunk().expect("a sum per 16 inputs and token");
        let after: &[i32; N] = running[end / 16 * N..].first_chunk().expect("a sum per 16 inputs and token");
        let group = &self.scales[start / self.group * self.group_bytes..][..self.group_bytes];
        C::add(isa, self.scheme, group, dots, x_scales, &std::array::from_fn(|t| after[t] - before[t]), sums);
    }

    #[inline(always)]
    fn finish<I: Isa, C: Codec, const N: usize>(&self, isa: I, sums: &[I::F; N], y: &mut [[f32; 16]]) {
        let mut row_scales = [1.0; 16];
        for (to, from) in row_scales.iter_mut().zip(self.row_scales.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        let row_scales = isa.load(&row_scales);
        for (y, sum) in y.iter_mut().zip(sums) {
            isa.store(isa.mul(*sum, row_scales), y);
        }
    }
}
