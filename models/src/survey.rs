//! What the matrices of a model get to see, and what an error in each costs: one pass of some tokens over weights that are read once and
//! not kept.
use crate::{
    ForwardError, TensorSpec,
    backend::{Fused, Lens, Observer, Rotary, Scratch, Span, Survey, Unread},
    description::Description,
    parts::{Model, Supply},
    weights::Published,
};
use ram_kernels::{isa::Level, team};

/// Rows of the head that errors are looked at through, from all of the vocabulary.
const ROWS: usize = 256;

/// Runs `sequences` of tokens through the model and tells `see` of the inputs of every matrix that follows a norm or an up projection,
/// and of what noise in each matrix of a layer but routers costs, for MLPs on the first `noisy` tokens. In memory are one expert at a time,
/// or the matrices of an attention, and one of them once more. What is seen does not depend on the number of threads or the instruction
/// set.
///
/// # Errors
/// Those of `weights`; a token that is not in the vocabulary, no tokens, a number that is not finite.
pub fn survey<W: Published>(
    description: &Description,
    weights: &W,
    sequences: &[Vec<u32>],
    noisy: usize,
    see: &mut dyn Observer,
) -> Result<(), W::Error>
where
    W::Error: From<ForwardError>,
{
    let vocab_size = description.vocab_size;
    let (tokens, spans) = spans(sequences, vocab_size)?;
    let model = Model::build(description, &mut Names(|spec: &TensorSpec| weights.vector(spec)))?;
    let mut layers = vec![vec![(); description.layers.len()]; sequences.len()];
    let mut states: Vec<&mut [()]> = layers.iter_mut().map(Vec::as_mut_slice).collect();
    let picks: Vec<u32> = (0..ROWS.min(vocab_size)).map(|i| (i * vocab_size / ROWS.min(vocab_size)) as u32).collect();
    let gamma: Vec<f32> = model.norm.weight.1.iter().map(|w| w * model.norm.times).collect();
    let lens = Lens::new(&weights.rows(model.head(), &picks)?, &gamma).map_err(|fault| fault.within(None))?;
    let (rotaries, mut scratch, mut failed) = (Rotary::of(description), Scratch::default(), None);
    let done = team(Level::active(), |team| {
        let fused = Fused::new(team, &mut scratch, description.hidden_size, &rotaries, &spans);
        model.stream(&mut Survey::new(fused, weights, lens, noisy, see, &mut failed), &tokens, &mut states, || false)
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}

/// Names of matrices, and the values of norms and biases that it gives.
pub struct Names<F>(pub F);

impl<E, F: FnMut(&TensorSpec) -> Result<Vec<f32>, E>> Supply for Names<F> {
    type Tensors = Unread;
    type Error = E;

    fn matrix(&mut self, spec: TensorSpec) -> Result<TensorSpec, E> {
        Ok(spec)
    }

    fn vector(&mut self, spec: TensorSpec) -> Result<(TensorSpec, Vec<f32>), E> {
        let values = self.0(&spec)?;
        Ok((spec, values))
    }
}

/// Sequences as one run of tokens, and where each is.
///
/// # Errors
/// For a token that is not in the vocabulary, a sequence without tokens, or none.
pub fn spans(sequences: &[Vec<u32>], vocab_size: usize) -> Result<(Vec<u32>, Vec<Span>), ForwardError> {
    if let Some(&token) = sequences.iter().flatten().find(|token| **token as usize >= vocab_size) {
        return Err(ForwardError::Vocabulary { token, vocab_size });
    }
    if sequences.is_empty() || sequences.iter().any(Vec::is_empty) {
        return Err(ForwardError::NoTokens);
    }
    let mut spans: Vec<Span> = Vec::new();
    for own in sequences {
        let first = spans.last().map_or(0, |span| span.tokens.end);
        spans.push(Span { tokens: first..first + own.len(), start: 0 });
    }
    Ok((sequences.concat(), spans))
}
