//! What the matrices of a model get to see: one pass of some tokens over weights that are read once and not kept.
use crate::{
    ForwardError, KvCache, KvElement, TensorSpec,
    backend::{Fused, Rotary, Scratch, Seen, Span, Survey, Unread},
    cache::States,
    description::Description,
    parts::{Model, Supply},
    weights::Published,
};
use ram_kernels::{isa::Level, team};

/// Runs `sequences` of tokens through the model and tells `see` of the inputs of every matrix that follows a norm or an up projection,
/// in order of computation. In memory are one expert at a time, or the three matrices of an attention. What is seen does not depend on
/// the number of threads or the instruction set.
///
/// # Errors
/// Those of `weights`; a token that is not in the vocabulary, no tokens, a number that is not finite.
pub fn survey<W: Published>(description: &Description, weights: &W, sequences: &[Vec<u32>], see: &mut dyn FnMut(Seen)) -> Result<(), W::Error>
where
    W::Error: From<ForwardError>,
{
    let vocab_size = description.vocab_size;
    if let Some(&token) = sequences.iter().flatten().find(|token| **token as usize >= vocab_size) {
        return Err(ForwardError::Vocabulary { token, vocab_size }.into());
    }
    let (tokens, mut spans): (Vec<u32>, Vec<Span>) = (sequences.concat(), Vec::new());
    for own in sequences {
        let first = spans.last().map_or(0, |span: &Span| span.tokens.end);
        spans.push(Span { tokens: first..first + own.len(), start: 0 });
    }
    if sequences.is_empty() || sequences.iter().any(Vec::is_empty) {
        return Err(ForwardError::NoTokens.into());
    }
    let model = Model::build(description, &mut Names(weights))?;
    let mut caches: Vec<KvCache> = sequences.iter().map(|own| KvCache::new(description, own.len(), KvElement::F32)).collect();
    let mut layers = Vec::with_capacity(caches.len());
    for cache in &mut caches {
        if let States::Fused(own) = &mut cache.states {
            layers.push(own.as_mut_slice());
        }
    }
    let (rotaries, mut scratch, mut failed) = (Rotary::of(description), Scratch::default(), None);
    let done = team(Level::active(), |team| {
        let fused = Fused::new(team, &mut scratch, description.hidden_size, &rotaries, &spans);
        model.stream(&mut Survey::new(fused, weights, see, &mut failed), &tokens, &mut layers, || false)
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}

/// Names of matrices, values of norms and biases.
struct Names<'a, W>(&'a W);

impl<W: Published> Supply for Names<'_, W> {
    type Tensors = Unread;
    type Error = W::Error;

    fn matrix(&mut self, spec: TensorSpec) -> Result<TensorSpec, W::Error> {
        Ok(spec)
    }

    fn vector(&mut self, spec: TensorSpec) -> Result<(TensorSpec, Vec<f32>), W::Error> {
        let values = self.0.vector(&spec)?;
        Ok((spec, values))
    }
}
