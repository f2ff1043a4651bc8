//! Coding a model layer by layer, each matrix for the inputs that the coded ones before it give.
use crate::{
    ForwardError,
    backend::{Coder, Fused, Refining, Rotary, Scratch},
    description::Description,
    parts::Model,
    survey::{Names, spans},
};
use ram_kernels::{isa::Level, team};

/// Runs `sequences` of tokens through a model whose matrices are coded as they are reached: `coder` is given each with the second moments of
/// its inputs. In memory are the matrices of one expert at a time, or of an attention. What is coded does not depend on the number of
/// threads or the instruction set.
///
/// # Errors
/// Those of `coder`; a token that is not in the vocabulary, no tokens, a number that is not finite.
pub fn refine<C: Coder>(description: &Description, sequences: &[Vec<u32>], coder: &mut C) -> Result<(), C::Error>
where
    C::Error: From<ForwardError>,
{
    let (tokens, spans) = spans(sequences, description.vocab_size)?;
    let model = Model::build(description, &mut Names(|spec: &_| coder.vector(spec)))?;
    let mut layers = vec![vec![(); description.layers.len()]; sequences.len()];
    let mut states: Vec<&mut [()]> = layers.iter_mut().map(Vec::as_mut_slice).collect();
    let (rotaries, mut scratch, mut failed) = (Rotary::of(description), Scratch::default(), None);
    let done = team(Level::active(), |team| {
        let fused = Fused::new(team, &mut scratch, description.hidden_size, &rotaries, &spans);
        let mut pass = Refining::new(fused, coder, &mut failed);
        model.stream(&mut pass, &tokens, &mut states, || false)?;
        let head = if description.tie_word_embeddings { None } else { Some(model.head()) };
        pass.finish(&model.norm, head).map_err(|fault| fault.within(None))
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}
