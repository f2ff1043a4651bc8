//! Sixteen rows of a packed matrix times prepared tokens: the inner loops, one per way of coding a weight.
//!
//! A tile is 16 rows; a step is 4 inputs of those rows, 64 weights in one register; four steps make a macro-step, the
//! unit in which codes are stored. With few tokens each step's levels go straight from the codes into the products;
//! with many, a tile's levels are decoded once and multiplied with all of them. Integer sums are exact, and every
//! token's float operations are the same ones in the same order whatever shares its batch.
use crate::{
    Format, Matrix, Scheme,
    activations::{Row, Rows},
    codec::{Affine, Affine8, AffineScaling, Centred, Codec, Decoder, Dots, Plain7, Plain8, Scaling, Trellis},
    isa::{Isa, Kernel, Level, dispatch},
    levels,
};
use std::{cell::RefCell, marker::PhantomData, ops::Range};

/// Bytes ahead of the codes in use that are asked for, into the first cache and into the second. The processor's own look-ahead
/// ends at each page, and an L1 cache has too few misses in flight for the memory's latency (docs/speed.md).
const NEAR: usize = 1024;
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

/// What happens with a product's results.
#[derive(Clone, Copy)]
pub enum Sink<'a> {
    /// Result i of a tile is written to place i.
    Write,
    /// Times weight i, it is added to place `to[i]`.
    Add { to: &'a [u32], weights: &'a [f32] },
}

/// Inputs whose levels are decoded at a time when many tokens share them: 16 rows of 4,096 are 64 KiB, which an L2 cache feeds as
/// fast as they are used; smaller panels cost more in beginning anew than an L1 cache gains (docs/speed.md).
const PANEL: usize = 4096;

/// Sums of 16 rows that are kept while the panels of some tiles take turns: 64 KiB.
const SUMS: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { levels: Vec::new(), sums: Vec::new() }) };
}

struct Scratch {
    /// Of every 16 inputs, four steps of 16 rows of four.
    levels: Vec<[[u8; 64]; 4]>,
    /// Of every tile and token.
    sums: Vec<[f32; 16]>,
}

impl Product<'_> {
    /// Tiles of 16 rows, the last one partly empty.
    pub fn tiles(&self) -> usize {
        self.matrix.rows().div_ceil(16)
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.matrix.format().row_bytes(16, self.matrix.cols())
    }

    /// Multiplies tiles from `first`, as many as `y`, (tiles, places) of 16 results, has room for.
    pub fn multiply(&self, level: Level, first: usize, places: usize, sink: Sink, y: &mut [[f32; 16]]) {
        let (m, format) = (self.matrix, self.matrix.format());
        if format.is_dense() {
            return dispatch(level, crate::dense::Dense { product: *self, first, places, sink, y });
        }
        let tile_bytes = format.row_bytes(16, m.cols());
        let tiles = Tiles::new(format, &m.bytes()[first * tile_bytes..][..y.len() / places * tile_bytes], tile_bytes, self.rows);
        let out = Out { tokens: self.tokens, places, sink, y };
        if self.tokens.len() <= level.tokens() {
            return by_codec(level, format, Straight { tiles, out });
        }
        SCRATCH.with_borrow_mut(|scratch| tiles.by_panel(level, scratch, out));
    }
}

/// What `f` makes of the levels of a tile's codes: of every 16 inputs, four steps of 16 rows of four.
pub fn with_levels<R>(level: Level, format: Format, codes: &[u8], f: impl FnOnce(&[[[u8; 64]; 4]]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let n = codes.len() / (32 * format.bits());
        scratch.levels.resize(scratch.levels.len().max(n), [[0; 64]; 4]);
        by_codec(level, format, Decode { table: levels::table(format), codes, skip: 0, levels: &mut scratch.levels[..n] });
        f(&scratch.levels[..n])
    })
}

/// A kernel that is generic over the way of coding, too. Each way is compiled on its own: as one, they would be a single
/// function of half a million instructions per instruction set, which the compiler takes minutes over.
trait CodecKernel {
    fn run<I: Isa, C: Codec>(self, isa: I);
}

