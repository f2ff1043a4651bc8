//! Trellis levels by shifts and masks, where a product with a matrix of bits is no instruction ([`Isa::BITS`]).
//!
//! A step's place in the table is its code, with the lowest bit (u) mixed with those of one and three steps before, behind
//! the u of two steps before.
use super::planes::{Decoder, spread, twice, whole};
use crate::isa::Isa;

/// The levels of a macro-step.
#[inline(always)]
pub fn levels<I: Isa, const BITS: usize>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    match BITS {
        2 | 3 => {
            let mut out = indices::<I, BITS>(isa, d, bytes);
            for v in &mut out {
                *v = isa.look::<16>(d.table, *v);
            }
            out
        }
        4 | 5 => pairs::<I, BITS>(isa, d, bytes),
        6 => indices::<I, BITS>(isa, d, bytes),
        _ => unreachable!("a trellis has 2 to 6 bits"),
    }
}

/// Where in the table the levels are: with 2, 3 and 6 bits all of that fits a look-up, or is the level itself.
#[inline(always)]
fn indices<I: Isa, const BITS: usize>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    let mut out = spread::<I, BITS>(isa, bytes, 1);
    let (u, own) = (isa.splat_b(2), isa.splat_b((((1u32 << BITS) - 1) << 1) as u8));
    let [mut h1, mut h2, mut h3] = d.before;
    for v in &mut out {
        let code = *v;
        let mixed = isa.xor3_b(code, h1, h3);
        *v = isa.and_or_b(mixed, own, isa.shr_b::<1>(h2));
        (h3, h2, h1) = (h2, h1, isa.and_b(code, u));
    }
    d.before = [h1, h2, h3];
    out
}

/// 4 and 5 bits: the lower four of two steps in one byte, u at bits 0 and 4. They are the place in 16 levels; which 16 of the
/// table it is, the u of two steps before says, and the fifth bit.
#[inline(always)]
fn pairs<I: Isa, const BITS: usize>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    let (nibble, one) = (isa.splat_b(0x0f), isa.splat_b(1));
    let mut out = [one; 4];
    for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let even = whole(isa, &bytes[64 * i..]);
        let odd = isa.shr_b::<4>(even);
        // The byte before, and u of one and three steps before the even step, mixed (at bit 0); `changed` has that of the odd one.
        let [before, mixed, unused] = d.before;
        let changed = isa.xor_b(even, before);
        d.before = [even, isa.shr_b::<4>(changed), unused];
        let at = [isa.xor_and_b(isa.and_b(even, nibble), mixed, one), isa.xor_and_b(isa.and_b(odd, nibble), changed, one)];
        let two_before = [isa.shl_b::<7>(before), isa.shl_b::<3>(before)];
        for (step, out) in out.iter_mut().enumerate() {
            let mut fifth = None;
            if BITS == 5 {
                fifth = Some(twice(isa, &bytes[128..], 7 - 2 * (2 * i + step) as i32));
            }
            *out = isa.look_in(d.table, at[step], two_before[step], fifth);
        }
    }
    out
}
