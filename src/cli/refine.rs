//! `--refine`: what the model's own text tells, kept from before or found now, with progress.
use super::{
    args::{Args, Keep},
    note,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{Checkpoint, Request, Stage, Survey, packed};
use std::sync::Mutex;

/// Whether `--refine` goes with a request, before minutes are spent.
pub fn check(args: &Args, checkpoint: &Checkpoint, request: &Request) -> Result<(), Error> {
    let refused = |why: String| Err(Error::Usage(format!("--refine: {why}")));
    let folder = checkpoint.folder().display();
    if checkpoint.is_remote() {
        return refused(format!(
            "the weights of {folder} are at the hub, and are read several times: leave --no-keep out, or start with chat or generate"
        ));
    }
    if checkpoint.is_quantized() {
        return refused(format!("the weights of {folder} are quantized already: give the dense checkpoint"));
    }
    if !request.method.asks_survey() {
        return refused(format!("the objective {} is as it was published: leave one of both out", request.method));
    }
    if args.budget.is_none() && args.weights.is_none() && args.uniform.is_none() {
        return refused("what is free changes, and weights are refined once: give --budget SIZE".into());
    }
    Ok(())
}

/// The survey of a request that has one, with the model's own text; `weights` are all that there are.
pub fn survey(args: &Args, checkpoint: &Checkpoint, request: &Request, weights: u64) -> Result<Survey, Error> {
    let kept = packed::folder().filter(|_| args.cache != Keep::Off);
    let kept = kept.map(|folder| ram_run::refined_path(&folder, checkpoint, request)).transpose()?;
    if let Some(survey) = kept.as_deref().and_then(Survey::read) {
        return Ok(survey);
    }
    let shown: Mutex<Option<(Stage, Progress)>> = Mutex::new(None);
    let survey = ram_run::refined(checkpoint, request, &|stage, n| {
        let Ok(mut shown) = shown.lock() else { return };
        if shown.as_ref().is_none_or(|(at, _)| *at != stage) {
            // The line before goes first.
            *shown = None;
            let (what, total) = match stage {
                Stage::Planning => ("planning", weights),
                Stage::Quantizing => ("quantizing, for a model that writes", weights),
                Stage::Writing { tokens } => ("writing its own text", tokens as u64),
                Stage::Measuring => ("looking at the text", weights),
                Stage::Surveying => ("surveying with the text", weights),
            };
            *shown = Some((stage, Progress::new(what, total)));
        }
        if let Some((_, progress)) = &*shown {
            progress.add(n as u64);
        }
    })?;
    drop(shown);
    if let Some(Err(e)) = kept.map(|path| survey.write(&path)) {
        note(&format!("what the model wrote is not kept for the next start: {e}"));
    }
    Ok(survey)
}
