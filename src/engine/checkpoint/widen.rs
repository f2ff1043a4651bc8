//! Stored numbers as f32.
use super::fp8;
use crate::Error;
use half::{bf16, f16};
use safetensors::Dtype;

/// The exponent of f32, and what it is in an infinity or a NaN.
const EXPONENT: u32 = 0x7f80_0000;

/// Whether stored numbers of 16 or 32 bits are finite.
pub fn are_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    let of = |exponent: u16| !bytes.as_chunks().0.iter().fold(false, |bad, b| bad | (u16::from_le_bytes(*b) & exponent == exponent));
    match dtype {
        Dtype::BF16 => of(0x7f80),
        Dtype::F16 => of(0x7c00),
        _ => !bytes.as_chunks().0.iter().fold(false, |bad, b| bad | (u32::from_le_bytes(*b) & EXPONENT == EXPONENT)),
    }
}

/// Stored numbers as f32; every one must be finite.
pub fn widen(name: &str, dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match dtype {
        Dtype::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = f32::from_le_bytes(*b)),
        Dtype::F8_E4M3 => out.iter_mut().zip(bytes).for_each(|(to, b)| *to = fp8::VALUES[usize::from(*b)]),
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = f16::from_le_bytes(*b).to_f32()),
        _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = bf16::from_le_bytes(*b).to_f32()),
    }
    // Exponents of ones, without a branch or a chain of sums: 16 weights and more at once.
    if !out.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT)) {
        return Ok(());
    }
    let bad = out.iter().find(|v| !v.is_finite()).copied().unwrap_or(f32::NAN);
    Err(Error::Tensor { name: name.to_string(), reason: format!("holds {bad}, so the checkpoint is damaged: fetch it again") })
}
