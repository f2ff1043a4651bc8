//! Matrices whose rows are columns of what is stored, as all experts of a layer lie in one tensor with their inputs first.
use super::{Checkpoint, Source, TensorInfo, widen::widen};
use crate::Error;

/// Where the rows are.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// The column of the first one.
    first: usize,
    /// From one to the next.
    step: usize,
    /// Columns that are stored.
    stored: usize,
}

/// The part of an expert in a tensor (experts, in, parts of out): which part of how many, and whether their columns take turns.
pub fn cut(all: &TensorInfo, expert: usize, experts: usize, [part, parts]: [usize; 2], turns: bool) -> Option<TensorInfo> {
    let [count, inputs, stored] = all.shape[..] else { return None };
    if count != experts || !stored.is_multiple_of(parts) {
        return None;
    }
    let rows = stored / parts;
    let columns = if turns { Columns { first: part, step: parts, stored } } else { Columns { first: part * rows, step: 1, stored } };
    let (block, len) = (all.len / experts as u64, all.len / (experts * parts) as u64);
    Some(TensorInfo { shape: vec![rows, inputs], offset: all.offset + expert as u64 * block, len, columns: Some(columns), ..all.clone() })
}

/// Rows that follow each other from `first`, as many as `out` has of `cols` numbers.
///
/// # Errors
/// Where they cannot be read, are at the hub, or hold a number that is not finite.
pub fn numbers(
    checkpoint: &Checkpoint,
    source: Option<&Source>,
    (name, Columns { first: column, step, stored }): (&str, Columns),
    [first, cols]: [usize; 2],
    out: &mut [f32],
) -> Result<(), Error> {
    let info = checkpoint.info(name);
    let (source, rows, size) = (source.unwrap_or(&checkpoint.files[info.file]), out.len() / cols, info.dtype.bitsize() / 8);
    if matches!(source, Source::Remote(_)) {
        let reason = "has its inputs first, so that no part of it can be fetched alone: fetch the model, and give its folder".into();
        return Err(Error::Tensor { name: name.into(), reason });
    }
    let mut bytes = vec![0; ((rows - 1) * step + 1) * size];
    let mut row = vec![0.0; bytes.len() / size];
    for c in 0..cols {
        let at = (c * stored + column + first * step) * size;
        source.read_exact_at(&mut bytes, info.offset + at as u64)?;
        widen(name, info.dtype, &bytes, &mut row)?;
        out[c..].iter_mut().step_by(cols).zip(row.iter().step_by(step)).for_each(|(to, from)| *to = *from);
    }
    Ok(())
}
