//! A plan for llama.cpp: the type of every tensor, for its own quantizer to keep to.
use super::{Module, config};
use crate::{
    Checkpoint, Error, files,
    planner::{gguf_name, gguf_types},
    survey::Survey,
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, path::Path};

/// What was written of a recipe.
#[derive(Clone, Debug, Serialize)]
pub struct Recipe {
    /// The folder of the checkpoint that it was made from.
    pub model: String,
    /// Numbers in the checkpoint.
    pub parameters: u64,
    /// Bytes of all tensors in the file that llama.cpp makes.
    pub weight_bytes: u64,
    /// 8 * weight_bytes / parameters.
    pub bits_per_weight: f64,
    /// Expected KL divergence from the dense model, nats per token, where products are exact.
    pub expected_kl: f64,
    /// What each tensor gets, by its name there; those that its quantizer leaves alone are not named.
    pub tensors: BTreeMap<String, Module>,
}

/// Whether llama.cpp has the family's tensors as this knows them.
///
/// # Errors
/// Names what it has not.
pub fn check_recipe(checkpoint: &Checkpoint) -> Result<(), Error> {
    config::check_gguf(checkpoint)?;
    let unnamed = checkpoint.specs().iter().find(|spec| spec.kind.is_matrix() && !spec.kind.steers() && gguf_name(spec).is_none());
    unnamed.map_or(Ok(()), |spec| Err(Error::Tensor { name: spec.name.clone(), reason: "has no name that is known in llama.cpp's files".into() }))
}

/// Chooses llama.cpp's types within `weights` bytes, and writes them as a file for `llama-quantize --tensor-type-file`: a line for each tensor,
/// its name as a pattern that fits no other. `done` is told the number of weights of each matrix.
///
/// # Errors
/// As for [`check_recipe`], [`Error::Budget`] with the fewest bytes that would do, and where the checkpoint cannot be read or the file not be
/// written; nothing is left behind.
pub fn recipe(checkpoint: &Checkpoint, survey: Option<&Survey>, weights: u64, out: &Path, done: &(dyn Fn(usize) + Sync)) -> Result<Recipe, Error> {
    check_recipe(checkpoint)?;
    let specs = checkpoint.specs();
    let (mut tensors, mut lines, mut weight_bytes, mut expected_kl) = (BTreeMap::new(), String::new(), 0, 0.0);
    for typed in gguf_types(checkpoint, survey, weights, done)? {
        weight_bytes += typed.bytes;
        expected_kl += typed.loss;
        let Some(name) = gguf_name(&specs[typed.tensors[0]]) else { continue };
        let _ = writeln!(lines, "^{}$={}", name.replace('.', "\\."), typed.kind.name());
        tensors.insert(name, Module { format: typed.kind.name().into(), bytes: typed.bytes, loss: typed.loss });
    }
    files::write_whole(out, |file| file.write_all(lines.as_bytes()))?;
    let parameters = specs.iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum::<u64>();
    let bits_per_weight = 8.0 * weight_bytes as f64 / parameters as f64;
    Ok(Recipe { model: checkpoint.folder().display().to_string(), parameters, weight_bytes, bits_per_weight, expected_kl, tensors })
}
