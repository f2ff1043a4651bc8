//! The ways of coding a weight as an unsigned level, and what a group's integer dots stand for.
use crate::{Scheme, isa::Isa};

/// What decoding remembers from step to step: the u bits of the last three, at bit 1.
pub struct Decoder<I: Isa> {
    table: I::Table,
    h1: I::B,
    h2: I::B,
    h3: I::B,
}

impl<I: Isa> Decoder<I> {
    #[inline(always)]
    pub fn new(isa: I, table: &[u8; 64]) -> Decoder<I> {
        let zero = isa.splat_b(0);
        Decoder { table: isa.table(table), h1: zero, h2: zero, h3: zero }
    }
}

/// A way of coding weights as unsigned levels.
pub trait Codec {
    const BITS: usize;
    /// Levels of the four steps of a macro-step of `32 * BITS` bytes.
    fn levels<I: Isa>(isa: I, decoder: &mut Decoder<I>, codes: &[u8]) -> [I::B; 4];
    /// Adds dots of levels and inputs to the float sums, by what `scheme` keeps in `group`; `x_sums` are the sums of the same inputs.
    fn add<I: Isa, const N: usize>(
        isa: I,
        scheme: Scheme,
        group: &[u8],
        dots: &[I::I; N],
        x_scales: &[f32; N],
        x_sums: &[i32; N],
        sums: &mut [I::F; N],
    );
    #[inline(always)]
    fn dot<I: Isa>(isa: I, acc: I::I, levels: I::B, x: I::B) -> I::I {
        if Self::BITS == 8 { isa.dot_u8(acc, levels, x) } else { isa.dot_u7(acc, levels, x) }
    }
}

/// `scale * code + offset`, however a scheme keeps the two.
pub struct Affine<const BITS: usize>;

impl<const BITS: usize> Codec for Affine<BITS> {
    const BITS: usize = BITS;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, _: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        codes::<I, BITS>(isa, bytes)
    }
    #[inline(always)]
    fn add<I: Isa, const N: usize>(
        isa: I,
        scheme: Scheme,
        group: &[u8],
        dots: &[I::I; N],
        x_scales: &[f32; N],
        x_sums: &[i32; N],
        sums: &mut [I::F; N],
    ) {
        let (scale, offset) = match scheme {
            Scheme::AffineBf16 => (isa.load_bf16(&words(group)), isa.load_bf16(&words(&group[32..]))),
            Scheme::Gptq | Scheme::GptqOrdered => {
                let scale = isa.load_f16(&words(group));
                // Exact: 8 bits of a zero times 11 of a scale.
                (scale, isa.mul(scale, isa.to_f(isa.load_i(&zeros(BITS, &group[32..]).map(|z| -z)))))
            }
            _ => (isa.load_f16(&words(group)), isa.load_f16(&words(&group[32..]))),
        };
        for t in 0..N {
            let x_scale = isa.splat(x_scales[t]);
            sums[t] = isa.fma(isa.to_f(dots[t]), isa.mul(scale, x_scale), sums[t]);
            sums[t] = isa.fma(isa.mul(isa.splat(x_sums[t] as f32), x_scale), offset, sums[t]);
        }
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

/// 16 numbers of `bits` bits, low bits first.
#[inline(always)]
pub fn zeros(bits: usize, bytes: &[u8]) -> [i32; 16] {
    let mut whole = [0; 16];
    whole[..2 * bits].copy_from_slice(&bytes[..2 * bits]);
    let whole = u128::from_le_bytes(whole);
    std::array::from_fn(|i| (whole >> (i * bits)) as i32 & ((1 << bits) - 1))
}

/// Trellis-coded levels; 7 and 8 bits: plain codes.
pub struct Trellis<const BITS: usize>;

impl<const BITS: usize> Codec for Trellis<BITS> {
    const BITS: usize = BITS;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        let mut out = codes::<I, BITS>(isa, bytes);
        if BITS >= 7 {
            return out;
        }
        for v in &mut out {
            let code = isa.shl_b::<1>(*v);
            let index = isa.or_b(isa.xor3_b(code, d.h1, d.h3), isa.shr_b::<1>(d.h2));
            (d.h3, d.h2, d.h1) = (d.h2, d.h1, isa.and_b(code, isa.splat_b(2)));
            *v = match BITS {
                2 | 3 => isa.look::<16>(d.table, index),
                4 => isa.look::<32>(d.table, index),
                5 => isa.look::<64>(d.table, index),
                _ => index,
            };
        }
        out
    }
    #[inline(always)]
    fn add<I: Isa, const N: usize>(isa: I, _: Scheme, group: &[u8], dots: &[I::I; N], x_scales: &[f32; N], x_sums: &[i32; N], sums: &mut [I::F; N]) {
        let scales: &[u8; 16] = group.first_chunk().expect("16 scales per group");
        let scale = isa.load_i8(&scales.map(|s| s as i8));
        let zero = if BITS == 8 { 128.0 } else { 64.0 };
        for t in 0..N {
            // Exact in f32: both are below 2^24 for blocks of up to 128 inputs.
            let dot = isa.sub(isa.to_f(dots[t]), isa.splat(zero * x_sums[t] as f32));
            sums[t] = isa.fma(dot, isa.mul(scale, isa.splat(x_scales[t])), sums[t]);
        }
    }
}

