//! What a model's own text tells: the text itself, what an error in every matrix costs on it, and how much of that cost error feedback
//! takes away. No data comes from anywhere, and the same weights give the same text.
use crate::{
    Checkpoint, Error, Loaded, Request, Sampling, Survey,
    load::load,
    plan,
    planner::{
        Limit, Method, Plan,
        refining::{self, SPAN},
        trellis_menu,
    },
    run::Sampler,
    survey::{self, random_tokens},
};
use ram_kernels::{Feedback, Format, Matrix, Moments, Team, embed};
use ram_models::{Coder, Kind, Next, TensorSpec, Transformer, Weights, refine};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Of the sequences that a model writes, those that tell what feedback leaves.
const MEASURED: usize = 16;
/// So many tokens of so many see noise.
const LOOKED: [usize; 2] = [8, 128];

/// What a refinement is at, and how far of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Making the plan of the model that writes.
    Planning,
    /// Quantizing that model.
    Quantizing,
    /// Writing text, in tokens, of which it will have so many.
    Writing {
        /// All that are written.
        tokens: usize,
    },
    /// Looking at what feedback would take away.
    Measuring,
    /// Looking at what errors cost.
    Surveying,
}

/// The survey of a request with what the model's own text tells: a plan that is made with it asks for error feedback. The model is loaded by
/// the request's own plan first, with the memory set aside that the refining load takes.
///
/// # Errors
/// As for [`plan`] and [`load()`](crate::load()), and where a number that comes up is not finite.
pub fn refined(checkpoint: &Checkpoint, request: &Request, done: &(dyn Fn(Stage, usize) + Sync)) -> Result<Survey, Error> {
    let plain = plan(checkpoint, &Request { refine: true, ..request.clone() }, &|n| done(Stage::Planning, n))?;
    let loaded = load(checkpoint, &plain, &|n| done(Stage::Quantizing, n))?;
    let description = checkpoint.description();
    let transformer = loaded.transformer(description.clone(), &plain.backend)?;
    let [sequences, length] = refining::text(description);
    let text = write(&transformer, &plain, &|n| done(Stage::Writing { tokens: sequences * (length - 1) }, n))?;
    drop(transformer);
    let format = plain.entries.iter().map(|e| e.format).find(|format| format.takes_feedback()).unwrap_or(trellis_menu()[0]);
    let mut measuring = Measuring { loaded: &loaded, plan: &plain, format, left: BTreeMap::new(), done: &|n| done(Stage::Measuring, n) };
    refine(description, &text[..MEASURED], &mut measuring)?;
    let left = measuring.left;
    drop(loaded);
    let looked: Vec<Vec<u32>> = text.iter().take(LOOKED[0]).map(|own| own[..LOOKED[1].min(own.len())].to_vec()).collect();
    let seen = Survey::of_text(checkpoint, &looked, LOOKED[0] * LOOKED[1], &|n| done(Stage::Surveying, n))?;
    Ok(plain.survey.refined(&seen, left, text))
}

/// Where the survey that [`refined`] gives is kept in `folder`: of the checkpoint, and of all that makes the plan of the model that writes.
///
/// # Errors
/// If the checkpoint cannot be read.
pub fn refined_path(folder: &Path, checkpoint: &Checkpoint, request: &Request) -> Result<PathBuf, Error> {
    let Request { limit, method, pins, context, sequences, kv_tokens, kv, effort, survey: _, backend, reserved: _, refine: _ } = request;
    let pins: Vec<String> = pins.iter().map(|pin| format!("{}={}", pin.pattern, pin.format)).collect();
    // One format for all is the same in every budget.
    let limit = if matches!(method, Method::Uniform(_)) { &Limit::None } else { limit };
    let sequences = kv_tokens.map_or(sequences.to_string(), |tokens| format!("{sequences} in {tokens}"));
    let asked = format!("refined {limit:?} {method} {pins:?} {context:?} {sequences} {kv:?} {effort} {backend:?}");
    survey::path(folder, checkpoint, &asked)
}

/// Text of the model's own, each sequence from a token of anywhere in the vocabulary on; as many side by side as the KV cache has room for.
fn write(transformer: &Transformer, plan: &Plan, done: &dyn Fn(usize)) -> Result<Vec<Vec<u32>>, Error> {
    let description = transformer.description();
    let [sequences, length] = refining::text(description);
    let mut texts = random_tokens(description.vocab_size, sequences, 1);
    let sampler = |seed| Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() });
    let mut samplers = (0..sequences as u64).map(sampler).collect::<Result<Vec<_>, _>>()?;
    let together = (plan.context / length).clamp(1, sequences);
    for (texts, samplers) in texts.chunks_mut(together).zip(samplers.chunks_mut(together)) {
        let mut caches: Vec<_> = texts.iter().map(|_| transformer.cache(length, plan.kv)).collect();
        for _ in 1..length {
            let mut batch: Vec<Next> = texts.iter().zip(&mut caches).map(|(text, cache)| Next::new(&text[text.len() - 1..], cache)).collect();
            transformer.advance(&mut batch)?;
            drop(batch);
            for ((text, cache), sampler) in texts.iter_mut().zip(&caches).zip(&mut *samplers) {
                text.push(sampler.sample(cache.logits(), &[])?);
            }
            done(texts.len());
        }
    }
    Ok(texts)
}

/// Looks at the inputs of matrices that are packed already.
struct Measuring<'a> {
    loaded: &'a Loaded,
    plan: &'a Plan,
    /// Any of those that rotate: all do it alike.
    format: Format,
    left: BTreeMap<String, f64>,
    done: &'a (dyn Fn(usize) + Sync),
}

impl Measuring<'_> {
    fn note(&mut self, team: &Team, specs: &[&TensorSpec], inputs: &Moments) {
        let gain = Feedback::new(team, inputs, self.format).gain();
        for spec in specs {
            self.left.insert(spec.name.clone(), gain);
            (self.done)(spec.shape.iter().product());
        }
    }
}

impl Coder for Measuring<'_> {
    type Error = Error;

    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        self.loaded.vector(spec)
    }

    fn table(&mut self, team: &Team, spec: &TensorSpec, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let table = self.loaded.matrix(spec)?;
        let mut rows = vec![0.0; tokens.len() * table.cols()];
        embed(team, &table, tokens, &mut rows);
        Ok(rows)
    }

    fn coded(&mut self, _: &[&TensorSpec]) -> Result<Option<Vec<Matrix>>, Error> {
        Ok(None)
    }

    fn code(&mut self, team: &Team, specs: &[&TensorSpec], inputs: &Moments) -> Result<Vec<Matrix>, Error> {
        self.note(team, specs, inputs);
        specs.iter().map(|spec| self.loaded.matrix(spec)).collect()
    }

    fn head(&mut self, team: &Team, spec: &TensorSpec, mut inputs: Moments) -> Result<(), Error> {
        let u = self.plan.entries.iter().find(|e| e.spec.name == spec.name).map_or(0.0, |e| e.u);
        if spec.kind == Kind::Embedding {
            inputs.add_alike(self.plan.survey.looked_up(&spec.name, u));
        }
        self.note(team, &[spec], &inputs);
        Ok(())
    }

    fn span(&self) -> usize {
        SPAN
    }
}
