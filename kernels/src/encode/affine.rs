//! The affine quantizer: `scale * code + offset`, 16-bit scale and offset per group, as RAM and MLX round; and GPTQ's grid.
use crate::{Format, Scheme};
use half::{bf16, f16};

/// Codes of one row's group, and the bits of its scale and of its offset (GPTQ: its scale, and its zero).
///
/// Counting starts at the edge of larger magnitude, and the step is bent a little so that 0 is a level.
pub fn encode(group: &[f32], format: Format, codes: &mut [u8]) -> (u16, u16) {
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
        Scheme::Trellis | Scheme::Signed | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no offsets"),
    };
    let step = ((hi - lo) / n).max(1e-7);
    let (edge, mut step) = if lo.abs() > hi.abs() { (lo, step) } else { (hi, -step) };
    let k = (edge / step).round_ties_even();
    let mut offset = 0.0;
    if k != 0.0 {
        step = edge / k;
        offset = edge;
    }
    let ((step, s), (offset, o)) = (round(step), round(offset));
    for (code, &w) in codes.iter_mut().zip(group) {
        let exact = if s == 0.0 { 0.0 } else { (w - o) / s };
        *code = exact.round_ties_even().clamp(0.0, n) as u8;
    }
    (step, offset)
}
