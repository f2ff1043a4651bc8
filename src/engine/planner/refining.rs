//! What coding with error feedback for a model's own text takes in memory.
use super::budget::threads_counted;
use ram_kernels::Format;
use ram_models::{Description, Kind, TensorSpec, refine_bytes};
use std::collections::BTreeMap;

/// Sequences that a model writes.
pub const SEQUENCES: usize = 64;
/// Their length, in tokens; fewer where a model was made for fewer.
pub const LENGTH: usize = 256;
/// Inputs further apart than this do not make up for each other's errors.
pub const SPAN: usize = 2048;

/// Sequences and their length for a model.
pub fn text(description: &Description) -> [usize; 2] {
    [SEQUENCES, LENGTH.min(description.max_position_embeddings)]
}

/// Bytes besides the weights in their places, buffers and what a process always takes: of the pass, of what is kept of the text, and of the
/// matrices of an expert or an attention once more, each in the largest format of its menu.
pub fn bytes(description: &Description, matrices: &[&TensorSpec], menu: &[Vec<Format>], threads: usize) -> u64 {
    let mut together: BTreeMap<_, usize> = BTreeMap::new();
    for (spec, menu) in matrices.iter().zip(menu).filter(|(spec, _)| spec.layer.is_some()) {
        let most = menu.iter().map(|format| format.bytes(spec.shape[0], spec.shape[1])).max().unwrap_or(0);
        *together.entry((spec.layer, spec.expert, is_mixer(spec.kind))).or_default() += most;
    }
    let coded = together.into_values().max().unwrap_or(0);
    let [sequences, length] = text(description);
    (refine_bytes(description, [sequences, length], SPAN, threads_counted(threads)) + 2 * 4 * sequences * length + coded) as u64
}

/// Whether a matrix is one of those by which tokens learn of those before them.
fn is_mixer(kind: Kind) -> bool {
    use Kind::{DeltaGate, DeltaInput, DeltaOutput, DeltaRates, Key, KeyUp, LatentDown, Output, Query, QueryDown, Value, ValueUp};
    let latents = matches!(kind, QueryDown | LatentDown | KeyUp | ValueUp);
    latents || matches!(kind, Query | Key | Value | Output | DeltaInput | DeltaGate | DeltaRates | DeltaOutput)
}
