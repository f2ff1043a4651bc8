//! The ways of coding a weight as an unsigned level, and what a group's integer dots stand for.
use super::{
    bits,
    levels::MX_ZERO,
    planes::{Decoder, spread, words},
    shifts,
};
use crate::{
    Format, Scheme,
    isa::{Isa, Kernel, Level, dispatch},
};
use std::marker::PhantomData;

/// A way of coding weights as unsigned levels.
pub trait Codec {
    const BITS: usize;
    type Scaling: Scaling;
    /// Levels of the four steps of a macro-step of `32 * BITS` bytes.
    fn levels<I: Isa>(isa: I, decoder: &mut Decoder<I>, codes: &[u8]) -> [I::B; 4];
}

/// What integer dots of levels and inputs stand for.
pub trait Scaling {
    /// Whether levels are above 127.
    const WIDE: bool;

    /// What integer sums start with, `sum` being that of the span.
    fn start<I: Isa>(isa: I, sum: u32) -> I::I;

    /// Scales and offsets of the rows, from what `scheme` keeps in `group`.
    fn group<I: Isa>(isa: I, scheme: Scheme, group: &[u8]) -> [I::F; 2];

    /// A token's float sum with the dot of a span added, as inputs that are made ready have it.
    fn add<I: Isa>(isa: I, group: [I::F; 2], dot: I::I, span: [u32; 2], to: I::F) -> I::F;

    #[inline(always)]
    fn dot<I: Isa>(isa: I, acc: I::I, levels: I::B, x: I::B) -> I::I {
        if Self::WIDE { isa.dot_u8(acc, levels, x) } else { isa.dot_u7(acc, levels, x) }
    }
}

/// `scale * code + offset`, however a scheme keeps the two.
pub struct Affine<const BITS: usize>;
/// The same with codes above 127.
pub struct AffineScaling<const WIDE: bool>;

impl<const BITS: usize> Codec for Affine<BITS> {
    const BITS: usize = BITS;
    // 6 bits and less need no wide products.
    type Scaling = AffineScaling<false>;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, _: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        plain::<I, BITS>(isa, bytes)
    }
}

/// [`Affine`] of 8 bits.
pub struct Affine8;

impl Codec for Affine8 {
    const BITS: usize = 8;
    type Scaling = AffineScaling<true>;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, _: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        plain::<I, 8>(isa, bytes)
    }
}

impl<const W: bool> Scaling for AffineScaling<W> {
    const WIDE: bool = W;
    #[inline(always)]
    fn start<I: Isa>(isa: I, _: u32) -> I::I {
        isa.splat_i(0)
    }
    #[inline(always)]
    fn group<I: Isa>(isa: I, scheme: Scheme, group: &[u8]) -> [I::F; 2] {
        match scheme {
            Scheme::AffineBf16 => [isa.load_bf16(&words(group)), isa.load_bf16(&words(&group[32..]))],
            Scheme::Gptq | Scheme::GptqOrdered => {
                let scale = isa.load_f16(&words(group));
                let bits = (group.len() - 32) / 2;
                // Exact: 8 bits of a zero times 11 of a scale.
                [scale, isa.mul(scale, isa.to_f(isa.load_i(&zeros(bits, &group[32..]).map(|z| -z))))]
            }
            Scheme::Symmetric => {
                let scale = isa.load_f16(&words(group));
                [scale, isa.mul(scale, isa.splat(if W { -128.0 } else { -8.0 }))]
            }
            Scheme::Affine => [isa.load_f16(&words(group)), isa.load_f16(&words(&group[32..]))],
            Scheme::Mx => {
                let exponents: &[u8; 16] = group.first_chunk().expect("16 exponents per group");
                let scale = isa.load(&exponents.map(mx_scale));
                [scale, isa.mul(scale, isa.splat(-f32::from(MX_ZERO)))]
            }
            Scheme::Trellis | Scheme::Signed | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{scheme:?} has no offsets"),
        }
    }
    #[inline(always)]
    fn add<I: Isa>(isa: I, [scale, offset]: [I::F; 2], dot: I::I, [x_scale, sum]: [u32; 2], to: I::F) -> I::F {
        let to = isa.fma(isa.to_f(dot), isa.mul(scale, isa.splat(f32::from_bits(x_scale))), to);
        isa.fma(isa.splat(f32::from_bits(sum)), offset, to)
    }
}

/// Floats of 4 bits: what they are, doubled, is a level.
pub struct Mx;

