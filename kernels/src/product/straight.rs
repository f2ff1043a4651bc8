//! Few tokens: each step's levels go straight from the codes into the products.
use super::tiles::{Levels, Tiles};
use crate::{
    decode::{self, Codec, CodecKernel, Decoder},
    isa::Isa,
};
use std::{marker::PhantomData, ops::Range, slice::ChunksExact};

/// Bytes ahead of the codes in use that are asked for, into the first cache and into the second. The processor's own look-ahead
/// ends at each page, and an L1 cache has too few misses in flight for the memory's latency (docs/speed.md).
const NEAR: usize = 4096;
const FAR: usize = 8192;

/// Few tokens: levels go straight into the products.
pub struct Straight<'a> {
    pub tiles: Tiles<'a>,
    pub tokens: &'a [u32],
    /// (tiles, tokens).
    pub y: &'a mut [[f32; 16]],
    /// Asked near the end what this thread reads next.
    pub then: &'a dyn Fn() -> Option<&'a [u8]>,
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
            let decoder = Decoder::new(isa, decode::tables(self.tiles.format));
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
