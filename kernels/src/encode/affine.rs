//! The affine quantizer as RAM and MLX round: `scale * code + offset`, 16-bit scale and offset per group; GPTQ's grid; and floats of 4 bits.
use crate::{Format, Scheme, decode::E2M1};
use half::{bf16, f16};

/// Codes of one row's group, and the bits of its scale and of its offset (GPTQ: its scale, and its zero; floats of 4 bits: their exponent).
///
/// Counting starts at the edge of larger magnitude, and the step is bent a little so that 0 is a level.
pub fn encode(group: &[f32], format: Format, codes: &mut [u8]) -> (u16, u16) {
    if format.scheme() == Scheme::Mx {
        return (floats(group, codes), 0);
    }
    let n = ((1u32 << format.bits()) - 1) as f32;
    let (lo, hi) = group.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &w| (lo.min(w), hi.max(w)));
    let round: fn(f32) -> (u16, f32) = match format.scheme() {
        Scheme::Gptq | Scheme::GptqOrdered => {
            let (lo, hi) = (lo.min(0.0), hi.max(0.0));
            let scale = f16::from_f32(((hi - lo) / n).max(1e-7));
            let s = scale.to_f32();
            let zero = (-lo / s).round_ties_even().clamp(0.0, n);
            codes.iter_mut().zip(group).for_each(|(code, w)| *code = ((w / s).round_ties_even() + zero).clamp(0.0, n) as u8);
            return (scale.to_bits(), zero as u16);
        }
        Scheme::Affine => |v| (f16::from_f32(v).to_bits(), f16::from_f32(v).to_f32()),
        Scheme::AffineBf16 => |v| (bf16::from_f32(v).to_bits(), bf16::from_f32(v).to_f32()),
        Scheme::Trellis | Scheme::Signed | Scheme::Symmetric | Scheme::Mx | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => {
            unreachable!("{format} has no offsets")
        }
    };
    let ((step, s), (offset, o)) = rule(lo, hi, format.bits()).map(round).into();
    for (code, &w) in codes.iter_mut().zip(group) {
        let exact = if s == 0.0 { 0.0 } else { (w - o) / s };
        *code = exact.round_ties_even().clamp(0.0, n) as u8;
    }
    (step, offset)
}

/// Scale and offset of a group from its least to its largest weight, not rounded yet.
pub fn rule(lo: f32, hi: f32, bits: usize) -> [f32; 2] {
    let n = ((1u32 << bits) - 1) as f32;
    let step = ((hi - lo) / n).max(1e-7);
    let (edge, step) = if lo.abs() > hi.abs() { (lo, step) } else { (hi, -step) };
    let k = (edge / step).round_ties_even();
    if k == 0.0 { [step, 0.0] } else { [edge / k, edge] }
}

/// Codes of floats of 4 bits, and the exponent plus 127 of the power of two that they are multiplied with: of the two that put the largest
/// number next to the largest float the one with the smaller error. Numbers that are such floats already stay what they are.
fn floats(group: &[f32], codes: &mut [u8]) -> u16 {
    let most = group.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    // The largest float is 1.5 times 2^2.
    let first = (most.max(f32::MIN_POSITIVE).log2().floor() as i32 - 2).clamp(-127, 126);
    let code = |w: f32, scale: f32| {
        let size = w.abs() / scale;
        let nearest = E2M1[..8].iter().zip(&E2M1[1..8]).filter(|(low, high)| size > (**low + **high) / 2.0).count() as u8;
        if w < 0.0 { nearest + 8 } else { nearest }
    };
    let error = |exponent: i32| {
        let scale = (exponent as f32).exp2();
        group.iter().map(|w| f64::from(w.abs() - scale * E2M1[usize::from(code(*w, scale) % 8)]).powi(2)).sum::<f64>()
    };
    let exponent = if error(first + 1) < error(first) { first + 1 } else { first };
    codes.iter_mut().zip(group).for_each(|(to, w)| *to = code(*w, (exponent as f32).exp2()));
    (exponent + 127) as u16
}
