//! Queries as pages are multiplied with them, and the floats of pages.
use crate::isa::Isa;

/// N queries as a page wants them.
pub struct Queries<'a, const N: usize> {
    /// head_dim numbers each; of latents with zeros behind them.
    pub floats: [&'a [f32]; N],
    /// Rotated and in 8 bits, four codes a word, where pages have codes.
    pub words: [&'a [u32]; N],
    /// The same as bytes, of latents.
    pub bytes: [&'a [[u8; 64]]; N],
    /// What is taken off a product of codes.
    pub off: [i32; N],
    /// What a product is multiplied with.
    pub factor: [f32; N],
    /// What is added to a score.
    pub more: [f32; N],
}

/// A float as it is held.
pub trait Float: Copy {
    fn load<I: Isa>(isa: I, v: &[Self; 16]) -> I::F;
}

impl Float for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, v: &[u16; 16]) -> I::F {
        isa.load_f16(v)
    }
}

impl Float for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, v: &[f32; 16]) -> I::F {
        isa.load(v)
    }
}
