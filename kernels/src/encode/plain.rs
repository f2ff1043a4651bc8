//! The codes of 7 and 8 bits: plain rounding to signed numbers, with the scales of the trellis formats.
use super::{
    coding::{Coding, SPAN},
    search::stored,
    trellis::{outermost, row_scales, squares},
};
use crate::{Format, isa::Isa};

/// Codes a tile of rotated weights, `x` being (padded inputs) of 16 rows; each group with the best of the scales that put
/// its largest magnitude at the last code times one of `factors`.
#[inline(always)]
pub fn round<I: Isa>(isa: I, format: Format, factors: &[f32], x: &[[f32; 16]], c: &mut Coding) {
    c.resize(format, x.len());
    let most = if format.bits() == 8 { 127.0f32 } else { 63.0 };
    outermost(isa, format, x, SPAN / most, &mut c.spans);
    row_scales(isa, factors.iter().fold(0.0, |a, &b| a.max(b)), c);
    let row = isa.load(&c.row_scales);
    for (g, (x, codes)) in x.chunks(format.group()).zip(c.codes.chunks_mut(format.group() / 4)).enumerate() {
        let first = isa.load(&c.spans[g]);
        let (mut scale, mut span, mut least) = ([0; 16], first, isa.splat(f32::INFINITY));
        for &factor in factors {
            let (tried_scale, tried) = stored(isa, isa.mul(first, isa.splat(factor)), row);
            let error = if factors.len() > 1 { error(isa, most, tried, x) } else { isa.splat(0.0) };
            let better = isa.lt(error, least);
            least = isa.min(error, least);
            span = isa.select(better, tried, span);
            for (r, s) in scale.iter_mut().enumerate() {
                *s = if better >> r & 1 == 1 { tried_scale[r] } else { *s };
            }
        }
        c.scales[g] = scale;
        let inverse = isa.div(isa.splat(SPAN), span);
        let zero = isa.splat_i(most as i32 + 1);
        for (x, codes) in x.as_chunks::<4>().0.iter().zip(codes) {
            let mut all = isa.splat_i(0);
            for x in x.iter().rev() {
                all = isa.or_i(isa.shl_i::<8>(all), isa.add_i(code(isa, most, isa.load(x), inverse), zero));
            }
            isa.store_i(all, codes);
        }
    }
}

/// The nearest signed code.
#[inline(always)]
fn code<I: Isa>(isa: I, most: f32, x: I::F, inverse: I::F) -> I::I {
    isa.round(isa.max(isa.min(isa.mul(x, inverse), isa.splat(most)), isa.splat(-most)))
}

/// Squared errors of a group's 16 rows.
#[inline(always)]
fn error<I: Isa>(isa: I, most: f32, span: I::F, x: &[[f32; 16]]) -> I::F {
    let (inverse, scale) = (isa.div(isa.splat(SPAN), span), isa.mul(span, isa.splat(-1.0 / SPAN)));
    let mut sum = isa.splat(0.0);
    for x in x {
        let x = isa.load(x);
        let d = isa.fma(isa.to_f(code(isa, most, x, inverse)), scale, x);
        sum = isa.fma(d, d, sum);
    }
    sum
}

/// Squared error of a coding of 7 or 8 bits as it is stored, and |x|^2.
#[inline(always)]
pub fn error_of<I: Isa>(isa: I, format: Format, x: &[[f32; 16]], c: &Coding) -> [f64; 2] {
    let zero = isa.splat_i(1 << (format.bits() - 1));
    let rows = isa.load(&c.row_scales);
    let mut sum = 0.0;
    for ((x, codes), scale) in x.chunks(format.group()).zip(c.codes.chunks(format.group() / 4)).zip(&c.scales) {
        let scale = isa.mul(isa.sub(isa.splat(0.0), rows), isa.load_i8(scale));
        let mut errors = isa.splat(0.0);
        for (x, codes) in x.as_chunks::<4>().0.iter().zip(codes) {
            let mut codes = isa.load_i(codes);
            for x in x {
                let level = isa.to_f(isa.sub_i(isa.and_i(codes, isa.splat_i(255)), zero));
                let d = isa.fma(level, scale, isa.load(x));
                errors = isa.fma(d, d, errors);
                codes = isa.shr_i::<8>(codes);
            }
        }
        sum += f64::from(isa.sum(errors));
    }
    [sum, squares(isa, x).iter().sum()]
}