fn by_codec(level: Level, format: Format, kernel: impl CodecKernel) {
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
    match (format.scheme(), format.bits()) {
        (Scheme::Trellis, 2) => with::<Trellis<2>>(level, kernel),
        (Scheme::Trellis, 3) => with::<Trellis<3>>(level, kernel),
        (Scheme::Trellis, 4) => with::<Trellis<4>>(level, kernel),
        (Scheme::Trellis, 5) => with::<Trellis<5>>(level, kernel),
        (Scheme::Trellis, 6) => with::<Trellis<6>>(level, kernel),
        (Scheme::Trellis, 7) => with::<Plain7>(level, kernel),
        (Scheme::Trellis, _) => with::<Plain8>(level, kernel),
        (_, 2) => with::<Affine<2>>(level, kernel),
        (_, 3) => with::<Affine<3>>(level, kernel),
        (_, 4) => with::<Affine<4>>(level, kernel),
        (_, 5) => with::<Affine<5>>(level, kernel),
        (_, 6) => with::<Affine<6>>(level, kernel),
        (_, _) => with::<Affine8>(level, kernel),
    }
}

/// Tiles of a packed matrix, and the inputs that they are multiplied with.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    format: Format,
    bytes: &'a [u8],
    tile_bytes: usize,
    /// Of a tile's scales.
    scale_bytes: usize,
    x: &'a Rows,
    /// Inputs that share both a weight scale and an activation scale.
    span: usize,
}

/// One tile's parts.
struct Tile<'a> {
    row_scales: &'a [u8],
    scales: &'a [u8],
    codes: &'a [u8],
}

