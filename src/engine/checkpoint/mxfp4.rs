//! Matrices of 4-bit numbers (E2M1: a sign, two bits of exponent, one of mantissa), two in a byte, with a power of two for every 32 inputs (OCP
//! Microscaling Formats 1.0): (rows, inputs / 32, 16) bytes and (rows, inputs / 32) scales.
use super::{Checkpoint, Source};
use crate::Error;
use ram_kernels::{E2M1, Format, Groups, place};
use ram_models::Quantization;
use safetensors::Dtype;

/// Numbers that a scale is for.
const BLOCK: usize = 32;
/// What scales' exponents are less; the last one is none.
const BIAS: i32 = 127;

/// The tensor of a matrix' scales.
pub fn scales_of(name: &str) -> String {
    format!("{name}_scales")
}

/// The shape of a matrix that is stored so.
///
/// # Errors
/// Where its parts do not belong together.
pub fn shape(checkpoint: &Checkpoint, name: &str) -> Result<Option<[usize; 2]>, Error> {
    let Some(info) = checkpoint.find(name).filter(|info| info.dtype == Dtype::U8) else { return Ok(None) };
    let wrong = |name: &str, reason: String| Err(Error::Tensor { name: name.into(), reason });
    if checkpoint.description().quantization != Some(Quantization::Mxfp4) {
        return wrong(name, "holds bytes, and config.json has no quantization_config of mxfp4".into());
    }
    let [rows, blocks, 16] = info.shape[..] else {
        return wrong(name, format!("has shape {:?}, and must have rows, blocks and 16 bytes", info.shape));
    };
    let scales = scales_of(name);
    match checkpoint.find(&scales) {
        None => Err(Error::MissingTensor(scales)),
        Some(own) if own.shape != [rows, blocks] || own.dtype != Dtype::U8 => {
            wrong(&scales, format!("has {:?} of shape {:?}, and must have U8 of [{rows}, {blocks}]", own.dtype, own.shape))
        }
        Some(_) => Ok(Some([rows, BLOCK * blocks])),
    }
}

/// Rows from `first`, as many as `out` has of `cols` numbers.
///
/// # Errors
/// Where they cannot be read, or a scale is no number.
pub fn numbers(checkpoint: &Checkpoint, source: Option<&Source>, name: &str, first: usize, cols: usize, out: &mut [f32]) -> Result<(), Error> {
    let (codes, scales) = parts(checkpoint, source, name, [first, out.len() / cols], cols)?;
    for ((out, codes), scale) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes.as_chunks::<BLOCK>().0).zip(&scales) {
        let scale = f64::from(i32::from(*scale) - BIAS).exp2() as f32;
        out.iter_mut().zip(codes).for_each(|(to, code)| *to = E2M1[usize::from(*code)] * scale);
    }
    Ok(())
}

/// Rows from `first`, a multiple of 16, as they are, into tiles of [`Format::MXFP4`].
///
/// # Errors
/// As for [`numbers`].
pub fn read(checkpoint: &Checkpoint, source: Option<&Source>, name: &str, rows: [usize; 2], cols: usize, out: &mut [u8]) -> Result<(), Error> {
    let (codes, scales) = parts(checkpoint, source, name, rows, cols)?;
    let scales: Vec<u16> = scales.into_iter().map(u16::from).collect();
    place(Format::MXFP4, cols, &codes, Groups { scales: &scales, offsets: &[] }, out);
    Ok(())
}

/// Codes and scales of rows.
fn parts(checkpoint: &Checkpoint, source: Option<&Source>, name: &str, [first, rows]: [usize; 2], cols: usize) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let blocks = cols / BLOCK;
    let (mut pairs, mut scales) = (vec![0; rows * cols / 2], vec![0; rows * blocks]);
    checkpoint.read_from(source, name, (first * cols / 2) as u64, &mut pairs)?;
    checkpoint.read_from(source, &scales_of(name), (first * blocks) as u64, &mut scales)?;
    if scales.contains(&u8::MAX) {
        let reason = "holds a scale that is no number, so the checkpoint is damaged: fetch it again".into();
        return Err(Error::Tensor { name: scales_of(name), reason });
    }
    Ok((pairs.iter().flat_map(|pair| [pair & 15, pair >> 4]).collect(), scales))
}
