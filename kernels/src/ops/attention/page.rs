//! How the pages of a KV cache are read.
use super::{
    super::kv::{LEVELS, PAGE},
    queries::{Float, Queries},
    rows,
};
use crate::isa::Isa;

/// How pages are read.
pub trait Page {
    type Unit: Copy;
    type Value: Copy;
    /// Numbers of a unit.
    const PER: usize;
    /// Whether they hold codes and scales, of rotated heads.
    const CODES: bool;
    /// Whether values are read from a room, where [`Page::ready`] has put them.
    const ROOM: bool;
    /// Whether keys and values are the same numbers: latents.
    const LATENT: bool;

    /// Products of N queries with the keys of R blocks of 16 tokens; `soon` gives what is read after. Latents were made ready.
    fn dots<I: Isa, const N: usize, const R: usize>(
        isa: I,
        page: &[Self::Unit],
        room: &[u8],
        wide: usize,
        blocks: [usize; R],
        q: &Queries<N>,
        soon: *const u8,
    ) -> [[I::F; N]; R];

    /// Makes the values of the first `tokens` tokens ready to be read, in `room` where they are not.
    fn ready<I: Isa>(isa: I, page: &[Self::Unit], wide: usize, tokens: usize, room: &mut [u8]);

    /// All values, from the first token's on.
    fn values<'a>(page: &'a [Self::Unit], room: &'a [u8], wide: usize) -> &'a [Self::Value];

    /// 16 of them.
    fn value<I: Isa>(isa: I, values: &[Self::Value; 16]) -> I::F;

    /// Scales of 16 keys, or values, from token 16 b on.
    fn scales<I: Isa>(isa: I, page: &[Self::Unit], wide: usize, values: bool, b: usize) -> I::F;
}

pub struct Floats<E, const LATENT: bool>(std::marker::PhantomData<E>);

impl<E: Float, const LATENT: bool> Page for Floats<E, LATENT> {
    type Unit = E;
    type Value = E;
    const PER: usize = 1;
    const CODES: bool = false;
    const ROOM: bool = false;
    const LATENT: bool = LATENT;

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn dots<I: Isa, const N: usize, const R: usize>(
        isa: I,
        page: &[E],
        _: &[u8],
        wide: usize,
        blocks: [usize; R],
        q: &Queries<N>,
        soon: *const u8,
    ) -> [[I::F; N]; R] {
        if LATENT {
            return rows::floats(isa, page, wide, blocks, q);
        }
        let d = q.floats[0].len();
        let mut dots = [[isa.splat(0.0); N]; R];
        let mut own = [&[][..]; R];
        for r in 0..R {
            own[r] = page[blocks[r] * wide * 16..].as_chunks::<16>().0.split_at(d).0;
        }
        for j in 0..d {
            let mut k = [isa.splat(0.0); R];
            for r in 0..R {
                isa.prefetch(soon.wrapping_add((r * d + j) * size_of::<[E; 16]>()));
                k[r] = E::load(isa, &own[r][j]);
            }
            for i in 0..N {
                let q = isa.splat(q.floats[i][j]);
                for r in 0..R {
                    dots[r][i] = isa.fma(q, k[r], dots[r][i]);
                }
            }
        }
        dots
    }

    #[inline(always)]
    fn ready<I: Isa>(_: I, _: &[E], _: usize, _: usize, _: &mut [u8]) {}

    #[inline(always)]
    fn values<'a>(page: &'a [E], _: &'a [u8], wide: usize) -> &'a [E] {
        if LATENT { page } else { &page[PAGE * wide..] }
    }

    #[inline(always)]
    fn value<I: Isa>(isa: I, values: &[E; 16]) -> I::F {
        E::load(isa, values)
    }

    #[inline(always)]
    fn scales<I: Isa>(isa: I, _: &[E], _: usize, _: bool, _: usize) -> I::F {
        isa.splat(1.0)
    }
}

/// Codes of 8 or 4 bits.
pub struct Codes<const BITS: usize, const LATENT: bool>;

/// Levels as bytes with signs, and as those without that keys are multiplied as.
const SIGNED: [u8; 64] = levels(0);
const RAISED: [u8; 64] = levels(128);

const fn levels(raised: u8) -> [u8; 64] {
    let (mut all, mut i) = ([0; 64], 0);
    while i < 64 {
        all[i] = (LEVELS[i % 16] as u8).wrapping_add(raised);
        i += 1;
    }
    all
}