impl<'a> Tiles<'a> {
    fn new(format: Format, bytes: &'a [u8], tile_bytes: usize, x: &'a Rows) -> Tiles<'a> {
        let scale_bytes = x.padded().div_ceil(format.group()) * format.group_bytes();
        Tiles { format, bytes, tile_bytes, scale_bytes, x, span: format.group().min(x.block()) }
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.tile_bytes
    }

    #[inline(always)]
    fn tile(&self, i: usize) -> Tile<'a> {
        let (row_scales, rest) = self.bytes[i * self.tile_bytes..][..self.tile_bytes].split_at(self.format.head_bytes());
        let (scales, codes) = rest.split_at(self.scale_bytes);
        Tile { row_scales, scales, codes }
    }

    /// The inputs of N of `tokens`, from number `first`; beyond the last they repeat it.
    #[inline(always)]
    fn inputs<const N: usize>(&self, walk: &Walk, tokens: &[u32], first: usize) -> [Row<'a>; N] {
        let mut rows = [self.x.row(tokens[first], walk.of_row.clone()); N];
        for (row, token) in rows.iter_mut().zip(&tokens[first..]) {
            *row = self.x.row(*token, walk.of_row.clone());
        }
        rows
    }

    /// What is to be known of macro-steps `start` to `end`: divisions, each of which takes as long as several steps.
    fn walk(&self, start: usize, end: usize) -> Walk {
        let per_span = self.span / 16;
        let spans = start / per_span..end.div_ceil(per_span);
        Walk {
            of_row: self.x.spans(self.span),
            per_span,
            group: Counter::new(self.format.group() / self.span, spans.start),
            spans,
            steps: start..end,
        }
    }

    /// All tiles times all tokens: some tiles at a time, of which one panel of inputs after the other, which then stay in the
    /// L2 cache for these tiles.
    fn by_panel(&self, level: Level, scratch: &mut Scratch, mut out: Out) {
        let (format, steps, tokens) = (self.format, self.x.padded() / 16, out.tokens.len());
        let (each, table) = (32 * format.bits(), levels::table(format));
        let Scratch { levels, sums } = scratch;
        levels.resize(levels.len().max(PANEL / 16), [[0; 64]; 4]);
        let (all, together, panel) = (self.len(), (SUMS / tokens).max(1), PANEL / 16);
        sums.resize(sums.len().max(together.min(all) * tokens), [0.0; 16]);
        let order = |first: usize| (0..steps).step_by(panel).flat_map(move |start| (first..(first + together).min(all)).map(move |i| (i, start)));
        let mut order = (0..all).step_by(together).flat_map(order).peekable();
        while let Some((i, start)) = order.next() {
            let (tile, end) = (self.tile(i), (start + panel).min(steps));
            let (levels, sums) = (&mut levels[..end - start], &mut sums[i % together * tokens..][..tokens]);
            if start == 0 {
                sums.fill([0.0; 16]);
            }
            // A decoder remembers less than a macro-step: beginning one before, it is right where the panel begins.
            let skip = start.min(1);
            by_codec(level, format, Decode { table, codes: &tile.codes[(start - skip) * each..end * each], skip, levels });
            let next = order.peek().map_or(&[][..], |&(i, start)| &self.tile(i).codes[start * each..(start + panel).min(steps) * each]);
            let part = Part { tiles: *self, tile: &tile, walk: self.walk(start, end), levels, next, sums, tokens: out.tokens };
            // What is decoded already needs no kernel per width.
            match (format.scheme(), format.bits()) {
                (Scheme::Trellis, 8) => dispatch(level, Panel::<Centred<true>>(part, PhantomData)),
                (Scheme::Trellis, _) => dispatch(level, Panel::<Centred<false>>(part, PhantomData)),
                (_, 8) => dispatch(level, Panel::<AffineScaling<true>>(part, PhantomData)),
                (_, _) => dispatch(level, Panel::<AffineScaling<false>>(part, PhantomData)),
            }
            if end == steps {
                dispatch(level, Finish { tile: &tile, i, sums, out: &mut out });
            }
        }
    }

    /// Adds one tile times N tokens to their sums, from macro-step `start`, by the levels of each.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn times<I: Isa, S: Scaling, const N: usize>(
        &self,
        isa: I,
        tile: &Tile,
        x: &[Row; N],
        walk: &Walk,
        mut levels: impl Levels<I>,
        sums: &mut [I::F; N],
    ) {
        let (format, group_bytes, per_span) = (self.format, self.format.group_bytes(), walk.per_span);
        // Slices of the same two lengths for all tokens: what holds for one index of one of them holds for all.
        let (mut codes, mut spans) = ([&[][..]; N], [&[][..]; N]);
        for t in 0..N {
            codes[t] = &x[t].codes[walk.steps.clone()];
            spans[t] = &x[t].spans[walk.spans.clone()];
        }
        let mut group = walk.group;
        let (mut kept, mut fresh) = ([isa.splat(0.0); 2], true);
        for at in 0..spans[0].len() {
            if fresh {
                kept = S::group(isa, format.scheme(), &tile.scales[group.at * group_bytes..][..group_bytes]);
            }
            let (from, to) = (at * per_span, ((at + 1) * per_span).min(codes[0].len()));
            // With one or two tokens a single sum each would wait for itself.
            let (mut dots, mut more) = ([isa.splat_i(0); N], [isa.splat_i(0); N]);
            let mut own = [[0; 2]; N];
            for t in 0..N {
                own[t] = spans[t][at];
                dots[t] = S::start(isa, own[t][1]);
            }
            for i in from..to {
                let levels = levels.step(isa, walk.steps.start + i);
                for (s, level) in levels.into_iter().enumerate() {
                    for t in 0..N {
                        let sum = if N <= 2 && s % 2 == 1 { &mut more[t] } else { &mut dots[t] };
                        *sum = S::dot(isa, *sum, level, isa.splat_word(codes[t][i][s]));
                    }
                }
            }
            if N <= 2 {
                for t in 0..N {
                    dots[t] = isa.add_i(dots[t], more[t]);
                }
            }
            S::add(isa, kept, Dots { dots: &dots, spans: &own }, sums);
            fresh = group.step();
        }
    }
}

impl Tile<'_> {
    /// Scales of the rows; 1 where the format has none.
    #[inline(always)]
    fn rows<I: Isa>(&self, isa: I) -> I::F {
        let mut row_scales = [1.0; 16];
        for (to, from) in row_scales.iter_mut().zip(self.row_scales.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        isa.load(&row_scales)
    }
}

/// Where results go.
struct Out<'a> {
    tokens: &'a [u32],
    places: usize,
    sink: Sink<'a>,
    /// (tiles, places).
    y: &'a mut [[f32; 16]],
}

