//! Matrices of 8-bit numbers (E4M3: a sign, four bits of exponent, three of mantissa) with a scale for every block of outputs and inputs.
use super::Checkpoint;
use crate::Error;
use ram_models::Quantization;
use safetensors::Dtype;

/// Numbers by their bytes; two are none.
pub const VALUES: [f32; 256] = {
    let (mut values, mut byte) = ([0.0; 256], 0);
    while byte < 256 {
        let (exponent, mantissa) = (byte >> 3 & 15, byte & 7);
        // By the bits of an f32 of the same value; below the least exponent, eighths of it.
        let size = if exponent > 0 { f32::from_bits(((exponent + 120) << 23 | mantissa << 20) as u32) } else { mantissa as f32 / 512.0 };
        let size = if byte & 127 == 127 { f32::NAN } else { size };
        values[byte] = if byte < 128 { size } else { -size };
        byte += 1;
    }
    values
};

/// The tensor of a matrix' scales.
pub fn scales_of(name: &str) -> String {
    format!("{name}_scale_inv")
}

/// The outputs and inputs of a block, of a matrix that has blocks.
///
/// # Errors
/// Where its scales are not those of its blocks.
pub fn block(checkpoint: &Checkpoint, name: &str) -> Result<Option<[usize; 2]>, Error> {
    let name = checkpoint.origin(name);
    let Some(info) = checkpoint.find(name).filter(|info| info.dtype == Dtype::F8_E4M3) else { return Ok(None) };
    let wrong = |name: &str, reason: String| Err(Error::Tensor { name: name.into(), reason });
    let Some(Quantization::Fp8(fp8)) = &checkpoint.description().quantization else {
        return wrong(name, "holds numbers of 8 bits, and config.json has no quantization_config of fp8".into());
    };
    let (scales, expected) = (scales_of(name), [0, 1].map(|i| info.shape.get(i).unwrap_or(&0).div_ceil(fp8.block[i])));
    match checkpoint.find(&scales) {
        None => Err(Error::MissingTensor(scales)),
        Some(own) if own.shape != expected => {
            wrong(&scales, format!("has shape {:?}, and blocks of {:?} ask for {expected:?}", own.shape, fp8.block))
        }
        Some(own) if !matches!(own.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) => {
            wrong(&scales, format!("holds {:?}, and must hold F32, BF16 or F16", own.dtype))
        }
        Some(_) => Ok(Some(fp8.block)),
    }
}

/// Multiplies rows of a matrix, of `cols` numbers each, with their blocks' scales.
pub fn scale([block_rows, block_cols]: [usize; 2], scales: &[f32], rows: impl Iterator<Item = usize>, cols: usize, out: &mut [f32]) {
    let across = cols.div_ceil(block_cols);
    for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
        let scales = &scales[row / block_rows * across..][..across];
        for (out, scale) in out.chunks_mut(block_cols).zip(scales) {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VALUES;

    #[test]
    fn bytes_are_the_numbers_of_the_format() {
        let known =
            [(0x00, 0.0), (0x01, 0.001_953_125), (0x07, 0.013_671_875), (0x08, 0.015_625), (0x38, 1.0), (0x39, 1.125), (0x7e, 448.0), (0xbc, -1.5)];
        assert!(known.iter().all(|(byte, value)| VALUES[*byte] == *value));
        assert!(VALUES[0x7f].is_nan() && VALUES[0xff].is_nan() && VALUES.iter().filter(|v| v.is_nan()).count() == 2);
        assert!(VALUES[..0x7f].is_sorted());
    }
}
