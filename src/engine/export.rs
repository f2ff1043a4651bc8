//! A plan as another engine's checkpoint: codes chosen for its formats, in its files, under its names.
//!
//! Sizes are known from the plan, so that every file begins with its whole header; matrices follow in pieces, each written where it belongs by the
//! thread that coded it. No more than a piece for each thread is in memory, whatever the model's size.
mod config;
mod folder;
mod layout;
mod recipe;
mod rows;

pub use recipe::{Recipe, check_recipe, recipe};

use crate::{
    Checkpoint, Error, Loaded,
    planner::{Entry, Method, Plan, Target},
};
use folder::Unfinished;
use layout::Layout;
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};

/// What lies in the folder that was written, as `ram-run-export.json` says it there.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// Whose files these are: `mlx` or `vllm`.
    pub target: String,
    /// The folder of the checkpoint that it was made from.
    pub model: String,
    /// [`Plan::fingerprint`].
    pub plan: String,
    /// Numbers in the checkpoint.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// 8 * weight_bytes / parameters.
    pub bits_per_weight: f64,
    /// Expected KL divergence from the dense model, nats per token, where products are exact.
    pub expected_kl: f64,
    /// The same of this engine's own plan with as many bytes of weights.
    pub expected_kl_here: Option<f64>,
    /// Whether errors make up for each other ([`refined`](crate::refined)).
    pub refined: bool,
    /// What each module got, by its name there.
    pub modules: BTreeMap<String, Module>,
}

/// A module of an export, all experts of a layer together where they are one.
#[derive(Clone, Debug, Serialize)]
pub struct Module {
    /// Its format here: `b4g64`, `s8g128`, `bf16`.
    pub format: String,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Nats of KL divergence that it is expected to add.
    pub loss: f64,
}

/// Nats that a tensor is expected to add where its inputs are not rounded.
fn loss(e: &Entry) -> f64 {
    e.u * e.error
}

/// Whether a checkpoint can be written for a target at all, and there is nothing at `out`; before minutes are spent on weights.
///
/// # Errors
/// Names the family or tensor that the target does not hold, or says what is wrong with `out`.
pub fn check_export(checkpoint: &Checkpoint, target: Target, out: &Path) -> Result<(), Error> {
    config::check_family(checkpoint, target)?;
    folder::check(out)
}

/// Writes a plan's checkpoint as the folder `out`: all of it or nothing. What a process that was stopped has written is kept beside it, whole files
/// at a time, and not written again. `weights` are those of the plan in memory, where they had to be loaded (with error feedback); else they are
/// coded on their way. `done` is told the number of weights that were written.
///
/// # Errors
/// As for [`check_export`], for a format that the target does not hold, where the checkpoint cannot be read or a file not be written; nothing is
/// left behind.
pub fn export(
    checkpoint: &Checkpoint,
    plan: &Plan,
    weights: Option<&Loaded>,
    here: Option<f64>,
    out: &Path,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Exported, Error> {
    let Method::For(target) = plan.method else {
        let reason = format!("a plan by {} is for this engine alone: make one for the engine that is to run it", plan.method);
        return Err(Error::Mismatch(reason));
    };
    check_export(checkpoint, target, out)?;
    plan.belongs_to(checkpoint)?;
    let layout = Layout::new(checkpoint, plan, target, config::has_text(checkpoint)?)?;
    layout.check_room(out)?;
    let unfinished = Unfinished::open(out, &format!("{target} {} {}", checkpoint.content()?, plan.fingerprint))?;
    let written = || {
        for file in 0..layout.files.len() {
            unfinished.file(&layout.name(file), |to| rows::write(checkpoint, plan, weights, &layout, file, to, done))?;
        }
        if let Some(index) = layout.index() {
            unfinished.text(crate::weight_files::INDEX, &index)?;
        }
        unfinished.text("config.json", &config::config(checkpoint, plan, &layout)?)?;
        folder::copy_others(checkpoint.folder(), &unfinished)?;
        let exported = report(checkpoint, plan, &layout, target, here);
        unfinished.text("ram-run-export.json", &pretty(&exported)?)?;
        Ok(exported)
    };
    match written() {
        Ok(exported) => unfinished.finish().map(|()| exported),
        Err(e) => {
            unfinished.abandon();
            Err(e)
        }
    }
}

fn report(checkpoint: &Checkpoint, plan: &Plan, layout: &Layout, target: Target, here: Option<f64>) -> Exported {
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    for (entry, place) in plan.entries.iter().zip(&layout.places) {
        let module =
            modules.entry(place.module.clone()).or_insert_with(|| Module { format: layout.style.format(entry).to_string(), bytes: 0, loss: 0.0 });
        module.bytes += place.bytes();
        module.loss += loss(entry);
    }
    let weight_bytes = layout.bytes();
    Exported {
        target: target.to_string(),
        model: checkpoint.folder().display().to_string(),
        plan: plan.fingerprint.clone(),
        parameters: plan.parameters,
        weight_bytes,
        bits_per_weight: 8.0 * weight_bytes as f64 / plan.parameters as f64,
        expected_kl: plan.entries.iter().map(loss).sum(),
        expected_kl_here: here,
        refined: plan.survey.text().is_some(),
        modules,
    }
}

fn pretty(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| Error::Mismatch(e.to_string()))
}
