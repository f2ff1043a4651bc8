//! The gated delta net: a memory of fixed size for every value head, which a token's key changes and its query reads.
mod layer;
mod step;

pub use layer::{DeltaLayer, DeltaShape};

use super::finite::{NotFinite, Watch, finite};
use crate::{arena::resize, isa::dispatch, team::Team};
use std::{ops::Range, sync::Arc};
pub use step::TAPS;
use step::{Finish, Mix, Recall, WIDE};

/// What a gated delta net has besides matrices.
#[derive(Clone, Copy, Debug)]
pub struct DeltaWeights<'a> {
    /// Of the convolution, (kernel, channels): the token's own last.
    pub taps: &'a [f32],
    /// Of every value head the logarithm of how fast it forgets.
    pub decay: &'a [f32],
    /// Of every value head what is added to its time steps.
    pub time: &'a [f32],
    /// Of the norm of a value head's results.
    pub norm: &'a [f32],
    /// Added to the mean square there.
    pub eps: f32,
}

/// Numbers that [`delta_net`] works in.
pub fn delta_numbers(shape: DeltaShape, tokens: usize) -> usize {
    tokens * (shape.channels() + shape.values() + 2 * shape.value_heads)
}

/// One sequence's tokens in a pass.
struct Span<'a> {
    tokens: Range<usize>,
    /// Memories and the last inputs before them.
    before: Option<(&'a [f32], &'a [f32])>,
}

