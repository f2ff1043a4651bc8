//! Sixteen rows of a packed matrix times prepared tokens: the inner loops, one per way of coding a weight.
//!
//! A tile is 16 rows; a step is 4 inputs of those rows, 64 weights in one register; four steps make a macro-step, the
//! unit in which codes are stored. With few tokens each step's levels go straight from the codes into the products;
//! with many, a tile's levels are decoded once and multiplied with all of them. Integer sums are exact, and every
//! token's float operations are the same ones in the same order whatever shares its batch.
use crate::{
    Format, Matrix, Scheme,
    activations::{Row, Rows},
    codec::{Affine, Affine8, Codec, Decoder, Plain7, Plain8, Scaling, Trellis},
    isa::{Isa, Kernel, Level, dispatch},
    levels,
    panel::by_panel,
};
use std::{marker::PhantomData, ops::Range, slice::ChunksExact};

/// Bytes ahead of the codes in use that are asked for, into the first cache and into the second. The processor's own look-ahead
/// ends at each page, and an L1 cache has too few misses in flight for the memory's latency (docs/speed.md).
const NEAR: usize = 4096;
const FAR: usize = 8192;

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

    /// Multiplies tiles from `first`, as many as `y`, (tiles, tokens) of 16 results, has room for. `then` is asked near the end what
    /// this thread reads next.
    pub fn multiply<'t>(&'t self, level: Level, first: usize, y: &'t mut [[f32; 16]], then: &'t dyn Fn() -> Option<&'t [u8]>) {
        let format = self.matrix.format();
        if format.is_dense() {
            return dispatch(level, crate::dense::Dense { product: *self, first, y });
        }
        let tiles = Tiles::new(self, first, y.len() / self.tokens.len());
        if self.tokens.len() <= level.block().0 {
            return by_codec(level, format, Straight { tiles, tokens: self.tokens, y, then });
        }
        by_panel(&tiles, level, self.tokens, y);
    }
}

/// A kernel that is generic over the way of coding, too. Each way is compiled on its own: as one, they would be a single
/// function of half a million instructions per instruction set, which the compiler takes minutes over.
pub trait CodecKernel {
    fn run<I: Isa, C: Codec>(self, isa: I);
}

pub fn by_codec(level: Level, format: Format, kernel: impl CodecKernel) {
    struct With<K, C>(K, PhantomData<C>);
    impl<K: CodecKernel, C: Codec> Kernel for With<K, C> {
        type Out = ();
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            self.0.run::<I, C>(isa);
        }
    }
    fn with<C: Codec>(level: Level, kernel: impl CodecKernel) {
        dispatch(level, With::<_, C>(kernel, PhantomData));
    }
    match format.scheme() {
        Scheme::Trellis => match format.bits() {
            2 => with::<Trellis<2>>(level, kernel),
            3 => with::<Trellis<3>>(level, kernel),
            4 => with::<Trellis<4>>(level, kernel),
            5 => with::<Trellis<5>>(level, kernel),
            6 => with::<Trellis<6>>(level, kernel),
            7 => with::<Plain7>(level, kernel),
            8 => with::<Plain8>(level, kernel),
            _ => unreachable!("{format} has no codec"),
        },
        Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered => match format.bits() {
            2 => with::<Affine<2>>(level, kernel),
            3 => with::<Affine<3>>(level, kernel),
            4 => with::<Affine<4>>(level, kernel),
            5 => with::<Affine<5>>(level, kernel),
            6 => with::<Affine<6>>(level, kernel),
            8 => with::<Affine8>(level, kernel),
            _ => unreachable!("{format} has no codec"),
        },
        Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no codes"),
    }
}

