//! Trellis levels where a product with a matrix of bits is one instruction ([`Isa::BITS`]).
//!
//! A level's place in the table is made of its code with the lowest bit mixed with those of one and three steps before, and
//! of that bit (u) of two steps before: all linear. What an instruction of a few cycles has to bring together is therefore
//! only what lies in different bytes: a byte of codes loses what another step needs, and what the bytes before contribute,
//! ready as a carry, goes there. As the table's index may be in any order, every second step needs no product of its own:
//! a look-up ignores bits that it has no use for, because its table repeats.
use super::planes::{Decoder, twice, whole};
use crate::isa::Isa;

/// The levels of a macro-step.
#[inline(always)]
pub fn levels<I: Isa, const BITS: usize>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    match BITS {
        2 | 3 => four::<I, BITS>(isa, d, bytes),
        4 | 5 => pairs::<I, BITS>(isa, d, bytes),
        6 => numbers(isa, d, bytes),
        _ => unreachable!("a trellis has 2 to 6 bits"),
    }
}

/// 2 and 3 bits: the lower two of four steps in one byte, u at bits 0, 2, 4 and 6.
#[inline(always)]
fn four<I: Isa, const BITS: usize>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    let v = whole(isa, bytes);
    let carry = d.before[0];
    // Of the steps before: bits 0 and 2 mix with the first two steps (the second gets what the first has mixed, too), 4 and 6
    // with the last two, 5 and 7 are u of two and of one step before.
    let (u1, u2, u3) = (1 << 6, 1 << 4, 1 << 2);
    d.before[0] = isa.bits(v, [u1 | u3, 0, u1 | u2 | u3, 0, u1, u2, u1, u1]);
    let mut first = isa.xor_and_b(carry, v, isa.splat_b(0x0f));
    let mut last = isa.xor_and_b(v, carry, isa.splat_b(0x50));
    if BITS == 3 {
        // Bit 0 and 2 of the plane go to 4 and 6, bits 4 and 6 to 1 and 3.
        let plane = &bytes[64..];
        first = isa.select_b(isa.splat_b(0x50), twice(isa, plane, 4), first);
        last = isa.select_b(isa.splat_b(0x0a), twice(isa, plane, -3), last);
    }
    let of = |bit: u32| if BITS == 3 { 1u8 << bit } else { 0 };
    let second = isa.bits(first, [1 << 7, 1 << 2 | 1 << 0, 1 << 3, of(6), 0, 0, 0, 0]);
    let fourth = isa.bits(last, [1 << 2, 1 << 6 | 1 << 4 | 1 << 0, 1 << 7, of(3), 0, 0, 0, 0]);
    [isa.look::<64>(d.even, first), isa.look::<64>(d.table, second), isa.look::<64>(d.odd, last), isa.look::<64>(d.table, fourth)]
}

/// 4 and 5 bits: the lower four of two steps in one byte, u at bits 0 and 4.
#[inline(always)]
fn pairs<I: Isa, const BITS: usize>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    let mut out = [isa.splat_b(0); 4];
    for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let v = whole(isa, &bytes[64 * i..]);
        let [carry, older, ..] = d.before;
        // u of one step before at bits 0 and 4, of two steps before at bit 5; `older` has that of three steps before at bit 0.
        let next = isa.bits(v, [1 << 4, 0, 0, 0, 1 << 4, 1 << 0, 0, 0]);
        (d.before[0], d.before[1]) = (next, carry);
        let mut even = isa.xor_and_b(isa.xor_and_b(carry, v, isa.splat_b(0x0f)), older, isa.splat_b(1));
        let own = isa.bits(v, [1 << 5, 1 << 6, 0, 1 << 7, 0, 1 << 4 | 1 << 0, 0, 0]);
        let mut odd = isa.xor_and_b(own, carry, isa.splat_b(0x30));
        if BITS == 5 {
            // Bits 0 and 2 of the plane, then 4 and 6, go to bit 4 and bit 2.
            let plane = &bytes[128..];
            even = isa.select_b(isa.splat_b(1 << 4), twice(isa, plane, if i == 0 { 4 } else { 0 }), even);
            odd = isa.select_b(isa.splat_b(1 << 2), twice(isa, plane, if i == 0 { 0 } else { -4 }), odd);
        }
        *out = [isa.look::<64>(d.even, even), isa.look::<64>(d.odd, odd)];
    }
    out
}

/// 6 bits: the same with two more in a plane; a level is its index.
#[inline(always)]
fn numbers<I: Isa>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
    let mut out = [isa.splat_b(0); 4];
    let high = whole(isa, &bytes[128..]);
    for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let v = whole(isa, &bytes[64 * i..]);
        let [carry, older, ..] = d.before;
        // u of one and of two steps before at bits 1 and 2 for the odd step; of two and of one at 6 and 7 for the even one,
        // where that of three steps before is `older`'s bit 7.
        let next = isa.bits(v, [0, 1 << 4, 1 << 0, 0, 0, 0, 1 << 0, 1 << 4]);
        (d.before[0], d.before[1]) = (next, carry);
        let carry = isa.xor_and_b(carry, older, isa.splat_b(1 << 7));
        let even = isa.select_b(isa.splat_b(0x0f), v, carry);
        let even = isa.select_b(isa.splat_b(0x30), if i == 0 { isa.shl_b::<4>(high) } else { high }, even);
        let odd = isa.bits(isa.select_b(isa.splat_b(0x06), carry, v), [1 << 1, 1 << 4 | 1 << 2 | 1 << 0, 1 << 5, 1 << 6, 1 << 7, 0, 0, 0]);
        let own = if i == 0 { isa.shl_b::<3>(high) } else { isa.shr_b::<1>(high) };
        out[0] = isa.bits(even, [1 << 6, 1 << 7 | 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 0]);
        out[1] = isa.select_b(isa.splat_b(0x60), own, odd);
    }
    out
}
