//! `--refine`: what the model's own text tells, kept from before or found now, with progress.
use super::{
    args::{Args, Keep},
    note,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{Checkpoint, Method, Plan, Request, Stage, Survey, packed};
use std::sync::Mutex;

/// Whether `--refine` goes with a request, before minutes are spent.
pub fn check(args: &Args, checkpoint: &Checkpoint, request: &Request) -> Result<(), Error> {
    check_weights(checkpoint, request)?;
    if args.budget.is_none() && args.weights.is_none() && args.uniform.is_none() {
        return Err(Error::Usage("--refine: what is free changes, and weights are refined once: give --budget SIZE".into()));
    }
    Ok(())
}

/// Whether a checkpoint's weights can be refined for a request.
pub fn check_weights(checkpoint: &Checkpoint, request: &Request) -> Result<(), Error> {
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

/// Nats that a plan must be expected to lose before a word is said of losing less.
const WORTH_SAYING: f64 = 0.02;
/// Products of a weight with a number that one thread does in a second, of the text and of factors of its moments; 90 s for SmolLM2 on two
/// threads of a Zen 5.
const PRODUCTS: f64 = 2.5e10;
/// Weights that one thread codes in a second.
const CODED: f64 = 6e7;

/// One line for a model that is quantized now: what `--refine` would take and gain (docs/quality.md).
pub fn hint(checkpoint: &Checkpoint, plan: &Plan) {
    if plan.method != Method::Kl || plan.survey.text().is_some() || plan.expected_kl < WORTH_SAYING || !Survey::possible(checkpoint) {
        return;
    }
    let numbers = |e: &ram_run::Entry| e.spec.shape.iter().product::<usize>() as f64;
    let description = checkpoint.description();
    let (all, active) =
        plan.entries.iter().fold((0.0, 0.0), |(all, active), e| (all + numbers(e), active + numbers(e) * description.active(&e.spec)));
    let (threads, tokens) = (rayon::current_num_threads() as f64, (64 * 256.min(description.max_position_embeddings)) as f64);
    // The text passes every layer twice.
    let minutes = (2.0 * tokens * active / PRODUCTS + all / CODED) / threads / 60.0;
    let long = match minutes {
        few if few < 1.5 => "a minute".to_string(),
        some if some < 90.0 => format!("{some:.0} minutes"),
        many => format!("{:.1} hours", many / 60.0),
    };
    let loss = super::draw::loss(plan.expected_kl);
    note(&format!("expected to lose {loss} nats per token; with --refine a quarter to half of that less, once for about {long}"));
}