/// Codes of the four steps of a macro-step: its planes of 8, 4, 2 or 1 bits put together, low bits first.
#[inline(always)]
fn codes<I: Isa, const BITS: usize>(isa: I, bytes: &[u8]) -> [I::B; 4] {
    match BITS {
        2 => plane2(isa, bytes),
        3 => join::<I, 2>(isa, plane2(isa, bytes), plane1(isa, &bytes[64..])),
        4 => plane4(isa, bytes),
        5 => join::<I, 4>(isa, plane4(isa, bytes), plane1(isa, &bytes[128..])),
        6 => join::<I, 4>(isa, plane4(isa, bytes), plane2(isa, &bytes[128..])),
        7 => join::<I, 6>(isa, codes::<I, 6>(isa, bytes), plane1(isa, &bytes[192..])),
        _ => [whole(isa, bytes), whole(isa, &bytes[64..]), whole(isa, &bytes[128..]), whole(isa, &bytes[192..])],
    }
}

#[inline(always)]
fn join<I: Isa, const LOW: u32>(isa: I, low: [I::B; 4], high: [I::B; 4]) -> [I::B; 4] {
    let one = |i: usize| isa.or_b(low[i], isa.shl_b::<LOW>(high[i]));
    [one(0), one(1), one(2), one(3)]
}

#[inline(always)]
fn whole<I: Isa>(isa: I, bytes: &[u8]) -> I::B {
    isa.load_b(bytes.first_chunk().expect("64 bytes"))
}

#[inline(always)]
fn plane4<I: Isa>(isa: I, bytes: &[u8]) -> [I::B; 4] {
    let (a, b, mask) = (whole(isa, bytes), whole(isa, &bytes[64..]), isa.splat_b(15));
    [isa.and_b(a, mask), isa.and_b(isa.shr_b::<4>(a), mask), isa.and_b(b, mask), isa.and_b(isa.shr_b::<4>(b), mask)]
}

#[inline(always)]
fn plane2<I: Isa>(isa: I, bytes: &[u8]) -> [I::B; 4] {
    fields(isa, whole(isa, bytes), 3)
}

#[inline(always)]
fn plane1<I: Isa>(isa: I, bytes: &[u8]) -> [I::B; 4] {
    fields(isa, isa.load_b_twice(bytes.first_chunk().expect("32 bytes")), 1)
}

/// The bits at 0, 2, 4 and 6 of every byte, as many as `mask` has.
#[inline(always)]
fn fields<I: Isa>(isa: I, v: I::B, mask: u8) -> [I::B; 4] {
    let mask = isa.splat_b(mask);
    [isa.and_b(v, mask), isa.and_b(isa.shr_b::<2>(v), mask), isa.and_b(isa.shr_b::<4>(v), mask), isa.and_b(isa.shr_b::<6>(v), mask)]
}
