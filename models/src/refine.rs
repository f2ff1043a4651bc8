//! Coding a model layer by layer, each matrix for the inputs that the coded ones before it give.
use crate::{
    ForwardError, KvElement,
    backend::{Coder, Refining, Rotary, Scratch, TOKENS, Work},
    description::{Description, Layer},
    parts::Model,
    survey::{Names, spans},
    transformer::Backend,
};
use ram_kernels::{isa::Level, team};

/// Runs `sequences` of tokens through a model whose matrices are coded as they are reached: `coder` is given each with the second moments of
/// its inputs. In memory are the matrices of one expert at a time, or of an attention; see [`refine_bytes`]. What is coded does not depend on the number of
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
        let mut pass = Refining::new(team, &mut scratch, description.hidden_size, &rotaries, &spans, coder, &mut failed);
        model.stream(&mut pass, &tokens, &mut states, || false)?;
        pass.finish(&model.norm, model.head()).map_err(|fault| fault.within(None))
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}

/// An upper bound of the bytes that [`refine`] takes for `sequences` of `length` tokens, besides what its coder keeps and the matrices of an
/// expert or an attention; `span` is the coder's, `threads` are those that there are.
pub fn refine_bytes(description: &Description, [sequences, length]: [usize; 2], span: usize, threads: usize) -> usize {
    let (hidden_size, needs) = (description.hidden_size, description.needs());
    let tokens = sequences * length;
    // The stream and the results of a layer's MLPs, and of some of them where they are normalised apart; who takes which expert, by token and by expert, in lists that may be twice as long.
    let rows = 2 + needs.results.min(1);
    let of_all = tokens * (4 * rows * hidden_size + 4 * size_of::<(u32, f32)>() * (needs.taken + 1));
    // Pieces end with a sequence.
    let piece = (TOKENS + length).min(tokens);
    let work = Work { tokens: piece, sequences: piece.div_ceil(length), context: length, threads, ordered: false };
    // Keys and values in pages, of which each sequence has a part, or states.
    let state = |layer: &Layer| layer.mixer.state_bytes(length, KvElement::F32) * work.sequences;
    let states = description.layers.iter().map(state).max().unwrap_or(0);
    let of_piece = Backend::Fused.scratch_bytes(description, work) + states + piece * size_of::<f32>() * hidden_size;
    let width = needs.mlps.iter().flatten().map(|mlp| mlp.width).max().unwrap_or(0);
    let moments = |cols: usize| {
        let of_spans = (cols / span) * span * span + (cols % span).next_multiple_of(16).pow(2);
        size_of::<f32>() * (of_spans + 256 * cols)
    };
    let most = [hidden_size, needs.mixed, width].into_iter().map(moments).max().unwrap_or(0);
    // Of all tokens, of one expert's, and the factors of these, rotated and not: half as many numbers each; and a square while it is one.
    let feedback = moments(hidden_size) + 2 * most + size_of::<f32>() * span * span;
    of_all + of_piece + feedback
}