impl Codec for Mx {
    const BITS: usize = 4;
    type Scaling = AffineScaling<false>;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        plain::<I, 4>(isa, bytes).map(|codes| isa.look::<16>(d.table, codes))
    }
}

/// What levels of [`Mx`] are multiplied with, by the byte of a group: half of its power of two.
#[inline(always)]
pub fn mx_scale(exponent: u8) -> f32 {
    // 2^(e - 128): of f32's exponents the one below, and no number as small as that has one.
    if exponent > 1 { f32::from_bits((u32::from(exponent) - 1) << 23) } else { f32::from_bits((1 + u32::from(exponent)) << 21) }
}

/// 16 numbers of `bits` bits, low bits first.
#[inline(always)]
pub fn zeros(bits: usize, bytes: &[u8]) -> [i32; 16] {
    let mut whole = [0; 16];
    whole[..2 * bits].copy_from_slice(&bytes[..2 * bits]);
    let whole = u128::from_le_bytes(whole);
    std::array::from_fn(|i| (whole >> (i * bits)) as i32 & ((1 << bits) - 1))
}

/// Trellis-coded levels of 2 to 6 bits.
pub struct Trellis<const BITS: usize>;
/// Plain codes of 7 bits.
pub struct Plain7;
/// Plain codes of 8 bits.
pub struct Plain8;
/// `scale * (level - 64)`; wide: 128 instead.
pub struct Centred<const WIDE: bool>;

impl<const BITS: usize> Codec for Trellis<BITS> {
    const BITS: usize = BITS;
    type Scaling = Centred<false>;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, d: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        if I::BITS {
            return bits::levels::<I, BITS>(isa, d, bytes);
        }
        shifts::levels::<I, BITS>(isa, d, bytes)
    }
}

impl Codec for Plain7 {
    const BITS: usize = 7;
    type Scaling = Centred<false>;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, _: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        plain::<I, 7>(isa, bytes)
    }
}

impl Codec for Plain8 {
    const BITS: usize = 8;
    type Scaling = Centred<true>;
    #[inline(always)]
    fn levels<I: Isa>(isa: I, _: &mut Decoder<I>, bytes: &[u8]) -> [I::B; 4] {
        plain::<I, 8>(isa, bytes)
    }
}

impl<const W: bool> Scaling for Centred<W> {
    const WIDE: bool = W;
    /// Sums start with what the zero point takes off.
    #[inline(always)]
    fn start<I: Isa>(isa: I, sum: u32) -> I::I {
        let sum = sum as i32;
        // Of -64 for each input: levels are centred at 64, or at 128 as far as products do not take that off.
        isa.splat_i(if W { (128 - I::CENTRE) / 64 * sum } else { sum })
    }
    #[inline(always)]
    fn group<I: Isa>(isa: I, scheme: Scheme, group: &[u8]) -> [I::F; 2] {
        debug_assert!(scheme.is_rotated());
        let scales: &[u8; 16] = group.first_chunk().expect("16 scales per group");
        [isa.load_i8(&scales.map(|s| s as i8)), isa.splat(0.0)]
    }
    #[inline(always)]
    fn add<I: Isa>(isa: I, [scale, _]: [I::F; 2], dot: I::I, [x_scale, _]: [u32; 2], to: I::F) -> I::F {
        // Exact in f32: dots of up to 128 inputs are below 2^24.
        isa.fma(isa.to_f(dot), isa.mul(scale, isa.splat(f32::from_bits(x_scale))), to)
    }
    #[inline(always)]
    fn dot<I: Isa>(isa: I, acc: I::I, levels: I::B, x: I::B) -> I::I {
        if W { isa.dot_c8(acc, levels, x) } else { isa.dot_u7(acc, levels, x) }
    }
}

/// Codes of the four steps of a macro-step, nothing else in their bytes.
#[inline(always)]
fn plain<I: Isa, const BITS: usize>(isa: I, bytes: &[u8]) -> [I::B; 4] {
    let mut codes = spread::<I, BITS>(isa, bytes, 0);
    if BITS < 8 {
        for v in &mut codes {
            *v = isa.and_b(*v, isa.splat_b(((1u32 << BITS) - 1) as u8));
        }
    }
    codes
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
            _ => unreachable!("{format} has no codec"),
        },
        Scheme::Signed => match format.bits() {
            7 => with::<Plain7>(level, kernel),
            8 => with::<Plain8>(level, kernel),
            _ => unreachable!("{format} has no codec"),
        },
        Scheme::Mx => with::<Mx>(level, kernel),
        Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric => match format.bits() {
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
