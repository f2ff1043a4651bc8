//! Numbers of a checkpoint, as f32.
use super::{
    Checkpoint, Source,
    coded::{self, Coded},
    columns, fp8, head_rows, mxfp4,
    widen::{are_finite, widen},
};
use crate::Error;
use ram_kernels::dequantize_row;
use ram_models::description::ByHead;
use safetensors::Dtype;

/// Rows of a matrix to look at: about `count`, in runs of `run` that are evenly spaced, so that a file far away is asked for
/// few parts.
pub fn sampled_rows(rows: usize, count: usize, run: usize) -> Vec<usize> {
    if rows <= count {
        return (0..rows).collect();
    }
    let runs = (count / run).max(2);
    (0..runs).flat_map(|i| (0..run).map(move |j| i * (rows - run) / (runs - 1) + j)).collect()
}

/// The given rows of a matrix, as (rows, cols) f32.
///
/// # Errors
/// Where they cannot be read or hold a number that is not finite.
pub fn read_rows(checkpoint: &Checkpoint, name: &str, cols: usize, rows: &[usize]) -> Result<Vec<f32>, Error> {
    if let Some(q) = checkpoint.coded(name) {
        return coded_sample(checkpoint, q, cols, rows);
    }
    if let Some(part) = &checkpoint.info(name).by_head {
        let mut out = vec![0.0; rows.len() * cols];
        head_rows::numbers(part, rows.iter().copied(), cols, &mut out, &mut of_heads(checkpoint, None, part))?;
        return Ok(out);
    }
    if let Some(columns) = checkpoint.info(name).columns {
        let mut out = vec![0.0; rows.len() * cols];
        let mut rest = &mut out[..];
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let (own, after) = rest.split_at_mut(run.len() * cols);
            columns::numbers(checkpoint, None, (name, columns), [run[0], cols], own)?;
            rest = after;
        }
        return Ok(out);
    }
    if mxfp4::shape(checkpoint, name)?.is_some() {
        let mut out = vec![0.0; rows.len() * cols];
        // Rows that lie together are read together: a file may be far away.
        let mut rest = &mut out[..];
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let (own, after) = rest.split_at_mut(run.len() * cols);
            mxfp4::numbers(checkpoint, None, name, run[0], cols, own)?;
            rest = after;
        }
        return Ok(out);
    }
    let dtype = checkpoint.info(name).dtype;
    let row_bytes = cols * size(dtype);
    let mut bytes = vec![0; rows.len() * row_bytes];
    checkpoint.read_rows(name, row_bytes, rows, &mut bytes)?;
    let mut out = vec![0.0; rows.len() * cols];
    widen(name, dtype, &bytes, &mut out)?;
    if let Some(block) = fp8::block(checkpoint, name)? {
        let scales = vector_from(checkpoint, None, &fp8::scales_of(name))?;
        fp8::scale(block, &scales, rows.iter().copied(), cols, &mut out);
    }
    Ok(out)
}

/// Rows of a matrix from `first`, as many as `out` has of `cols` numbers; `bytes` are as they are stored then, or none where they do not lie
/// like that.
///
/// # Errors
/// Where they cannot be read or hold a number that is not finite.
pub fn numbers(
    checkpoint: &Checkpoint,
    source: Option<&Source>,
    name: &str,
    [first, cols]: [usize; 2],
    bytes: &mut Vec<u8>,
    out: &mut [f32],
) -> Result<(), Error> {
    let dtype = checkpoint.info(name).dtype;
    if let Some(part) = &checkpoint.info(name).by_head {
        bytes.clear();
        return head_rows::numbers(part, first.., cols, out, &mut of_heads(checkpoint, source, part));
    }
    if let Some(columns) = checkpoint.info(name).columns {
        bytes.clear();
        return columns::numbers(checkpoint, source, (name, columns), [first, cols], out);
    }
    if mxfp4::shape(checkpoint, name)?.is_some() {
        bytes.clear();
        return mxfp4::numbers(checkpoint, source, name, first, cols, out);
    }
    bytes.resize(out.len() * size(dtype), 0);
    checkpoint.read_from(source, name, (first * cols * size(dtype)) as u64, bytes)?;
    widen(name, dtype, bytes, out)?;
    if let Some(block) = fp8::block(checkpoint, name)? {
        // Those of these rows' blocks alone.
        let (over, across, rows) = (first / block[0], cols.div_ceil(block[1]), out.len() / cols);
        let mut scales = vec![0.0; ((first + rows).div_ceil(block[0]) - over) * across];
        numbers(checkpoint, source, &fp8::scales_of(name), [over, across], &mut Vec::new(), &mut scales)?;
        fp8::scale(block, &scales, first - over * block[0].., cols, out);
    }
    Ok(())
}

/// Rows of a matrix from `first` as they are stored, where they are numbers of 16 or 32 bits that lie one after the other; whether they are.
///
/// # Errors
/// Where they cannot be read or hold a number that is not finite.
pub fn stored(checkpoint: &Checkpoint, name: &str, [first, cols]: [usize; 2], out: &mut [u8]) -> Result<bool, Error> {
    let info = checkpoint.info(name);
    if info.by_head.is_some() || info.columns.is_some() || !matches!(info.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
        return Ok(false);
    }
    checkpoint.read(name, (first * cols * size(info.dtype)) as u64, out)?;
    if !are_finite(info.dtype, out) {
        widen(name, info.dtype, out, &mut vec![0.0; out.len() / size(info.dtype)])?;
    }
    Ok(true)
}

/// Reads rows of the tensor that a part by head lies in, from a number on.
fn of_heads<'a>(checkpoint: &'a Checkpoint, source: Option<&'a Source>, part: &'a ByHead) -> impl FnMut(usize, &mut [f32]) -> Result<(), Error> + 'a {
    let mut bytes = Vec::new();
    move |first, out| numbers(checkpoint, source, &part.name, [first, part.stored], &mut bytes, out)
}

/// Rows of a matrix that is quantized already, tile by tile.
fn coded_sample(checkpoint: &Checkpoint, q: &Coded, cols: usize, rows: &[usize]) -> Result<Vec<f32>, Error> {
    let (mut out, mut tile) = (vec![0.0; rows.len() * cols], Vec::new());
    let mut read = None;
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(cols)) {
        let first = row / 16 * 16;
        let n = 16.min(q.rows - first);
        if read != Some(first) {
            tile.resize(q.format.bytes(n, cols), 0);
            coded::read(checkpoint, None, q, [first, n], cols, &mut tile)?;
            read = Some(first);
        }
        dequantize_row(q.format, n, cols, &tile, row - first, out);
    }
    Ok(out)
}

/// A norm's or a bias' weights.
///
/// # Errors
/// Where they cannot be read or hold a number that is not finite.
pub fn read_vector(checkpoint: &Checkpoint, name: &str) -> Result<Vec<f32>, Error> {
    vector_from(checkpoint, None, name)
}

pub fn vector_from(checkpoint: &Checkpoint, source: Option<&Source>, name: &str) -> Result<Vec<f32>, Error> {
    let info = checkpoint.info(name);
    let len: usize = info.shape.iter().product();
    let mut bytes = vec![0; len * size(info.dtype)];
    checkpoint.read_from(source, name, 0, &mut bytes)?;
    let mut out = vec![0.0; len];
    widen(name, info.dtype, &bytes, &mut out)?;
    if info.less_one {
        out.iter_mut().for_each(|w| *w += 1.0);
    }
    Ok(out)
}

fn size(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}
