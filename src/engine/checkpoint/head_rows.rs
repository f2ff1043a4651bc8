//! Matrices that files have several of in one: queries, keys and values; and, by head, what makes keys and values of latents (DeepSeek's
//! kv_b_proj). The one for keys is multiplied with queries here, so that its rows are every head's columns; MLX has them so.
use super::{Checkpoint, TensorInfo};
use crate::Error;
use ram_models::description::ByHead;

/// Finds them in the stored one, or as MLX has those of latents: in three dimensions, of which the first is the head.
///
/// # Errors
/// Where the stored one has another shape, or is quantized.
pub fn part(checkpoint: &mut Checkpoint) -> Result<(), Error> {
    for spec in checkpoint.specs.clone() {
        let Some(part) = checkpoint.description.by_head(&spec) else { continue };
        let module = spec.name.trim_end_matches(".weight");
        for end in ["weight", "scales", "biases"] {
            if let Some(info) = checkpoint.tensors.get_mut(&format!("{module}.{end}"))
                && let [heads, rows, cols] = info.shape[..]
                && heads == part.heads
            {
                info.shape = vec![heads * rows, cols];
            }
        }
        if checkpoint.tensors.contains_key(&spec.name) {
            continue;
        }
        let wrong = |reason: String| Err(Error::Tensor { name: part.name.clone(), reason });
        let origin = part.name.trim_end_matches(".weight");
        let coded = ["qweight", "weight_packed", "scales"].iter().any(|end| checkpoint.tensors.contains_key(&format!("{origin}.{end}")));
        if coded {
            let what = if part.transposed || part.heads > 1 {
                "keys of latents take the columns of its heads as rows, which codes do not survive"
            } else {
                "queries, keys and values are matrices of their own here, into which codes are not parted"
            };
            return wrong(format!("is quantized, and {what}: leave it as it is published"));
        }
        let Some(info) = checkpoint.tensors.get(&part.name) else { return Err(Error::MissingTensor(part.name)) };
        let expected = [part.heads * part.rows, part.stored];
        if info.shape != expected {
            return wrong(format!("has shape {:?}, and config.json asks for {expected:?}", info.shape));
        }
        let len = info.len / part.rows as u64 * part.own.len() as u64;
        let info = TensorInfo { shape: spec.shape.clone(), len, by_head: Some(part), ..info.clone() };
        checkpoint.tensors.insert(spec.name, info);
    }
    Ok(())
}

/// Fills rows from a number on.
type Read<'a> = dyn FnMut(usize, &mut [f32]) -> Result<(), Error> + 'a;

/// Rows by their numbers, as many as `out` has of `cols` numbers; `read` gives stored ones from a number on.
///
/// # Errors
/// Those of `read`.
pub fn numbers(part: &ByHead, rows: impl Iterator<Item = usize>, cols: usize, out: &mut [f32], read: &mut Read<'_>) -> Result<(), Error> {
    let stored = part.stored;
    let (mut there, mut own) = (None, vec![0.0; part.own.len() * stored]);
    for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
        // One head's rows, or its columns.
        let per_head = if part.transposed { stored } else { part.own.len() };
        let (head, at) = (row / per_head, row % per_head);
        if there != Some(head) {
            read(head * part.rows + part.own.start, &mut own)?;
            there = Some(head);
        }
        if part.transposed {
            out.iter_mut().zip(own[at..].iter().step_by(stored)).for_each(|(to, from)| *to = *from);
        } else {
            out.copy_from_slice(&own[at * stored..][..stored]);
        }
    }
    Ok(())
}
