//! Stored numbers as f32.
use super::fp8;
use crate::Error;
use half::{bf16, f16};
use safetensors::Dtype;

/// Stored numbers as f32; every one must be finite.
pub fn widen(name: &str, dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match dtype {
        Dtype::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = f32::from_le_bytes(*b)),
        Dtype::F8_E4M3 => out.iter_mut().zip(bytes).for_each(|(to, b)| *to = fp8::VALUES[usize::from(*b)]),
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = f16::from_le_bytes(*b).to_f32()),
        _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = bf16::from_le_bytes(*b).to_f32()),
    }
    // A sum that is not finite marks a bad number without a branch per weight; finite weights cannot overflow it in f64.
    if out.iter().map(|&v| f64::from(v)).sum::<f64>().is_finite() {
        return Ok(());
    }
    let bad = out.iter().find(|v| !v.is_finite()).copied().unwrap_or(f32::NAN);
    Err(Error::Tensor { name: name.to_string(), reason: format!("holds {bad}, so the checkpoint is damaged: fetch it again") })
}