impl Out<'_> {
    /// The result of tile `i` and token number `t`.
    #[inline(always)]
    fn put<I: Isa>(&mut self, isa: I, i: usize, t: usize, sum: I::F) {
        self.sink.put(isa, t, sum, &mut self.y[i * self.places..][..self.places]);
    }
}

/// Some macro-steps, in spans and groups.
struct Walk {
    steps: Range<usize>,
    spans: Range<usize>,
    /// Macro-steps of a span.
    per_span: usize,
    /// The group that the first span is of.
    group: Counter,
    /// Where all spans are in a row of inputs.
    of_row: Range<usize>,
}

/// Goes one up every so many steps; whether one did is what it says.
#[derive(Clone, Copy)]
struct Counter {
    at: usize,
    every: usize,
    left: usize,
}

impl Counter {
    #[inline(always)]
    fn new(every: usize, steps: usize) -> Counter {
        Counter { at: steps / every, every, left: every - steps % every }
    }
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.left -= 1;
        let up = self.left == 0;
        if up {
            (self.at, self.left) = (self.at + 1, self.every);
        }
        up
    }
}

impl Sink<'_> {
    #[inline(always)]
    pub fn put<I: Isa>(self, isa: I, i: usize, v: I::F, y: &mut [[f32; 16]]) {
        match self {
            Sink::Write => isa.store(v, &mut y[i]),
            Sink::Add { to, weights } => {
                let y = &mut y[to[i] as usize];
                isa.store(isa.fma(isa.splat(weights[i]), v, isa.load(y)), y);
            }
        }
    }
}

/// Levels of macro-steps, one after the other. A trait instead of a closure, because it must be compiled with the features
/// of the kernel that it is part of, and only functions can be told to be inlined.
trait Levels<I: Isa> {
    fn step(&mut self, isa: I, i: usize) -> [I::B; 4];
}

/// Few tokens: levels go straight into the products.
struct Straight<'a> {
    tiles: Tiles<'a>,
    out: Out<'a>,
}

impl CodecKernel for Straight<'_> {
    #[inline(always)]
    fn run<I: Isa, C: Codec>(self, isa: I) {
        match self.out.tokens.len() {
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
    fn tokens<I: Isa, C: Codec, const N: usize>(mut self, isa: I) {
        let walk = self.tiles.walk(0, self.tiles.x.padded() / 16);
        let x = self.tiles.inputs::<N>(&walk, self.out.tokens, 0);
        for i in 0..self.tiles.len() {
            let tile = self.tiles.tile(i);
            let (decoder, end) = (Decoder::new(isa, levels::table(self.tiles.format)), self.tiles.bytes.as_ptr_range().end);
            let levels = Decoding::<I, C> { decoder, codes: tile.codes, end, codec: PhantomData };
            let mut sums = [isa.splat(0.0); N];
            self.tiles.times::<I, C::Scaling, N>(isa, &tile, &x, &walk, levels, &mut sums);
            let rows = tile.rows(isa);
            for (t, sum) in sums.into_iter().enumerate().take(self.out.tokens.len()) {
                self.out.put(isa, i, t, isa.mul(sum, rows));
            }
        }
    }
}

/// Levels as they are decoded, which goes on from step to step.
struct Decoding<'a, I: Isa, C> {
    decoder: Decoder<I>,
    codes: &'a [u8],
    /// Where the task ends: what lies behind it, another thread reads.
    end: *const u8,
    codec: PhantomData<C>,
}

impl<I: Isa, C: Codec> Levels<I> for Decoding<'_, I, C> {
    #[inline(always)]
    fn step(&mut self, isa: I, i: usize) -> [I::B; 4] {
        let codes = &self.codes[32 * C::BITS * i..][..32 * C::BITS];
        let mut line = 0;
        while line < 32 * C::BITS {
            isa.prefetch(codes.as_ptr().wrapping_add(NEAR + line));
            let far = codes.as_ptr().wrapping_add(FAR + line);
            if far < self.end {
                isa.prefetch_far(far);
            }
            line += 64;
        }
        C::levels(isa, &mut self.decoder, codes)
    }
}