/// Tiles of a packed matrix, and the inputs that they are multiplied with.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    pub format: Format,
    bytes: &'a [u8],
    tile_bytes: usize,
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
    fn new(product: &Product<'a>, first: usize, n: usize) -> Tiles<'a> {
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

/// Few tokens: levels go straight into the products.
struct Straight<'a> {
    tiles: Tiles<'a>,
    tokens: &'a [u32],
    /// (tiles, tokens).
    y: &'a mut [[f32; 16]],
    then: &'a dyn Fn() -> Option<&'a [u8]>,
}

impl CodecKernel for Straight<'_> {
    #[inline(always)]
    fn run<I: Isa, C: Codec>(self, isa: I) {
        match self.tokens.len() {
            1 => self.tokens::<I, C, 1>(isa),
            2 => self.tokens::<I, C, 2>(isa),
            3 | 4 => self.tokens::<I, C, 4>(isa),
            _ if I::TOKENS == 8 => self.tokens::<I, C, 8>(isa),
            _ => unreachable!("as many tokens as a register block serves"),
        }
    }
}

impl Straight<'_> {
    #[inline(always)]
    fn tokens<I: Isa, C: Codec, const N: usize>(self, isa: I) {
        let walk = self.tiles.walk(0, self.tiles.x.padded() / 16);
        let x = self.tiles.inputs::<N>(&walk, self.tokens, 0);
        let end = self.tiles.bytes.as_ptr_range().end;
        for (i, y) in self.y.chunks_exact_mut(self.tokens.len()).enumerate() {
            let tile = self.tiles.tile(i);
            let then = if (self.tiles.len() - 1 - i) * self.tiles.tile_bytes < FAR { (self.then)() } else { None };
            let next = Next::new(end, then);
            let decoder = Decoder::new(isa, levels::tables(self.tiles.format));
            let levels = Decoding::<I, C> { decoder, codes: tile.codes, span: [].chunks_exact(1), next, codec: PhantomData };
            let [sums] = self.tiles.times::<I, C::Scaling, N, 1>(isa, [&tile], &x, &walk, [levels], [[isa.splat(0.0); N]]);
            let rows = tile.rows(isa);
            for (sum, y) in sums.into_iter().zip(y) {
                isa.store(isa.mul(sum, rows), y);
            }
        }
    }
}

/// What to ask for where these tiles end: not what lies behind them, which another thread reads, but what this one goes on with.
#[derive(Clone, Copy)]
struct Next {
    end: *const u8,
    /// How far ahead of the codes in use what comes [`NEAR`] and [`FAR`] bytes later is.
    near: usize,
    far: usize,
}

impl Next {
    fn new(end: *const u8, then: Option<&[u8]>) -> Next {
        let jump = then.map(|then| then.as_ptr().addr().wrapping_sub(end.addr()));
        // Without more, what is in use is asked for again.
        let ahead = |n: usize| jump.map_or(0, |jump| jump.wrapping_add(n));
        Next { end, near: ahead(NEAR), far: ahead(FAR) }
    }
}

/// Levels as they are decoded, which goes on from step to step.
struct Decoding<'a, I: Isa, C> {
    decoder: Decoder<I>,
    codes: &'a [u8],
    /// Those of the span.
    span: ChunksExact<'a, u8>,
    next: Next,
    codec: PhantomData<C>,
}

impl<I: Isa, C: Codec> Levels<I> for Decoding<'_, I, C> {
    #[inline(always)]
    fn span(&mut self, isa: I, steps: Range<usize>) {
        let codes = &self.codes[32 * C::BITS * steps.start..32 * C::BITS * steps.end];
        self.span = codes.chunks_exact(32 * C::BITS);
        let Range { start: mut line, end } = codes.as_ptr_range();
        let near = if end.wrapping_add(NEAR) < self.next.end { NEAR } else { self.next.near };
        let far = if end.wrapping_add(FAR) < self.next.end { FAR } else { self.next.far };
        while line < end {
            isa.prefetch(line.wrapping_add(near));
            isa.prefetch_far(line.wrapping_add(far));
            line = line.wrapping_add(64);
        }
    }
    #[inline(always)]
    fn step(&mut self, isa: I) -> [I::B; 4] {
        C::levels(isa, &mut self.decoder, self.span.next().expect("as many macro-steps as the span has"))
    }
}
