//! Many tokens: a tile's levels are decoded once, a panel of inputs at a time, and multiplied with as many tokens at once as
//! registers hold sums for.
use super::tiles::{Levels, Tile, Tiles, Walk};
use crate::{
    Scheme,
    decode::{self, AffineScaling, Centred, Decode, Scaling, by_codec, with_memory},
    isa::{Isa, Kernel, Level, dispatch},
};
use std::{marker::PhantomData, ops::Range};

/// Inputs whose levels are decoded at a time when many tokens share them: 16 rows of 4,096 are 64 KiB, 32 twice that, which an L2
/// cache feeds as fast as they are used; smaller panels cost more in beginning anew than an L1 cache gains (docs/speed.md).
const PANEL: usize = 4096;

/// Sums of 16 rows that are unfinished while the panels of some tiles take turns: 64 KiB.
const SUMS: usize = 1024;

/// Bytes that every thread keeps for products with many tokens.
pub const PANEL_BYTES: usize = 2 * 16 * PANEL;

/// All tiles times all tokens: (tiles, tokens) of 16 results.
pub fn by_panel(tiles: &Tiles, level: Level, tokens: &[u32], y: &mut [[f32; 16]]) {
    with_memory(|levels| take_turns(tiles, level, levels, tokens, y));
}

/// Of some tiles at a time, one panel of inputs after the other: inputs then stay in the L2 cache for all of these tiles.
fn take_turns(tiles: &Tiles, level: Level, levels: &mut decode::Levels, tokens: &[u32], y: &mut [[f32; 16]]) {
    let (format, steps, count) = (tiles.format, tiles.x.padded() / 16, tokens.len());
    let (each, tables) = (32 * format.bits(), decode::tables(format));
    let (block, wide) = level.block();
    let (all, panel) = (tiles.len(), PANEL / 16);
    let together = (SUMS / count).next_multiple_of(wide).max(wide);
    levels.resize(levels.len().max(wide * panel), [[0; 64]; 4]);
    let turns = (0..all).step_by(together).flat_map(|first| {
        let panels = (0..steps).step_by(panel).map(move |start| (start, steps.min(start + panel)));
        panels.flat_map(move |(start, end)| (first..all.min(first + together)).step_by(wide).map(move |i| (i, start, end)))
    });
    let mut turns = turns.peekable();
    while let Some((i, start, end)) = turns.next() {
        let now = &[tiles.tile(i), tiles.tile(all.min(i + wide) - 1)][..wide.min(all - i)];
        // A decoder remembers less than a macro-step: beginning one before, it is right where the panel begins.
        let skip = start.min(1);
        let levels = &mut levels[..now.len() * (end - start)];
        for (tile, levels) in now.iter().zip(levels.chunks_exact_mut(end - start)) {
            by_codec(level, format, Decode { tables, codes: &tile.codes[(start - skip) * each..end * each], skip, levels });
        }
        let then = |&(i, start, end): &_| [i, all.min(i + wide) - 1].map(|i| &tiles.tile(i).codes[start * each..end * each]);
        let next = turns.peek().map_or([&[][..]; 2], then);
        let walk = tiles.walk(start, end);
        let lines = next[0].len().div_ceil(64 * walk.spans.len() * count.div_ceil(block));
        let y = &mut y[i * count..][..now.len() * count];
        let part = Part { tiles: *tiles, now, walk, levels, next, lines, y, tokens };
        // What is decoded already needs no kernel per width.
        let wide = format.bits() == 8;
        match format.scheme() {
            Scheme::Signed if wide => dispatch(level, Panel::<Centred<true>>(part, PhantomData)),
            Scheme::Trellis | Scheme::Signed => dispatch(level, Panel::<Centred<false>>(part, PhantomData)),
            Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric | Scheme::Mx if wide => {
                dispatch(level, Panel::<AffineScaling<true>>(part, PhantomData));
            }
            Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric | Scheme::Mx => {
                dispatch(level, Panel::<AffineScaling<false>>(part, PhantomData));
            }
            Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no codes"),
        }
    }
}

/// Many tokens: decoded levels, times as many at once as registers hold sums for.
struct Panel<'a, S>(Part<'a>, PhantomData<S>);

