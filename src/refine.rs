//! What a model's own text tells: the text itself, what an error in every matrix costs on it, and how much of that cost error feedback
//! takes away. No data comes from anywhere, and the same weights give the same text.
use crate::{
    Checkpoint, Error, Loaded, Request, Sampling, Survey,
    load::{SPAN, load},
    plan,
    planner::{Plan, trellis_menu},
    run::Sampler,
    survey::random_tokens,
};
use ram_kernels::{Feedback, Format, Matrix, Moments, Team};
use ram_models::{Coder, Next, TensorSpec, Transformer, Weights, refine};
use std::collections::BTreeMap;

/// Sequences that a model writes, and their length. Each begins with a token from anywhere in the vocabulary.
const SEQUENCES: usize = 64;
const LENGTH: usize = 256;
/// Of them, so many tokens of each of so many see noise.
const LOOKED: [usize; 2] = [8, 128];

/// What a refinement is at, and how far of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Making the plan of the model that writes.
    Planning,
    /// Quantizing that model.
    Quantizing,
    /// Writing text, in tokens.
    Writing,
    /// Looking at what feedback would take away.
    Measuring,
    /// Looking at what errors cost.
    Surveying,
}

/// The survey of a request with what the model's own text tells: a plan that is made with it asks for error feedback. The model is loaded by
/// the request's own plan first. What all this and the refining load take beside the weights is not in its budget.
///
/// # Errors
/// As for [`plan`] and [`load()`](crate::load()), and where a number that comes up is not finite.
pub fn refined(checkpoint: &Checkpoint, request: &Request, done: &(dyn Fn(Stage, usize) + Sync)) -> Result<Survey, Error> {
    let plain = plan(checkpoint, request, &|n| done(Stage::Planning, n))?;
    let loaded = load(checkpoint, &plain, &|n| done(Stage::Quantizing, n))?;
    let description = checkpoint.description();
    let transformer = loaded.transformer(description.clone(), &plain.backend)?;
    let text = write(&transformer, &plain, &|n| done(Stage::Writing, n))?;
    drop(transformer);
    let mut measuring = Measuring { loaded: &loaded, rotated: trellis_menu()[0], gains: BTreeMap::new(), done: &|n| done(Stage::Measuring, n) };
    refine(description, &text, &mut measuring)?;
    let gains = measuring.gains;
    drop(loaded);
    let looked: Vec<Vec<u32>> = text.iter().take(LOOKED[0]).map(|own| own[..LOOKED[1].min(own.len())].to_vec()).collect();
    let seen = Survey::of(checkpoint, &looked, LOOKED[0] * LOOKED[1], &|n| done(Stage::Surveying, n))?;
    Ok(plain.survey.refined(&seen, &gains, text))
}

/// Text of the model's own, all sequences side by side.
fn write(transformer: &Transformer, plan: &Plan, done: &dyn Fn(usize)) -> Result<Vec<Vec<u32>>, Error> {
    let vocab_size = transformer.description().vocab_size;
    let length = LENGTH.min(transformer.description().max_position_embeddings);
    let mut texts = random_tokens(vocab_size, SEQUENCES, 1);
    let mut caches: Vec<_> = texts.iter().map(|_| transformer.cache(length, plan.kv)).collect();
    let sampler = |seed| Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() });
    let mut samplers = (0..SEQUENCES as u64).map(sampler).collect::<Result<Vec<_>, _>>()?;
    for _ in 1..length {
        let mut batch: Vec<Next> = texts.iter().zip(&mut caches).map(|(text, cache)| Next::new(&text[text.len() - 1..], cache)).collect();
        transformer.advance(&mut batch)?;
        drop(batch);
        for ((text, cache), sampler) in texts.iter_mut().zip(&caches).zip(&mut samplers) {
            text.push(sampler.sample(cache.logits(), &[])?);
        }
        done(SEQUENCES);
    }
    Ok(texts)
}

/// Looks at the inputs of matrices that are packed already.
struct Measuring<'a> {
    loaded: &'a Loaded,
    /// Any of the formats that rotate: all do it alike.
    rotated: Format,
    gains: BTreeMap<String, f64>,
    done: &'a (dyn Fn(usize) + Sync),
}

impl Coder for Measuring<'_> {
    type Error = Error;

    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        self.loaded.vector(spec)
    }

    fn code(&mut self, team: &Team, specs: &[&TensorSpec], inputs: Option<&Moments>) -> Result<Vec<Matrix>, Error> {
        let gain = inputs.map(|inputs| Feedback::new(team, inputs, self.rotated).gain());
        let each = specs.iter().map(|spec| {
            self.gains.extend(gain.map(|gain| (spec.name.clone(), gain)));
            (self.done)(spec.shape.iter().product());
            self.loaded.matrix(spec)
        });
        each.collect()
    }

    fn span(&self) -> usize {
        SPAN
    }
}