impl<'a> Span<'a> {
    /// The inputs of the convolution `back` tokens before `token`, which are `inputs` of this pass or were those of one before.
    fn row(&self, inputs: &'a [f32], shape: DeltaShape, token: usize, back: usize) -> Option<&'a [f32]> {
        if let Some(own) = token.checked_sub(back).filter(|own| *own >= self.tokens.start) {
            return Some(&inputs[own * shape.inputs()..][..shape.channels()]);
        }
        let (_, last) = self.before?;
        let at = shape.kernel - 1 - (back - (token - self.tokens.start));
        Some(&last[at * shape.channels()..][..shape.channels()])
    }
}

/// The memories and the last inputs of a state that nobody else has.
fn own(state: &mut Arc<[f32]>, shape: DeltaShape) -> (&mut [f32], &mut [f32]) {
    Arc::get_mut(state).expect("a state that was made for this pass").split_at_mut(shape.memory())
}

/// The columns of memories that go together, head by head.
fn columns(memory: &mut [f32], shape: DeltaShape) -> impl Iterator<Item = &mut [[f32; 16]]> {
    let heads = memory.as_chunks_mut::<16>().0.chunks_exact_mut(shape.value_dim / 16 * shape.key_dim);
    heads.flat_map(move |head| head.chunks_mut(WIDE * shape.key_dim))
}

/// Adds the tokens of some sequences, one sequence's after the other's, to their states, and gives what they find: `inputs` is (tokens, numbers
/// of [`DeltaShape::inputs`]), `out` (tokens, values). What a token finds does not depend on what else is in the pass.
///
/// # Errors
/// Where inputs are not finite, or become so; all states are as they were.
///
/// # Panics
/// If the shapes do not fit together.
pub fn delta_net(
    team: &Team,
    layers: &mut [(&mut DeltaLayer, usize)],
    inputs: &[f32],
    weights: DeltaWeights,
    work: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<(), NotFinite> {
    let Some((first, _)) = layers.first() else { return Ok(()) };
    let (shape, level, watch) = (first.shape(), team.level(), Watch::default());
    let DeltaShape { key_dim, value_dim, value_heads, .. } = shape;
    let (channels, values, each) = (shape.channels(), shape.values(), value_dim / 16);
    // Of all tokens, and of all but the last where there are several.
    let mut states: Vec<Vec<Arc<[f32]>>> = layers.iter_mut().map(|(layer, tokens)| layer.fresh((*tokens).min(2))).collect();
    let mut count = 0;
    let spans: Vec<Span> = layers
        .iter()
        .map(|(layer, tokens)| {
            assert_eq!(layer.shape(), shape, "layers of one shape");
            count += tokens;
            Span { tokens: count - tokens..count, before: layer.last() }
        })
        .collect();
    assert_eq!((inputs.len(), out.len()), (count * shape.inputs(), count * values), "inputs and results for every token");
    resize(work, delta_numbers(shape, count));
    let (mixed, rest) = work.split_at_mut(count * channels);
    let (rates, found) = rest.split_at_mut(count * 2 * value_heads);

    let span_of = |t: usize| &spans[spans.partition_point(|span| span.tokens.end <= t)];
    team.chunks2((mixed, channels), (rates.as_chunks_mut::<2>().0, value_heads), |t, mixed, rates| {
        let (span, own) = (span_of(t), &inputs[t * shape.inputs()..][..shape.inputs()]);
        let rows = |j: usize| span.row(inputs, shape, t, shape.kernel - 1 - j);
        dispatch(level, Mix { shape, rows, taps: weights.taps, out: &mut *mixed });
        let (betas, times) = own[channels + values..].split_at(value_heads);
        for (h, rates) in rates.iter_mut().enumerate() {
            let time = times[h] + weights.time[h];
            // softplus, so that nothing overflows.
            let time = time.max(0.0) + (-time.abs()).exp().ln_1p();
            *rates = [1.0 / (1.0 + (-betas[h]).exp()), (-weights.decay[h].exp() * time).exp()];
        }
        watch.see(finite(level, mixed) && finite(level, rates.as_flattened()));
    });
    watch.result("inputs of the delta net")?;

    // A task is a few columns of a head's memory over all tokens of a sequence.
    let (mixed, rates) = (&*mixed, rates.as_chunks::<2>().0);
    let (mut tasks, mut rest) = (Vec::with_capacity(spans.len() * value_heads * each), found.as_chunks_mut::<16>().0);
    for (states, span) in states.iter_mut().zip(&spans) {
        let mut parts = states.iter_mut().map(|state| columns(own(state, shape).0, shape)).collect::<Vec<_>>();
        for (head, part) in (0..value_heads).flat_map(|head| (0..each).step_by(WIDE).map(move |part| (head, part))) {
            let memories: Vec<&mut [[f32; 16]]> = parts.iter_mut().filter_map(Iterator::next).collect();
            let (out, after) = std::mem::take(&mut rest).split_at_mut(WIDE.min(each - part) * span.tokens.len());
            rest = after;
            tasks.push((span, head, 16 * part, memories, out));
        }
    }
    team.chunks(&mut tasks, 1, |_, task| {
        for (span, head, column, memories, out) in task {
            let (key, value) = (*head / (value_heads / shape.key_heads) * key_dim, 2 * shape.keys() + *head * value_dim + *column);
            let own: Vec<[f32; 2]> = span.tokens.clone().map(|t| rates[t * value_heads + *head]).collect();
            let tokens = |t: usize| {
                let row = &mixed[(span.tokens.start + t) * channels..][..channels];
                (&row[key..][..key_dim], &row[shape.keys() + key..][..key_dim], &row[value..])
            };
            let mut before = span.before.map(|(before, _)| &before.as_chunks().0[(*head * value_dim + *column) / 16 * key_dim..]);
            let mut at = 0;
            let (n, count) = (span.tokens.len(), memories.len());
            for (memory, end) in memories.iter_mut().zip(n + 1 - count..) {
                match before {
                    Some(before) => memory.copy_from_slice(&before[..memory.len()]),
                    None => memory.fill([0.0; 16]),
                }
                dispatch(level, Recall { tokens, rates: &own, now: at..end, memory, out });
                (before, at) = (Some(&**memory), end);
            }
        }
    });

    let found = found.as_chunks::<16>().0;
    team.chunks(out, values, |t, out| {
        let (span, gates) = (span_of(t), &inputs[t * shape.inputs() + channels..][..values]);
        let found = &found[span.tokens.start * values / 16..];
        for (i, to) in out.as_chunks_mut().0.iter_mut().enumerate() {
            *to = found[i * span.tokens.len() + t - span.tokens.start];
        }
        for (head, gate) in out.chunks_exact_mut(value_dim).zip(gates.chunks_exact(value_dim)) {
            dispatch(level, Finish { head, gate, weights: weights.norm, eps: weights.eps });
        }
    });

    // The last inputs, for the tokens that come next.
    for (states, span) in states.iter_mut().zip(&spans) {
        for (state, end) in states.iter_mut().rev().zip((0..span.tokens.end).rev()) {
            let (_, last) = own(state, shape);
            team.chunks(last, channels, |i, to| match span.row(inputs, shape, end, shape.kernel - 2 - i) {
                Some(row) => to.copy_from_slice(row),
                None => to.fill(0.0),
            });
        }
    }
    drop(spans);
    for ((layer, tokens), states) in layers.iter_mut().zip(states) {
        let lengths = if *tokens == 1 { vec![1] } else { vec![*tokens - 1, 1] };
        lengths.into_iter().zip(states).for_each(|(tokens, state)| layer.put(tokens, state));
    }
    Ok(())
}