/// The levels of the lower and the upper half of each byte.
#[inline(always)]
fn halves<I: Isa>(isa: I, table: I::Table, bytes: &[u8; 64]) -> [I::B; 2] {
    let (both, mask) = (isa.load_b(bytes), isa.splat_b(15));
    [isa.look::<16>(table, isa.and_b(both, mask)), isa.look::<16>(table, isa.and_b(isa.shr_b::<4>(both), mask))]
}

impl<const BITS: usize, const LATENT: bool> Page for Codes<BITS, LATENT> {
    type Unit = u8;
    type Value = u8;
    const PER: usize = 8 / BITS;
    const CODES: bool = true;
    const ROOM: bool = BITS == 4;
    const LATENT: bool = LATENT;

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn dots<I: Isa, const N: usize, const R: usize>(
        isa: I,
        page: &[u8],
        room: &[u8],
        wide: usize,
        blocks: [usize; R],
        q: &Queries<N>,
        soon: *const u8,
    ) -> [[I::F; N]; R] {
        if LATENT {
            return rows::codes(isa, Self::values(page, room, wide), wide, blocks, q);
        }
        let (mut dots, table) = ([[isa.splat_i(0); N]; R], isa.table(&RAISED));
        // Of 16 tokens 64 bytes have 4 numbers each, or 8.
        let lines = wide * BITS / 32;
        let mut own = [&[][..]; R];
        for r in 0..R {
            own[r] = page[blocks[r] * lines * 64..].as_chunks::<64>().0.split_at(lines).0;
        }
        for j in 0..lines {
            for r in 0..R {
                isa.prefetch(soon.wrapping_add((r * lines + j) * 64));
                if BITS == 8 {
                    let k = isa.load_b(&own[r][j]);
                    for i in 0..N {
                        dots[r][i] = isa.dot_c8(dots[r][i], k, isa.splat_word(q.words[i][j]));
                    }
                } else {
                    let [lower, upper] = halves(isa, table, &own[r][j]);
                    for i in 0..N {
                        let dot = isa.dot_c8(dots[r][i], lower, isa.splat_word(q.words[i][2 * j]));
                        dots[r][i] = isa.dot_c8(dot, upper, isa.splat_word(q.words[i][2 * j + 1]));
                    }
                }
            }
        }
        let mut out = [[isa.splat(0.0); N]; R];
        for r in 0..R {
            for i in 0..N {
                out[r][i] = isa.to_f(isa.sub_i(dots[r][i], isa.splat_i(q.off[i])));
            }
        }
        out
    }

    #[inline(always)]
    fn ready<I: Isa>(isa: I, page: &[u8], wide: usize, tokens: usize, room: &mut [u8]) {
        if Self::ROOM {
            let table = isa.table(&SIGNED);
            let bytes = page[if LATENT { 0 } else { PAGE * wide / 2 }..].as_chunks().0.iter();
            for (room, bytes) in room.as_chunks_mut::<128>().0.iter_mut().zip(bytes).take((tokens * wide).div_ceil(128)) {
                let [lower, upper] = halves(isa, table, bytes);
                let [first, second] = room.as_chunks_mut::<64>().0 else { return };
                isa.store_b(lower, first);
                isa.store_b(upper, second);
            }
        }
    }

    #[inline(always)]
    fn values<'a>(page: &'a [u8], room: &'a [u8], wide: usize) -> &'a [u8] {
        match (Self::ROOM, LATENT) {
            (true, _) => room,
            (_, true) => page,
            _ => &page[PAGE * wide..],
        }
    }

    #[inline(always)]
    fn value<I: Isa>(isa: I, values: &[u8; 16]) -> I::F {
        isa.load_i8(&values.map(u8::cast_signed))
    }

    #[inline(always)]
    fn scales<I: Isa>(isa: I, page: &[u8], wide: usize, values: bool, b: usize) -> I::F {
        let (parts, before) = if LATENT { (1, 0) } else { (2, PAGE * usize::from(values)) };
        let from = parts * PAGE * wide * BITS / 8 + 4 * (before + 16 * b);
        let mut scales = [0.0; 16];
        for (scale, bytes) in scales.iter_mut().zip(page[from..from + 64].as_chunks().0) {
            *scale = f32::from_le_bytes(*bytes);
        }
        isa.load(&scales)
    }
}