/// Some inputs of one tile or two, decoded.
struct Part<'a> {
    tiles: Tiles<'a>,
    now: &'a [Tile<'a>],
    walk: Walk,
    /// Of one tile after the other.
    levels: &'a [[[u8; 64]; 4]],
    /// Codes of what comes after it, to be asked for meanwhile.
    next: [&'a [u8]; 2],
    /// Lines of them with every span and block of tokens.
    lines: usize,
    /// Results, or sums so far: (tiles, tokens).
    y: &'a mut [[f32; 16]],
    tokens: &'a [u32],
}

impl<S: Scaling> Kernel for Panel<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let mut first = 0;
        while first < self.0.tokens.len() {
            first += if let ([_, _], 2) = (self.0.now, I::TILES) { self.block::<I, 2>(isa, first) } else { self.block::<I, 1>(isa, first) };
        }
    }
}

impl<S: Scaling> Panel<'_, S> {
    /// As many tokens from number `first` as a block of R tiles serves.
    #[inline(always)]
    fn block<I: Isa, const R: usize>(&mut self, isa: I, first: usize) -> usize {
        match self.0.tokens.len() - first {
            1 => self.tokens::<I, 1, R>(isa, first),
            2 => self.tokens::<I, 2, R>(isa, first),
            // 5 and 6 are 4 and what is left.
            7.. if I::TOKENS == 8 => self.tokens::<I, 8, R>(isa, first),
            _ => self.tokens::<I, 4, R>(isa, first),
        }
    }

    /// N tokens from number `first`, or those that there are.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn tokens<I: Isa, const N: usize, const R: usize>(&mut self, isa: I, first: usize) -> usize {
        let Part { tiles, now, walk, levels, next, lines, y, tokens } = &mut self.0;
        let x = tiles.inputs::<N>(walk, tokens, first);
        let (n, steps, count) = (N.min(tokens.len() - first), walk.steps.len(), tokens.len());
        let mut all = [[isa.splat(0.0); N]; R];
        if walk.steps.start > 0 {
            for r in 0..R {
                for (t, sum) in y[r * count + first..][..n].iter().enumerate() {
                    all[r][t] = isa.load(sum);
                }
            }
        }
        let mut decoded = [Decoded { levels: &[], span: &[], next: &[], lines: *lines }; R];
        let asked = first / I::TOKENS * *lines * walk.spans.len() * 64;
        for (r, decoded) in decoded.iter_mut().enumerate() {
            decoded.levels = &levels[r * steps..][..steps];
            decoded.next = next[r].get(asked..).unwrap_or_default();
        }
        let pair = [&now[0], &now[R - 1]];
        let all = tiles.times::<I, S, N, R>(isa, *pair.first_chunk().expect("one tile or two"), &x, walk, decoded, all);
        for r in 0..R {
            let rows = if walk.steps.end == tiles.x.padded() / 16 { now[r].rows(isa) } else { isa.splat(1.0) };
            for (t, y) in y[r * count + first..][..n].iter_mut().enumerate() {
                isa.store(isa.mul(all[r][t], rows), y);
            }
        }
        n
    }
}

/// Levels that are decoded already.
#[derive(Clone, Copy)]
struct Decoded<'a> {
    levels: &'a [[[u8; 64]; 4]],
    /// Those of the span that are left.
    span: &'a [[[u8; 64]; 4]],
    /// Codes that are asked for meanwhile, and how many lines of them with every span: many at once would keep waiting what is
    /// used now.
    next: &'a [u8],
    lines: usize,
}

impl<I: Isa> Levels<I> for Decoded<'_> {
    #[inline(always)]
    fn span(&mut self, isa: I, steps: Range<usize>) {
        self.span = &self.levels[steps];
        if let Some((now, next)) = self.next.split_at_checked(64 * self.lines) {
            self.next = next;
            for line in now.as_chunks::<64>().0 {
                isa.prefetch_far(line.as_ptr());
            }
        }
    }
    #[inline(always)]
    fn step(&mut self, isa: I) -> [I::B; 4] {
        let ([a, b, c, d], rest) = self.span.split_first().expect("as many macro-steps as the span has");
        self.span = rest;
        [isa.load_b(a), isa.load_b(b), isa.load_b(c), isa.load_b(d)]
    }
}