/// Levels of a tile's codes, but for the first `skip` macro-steps.
struct Decode<'a> {
    table: &'a [u8; 64],
    codes: &'a [u8],
    skip: usize,
    levels: &'a mut [[[u8; 64]; 4]],
}

impl CodecKernel for Decode<'_> {
    #[inline(always)]
    fn run<I: Isa, C: Codec>(self, isa: I) {
        let mut decoder = Decoder::new(isa, self.table);
        let (before, codes) = self.codes.split_at(self.skip * 32 * C::BITS);
        if !before.is_empty() {
            C::levels(isa, &mut decoder, before);
        }
        for (to, codes) in self.levels.iter_mut().zip(codes.chunks_exact(32 * C::BITS)) {
            isa.prefetch(codes.as_ptr().wrapping_add(NEAR));
            for (to, levels) in to.iter_mut().zip(C::levels(isa, &mut decoder, codes)) {
                isa.store_b(levels, to);
            }
        }
    }
}

/// Many tokens: decoded levels, times as many at once as registers hold sums for.
struct Panel<'a, S>(Part<'a>, PhantomData<S>);

/// Some inputs of one tile, decoded.
struct Part<'a> {
    tiles: Tiles<'a>,
    tile: &'a Tile<'a>,
    walk: Walk,
    levels: &'a [[[u8; 64]; 4]],
    /// Bytes of the panel after it, to be asked for meanwhile.
    next: &'a [u8],
    sums: &'a mut [[f32; 16]],
    tokens: &'a [u32],
}

impl<S: Scaling> Kernel for Panel<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let mut first = 0;
        let each = self.0.next.len().div_ceil(64 * self.0.tokens.len());
        let mut next = self.0.next.chunks(64);
        while first < self.0.tokens.len() {
            let begin = first;
            first += match self.0.tokens.len() - first {
                1 => self.tokens::<I, 1>(isa, first),
                2 => self.tokens::<I, 2>(isa, first),
                // 5 and 6 are 4 and what is left.
                7.. if I::TOKENS == 8 => self.tokens::<I, 8>(isa, first),
                _ => self.tokens::<I, 4>(isa, first),
            };
            for line in next.by_ref().take(each * (first - begin)) {
                isa.prefetch_far(line.as_ptr());
            }
        }
    }
}

impl<S: Scaling> Panel<'_, S> {
    /// N tokens from number `first`, which there are so many of.
    #[inline(always)]
    fn tokens<I: Isa, const N: usize>(&mut self, isa: I, first: usize) -> usize {
        let Part { tiles, tile, walk, levels, sums, tokens, .. } = &mut self.0;
        let x = tiles.inputs::<N>(walk, tokens, first);
        let sums = &mut sums[first..];
        let mut all = [isa.splat(0.0); N];
        for (to, from) in all.iter_mut().zip(&*sums) {
            *to = isa.load(from);
        }
        tiles.times::<I, S, N>(isa, tile, &x, walk, Decoded { start: walk.steps.start, levels }, &mut all);
        for (from, to) in all.into_iter().zip(sums) {
            isa.store(from, to);
        }
        N
    }
}

/// Results of a tile whose sums are complete.
struct Finish<'a, 'b> {
    tile: &'a Tile<'a>,
    i: usize,
    sums: &'a [[f32; 16]],
    out: &'a mut Out<'b>,
}

impl Kernel for Finish<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = self.tile.rows(isa);
        for (t, sum) in self.sums.iter().enumerate() {
            self.out.put(isa, self.i, t, isa.mul(isa.load(sum), rows));
        }
    }
}

/// Levels that are decoded already, from macro-step `start`.
struct Decoded<'a> {
    start: usize,
    levels: &'a [[[u8; 64]; 4]],
}

impl<I: Isa> Levels<I> for Decoded<'_> {
    #[inline(always)]
    fn step(&mut self, isa: I, i: usize) -> [I::B; 4] {
        let [a, b, c, d] = &self.levels[i - self.start];
        [isa.load_b(a), isa.load_b(b), isa.load_b(c), isa.load_b(d)]
    }
}
