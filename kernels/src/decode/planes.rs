//! Codes out of their bit planes, and what decoding carries from step to step.
use super::levels::Tables;
use crate::isa::Isa;

/// What decoding remembers of the steps before, and where it looks levels up.
pub struct Decoder<I: Isa> {
    pub table: I::Table,
    /// The table in the order of the matrix of bits' indices.
    pub even: I::Table,
    pub odd: I::Table,
    /// What either way of decoding carry.
    pub before: [I::B; 3],
}

impl<I: Isa> Decoder<I> {
    #[inline(always)]
    pub fn new(isa: I, tables: &Tables) -> Decoder<I> {
        let [table, even, odd] = tables;
        Decoder { table: isa.table(table), even: isa.table(even), odd: isa.table(odd), before: [isa.splat_b(0); 3] }
    }
}

/// 32 bytes as 16 words.
#[inline(always)]
pub fn words(bytes: &[u8]) -> [u16; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *to = u16::from_le_bytes(*from);
    }
    out
}

/// Codes of the four steps of a macro-step at bit `at` of every byte: its planes of 8, 4, 2 or 1 bits put together, low bits
/// first. What the other bits are is left open.
#[inline(always)]
pub fn spread<I: Isa, const BITS: usize>(isa: I, bytes: &[u8], at: i32) -> [I::B; 4] {
    match BITS {
        2 => plane2(isa, bytes, at),
        3 => join(isa, at, 2, plane2(isa, bytes, at), plane1(isa, &bytes[64..], at + 2)),
        4 => plane4(isa, bytes, at),
        5 => join(isa, at, 4, plane4(isa, bytes, at), plane1(isa, &bytes[128..], at + 4)),
        6 => join(isa, at, 4, plane4(isa, bytes, at), plane2(isa, &bytes[128..], at + 4)),
        7 => join(isa, at, 6, spread::<I, 6>(isa, bytes, at), plane1(isa, &bytes[192..], at + 6)),
        8 => [whole(isa, bytes), whole(isa, &bytes[64..]), whole(isa, &bytes[128..]), whole(isa, &bytes[192..])],
        _ => unreachable!("codes have 2 to 8 bits"),
    }
}

/// `width` bits from bit `at` of `low`, all others of `high`.
#[inline(always)]
fn join<I: Isa>(isa: I, at: i32, width: u32, low: [I::B; 4], high: [I::B; 4]) -> [I::B; 4] {
    let mask = isa.splat_b((((1u32 << width) - 1) << at) as u8);
    let mut out = low;
    for (out, high) in out.iter_mut().zip(high) {
        *out = isa.select_b(mask, *out, high);
    }
    out
}

/// 64 bytes of codes.
#[inline(always)]
pub fn whole<I: Isa>(isa: I, bytes: &[u8]) -> I::B {
    isa.load_b(bytes.first_chunk().expect("64 bytes"))
}

#[inline(always)]
fn plane4<I: Isa>(isa: I, bytes: &[u8], at: i32) -> [I::B; 4] {
    let (a, b) = (whole(isa, bytes), whole(isa, &bytes[64..]));
    [isa.shift_b(a, at), isa.shift_b(a, at - 4), isa.shift_b(b, at), isa.shift_b(b, at - 4)]
}

/// The bits from 0, 2, 4 and 6 of every byte, moved to `at`.
#[inline(always)]
fn plane2<I: Isa>(isa: I, bytes: &[u8], at: i32) -> [I::B; 4] {
    let v = whole(isa, bytes);
    [isa.shift_b(v, at), isa.shift_b(v, at - 2), isa.shift_b(v, at - 4), isa.shift_b(v, at - 6)]
}

/// The bits at 0, 2, 4 and 6 of every byte, in the upper half those at 1, 3, 5 and 7, moved to `at`.
#[inline(always)]
fn plane1<I: Isa>(isa: I, bytes: &[u8], at: i32) -> [I::B; 4] {
    [twice(isa, bytes, at), twice(isa, bytes, at - 2), twice(isa, bytes, at - 4), twice(isa, bytes, at - 6)]
}

/// A plane of one bit, moved by `by`: [`Isa::load_b_twice`].
#[inline(always)]
pub fn twice<I: Isa>(isa: I, bytes: &[u8], by: i32) -> I::B {
    isa.load_b_twice(bytes.first_chunk().expect("32 bytes"), by)
}
