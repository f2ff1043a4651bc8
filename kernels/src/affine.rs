//! The affine quantizer: `scale * code + offset`, f16 scale and offset per group, as RAM and MLX round.
use half::f16;

/// Codes of one row's group and its scale and offset.
///
/// Counting starts at the edge of larger magnitude, and the step is bent a little so that 0 is a level.
pub fn encode(group: &[f32], bits: usize, codes: &mut [u8]) -> (f16, f16) {
    let n = ((1u32 << bits) - 1) as f32;
    let (lo, hi) = group.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &w| (lo.min(w), hi.max(w)));
    let step = ((hi - lo) / n).max(1e-7);
    let (edge, mut step) = if lo.abs() > hi.abs() { (lo, step) } else { (hi, -step) };
    let k = (edge / step).round_ties_even();
    let mut offset = 0.0;
    if k != 0.0 {
        step = edge / k;
        offset = edge;
    }
    let (step, offset) = (f16::from_f32(step), f16::from_f32(offset));
    let (s, o) = (step.to_f32(), offset.to_f32());
    for (code, &w) in codes.iter_mut().zip(group) {
        let exact = if s == 0.0 { 0.0 } else { (w - o) / s };
        *code = exact.round_ties_even().clamp(0.0, n) as u8;
    }
    (step, offset)
}
