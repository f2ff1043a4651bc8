//! What a model thinks of tokens that are given: the logarithm of each one's probability, and the likeliest in its place.
use super::{model::Model, session::Session};
use crate::{Error, planner::logits_bytes};
use ram_kernels::log_sum_exp;
use ram_models::Next;

/// A token and what was thought of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Which.
    pub token: u32,
    /// The natural logarithm of its probability, of the model's own logits: before penalties, biases, guides and temperature.
    pub logprob: f32,
    /// The likeliest tokens in its place and theirs, likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Scored {
    /// A token by the logits (vocab_size) of its place, with the `count` likeliest.
    pub fn of(token: u32, logits: &[f32], count: usize) -> Scored {
        let sum = log_sum_exp(logits);
        let log = |l: f32| (f64::from(l) - sum) as f32;
        let mut top: Vec<(u32, f32)> = Vec::new();
        if count > 0 {
            let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            if count < all.len() {
                all.select_nth_unstable_by(count, order);
                all.truncate(count);
            }
            all.sort_unstable_by(order);
            top = all.into_iter().map(|(token, l)| (token, log(l))).collect();
        }
        Scored { token, logprob: log(logits[token as usize]), top }
    }
}

impl Model {
    /// Computes up to `most` of the tokens that a session was given, all but the last, and says what was thought of those that follow them,
    /// each with the `count` likeliest. Nothing is left to score where it gives nothing.
    ///
    /// # Errors
    /// As for [`Model::next`].
    pub fn score(&self, session: &mut Session, most: usize, count: usize) -> Result<Vec<Scored>, Error> {
        let from = session.computed();
        let computed = (session.tokens().len().saturating_sub(from + 1)).min(most.min(self.plan.chunk));
        if computed == 0 {
            return Ok(Vec::new());
        }
        let (tokens, cache, cancel) = session.parts(computed);
        let hidden = self.transformer.forward_batch(&mut [Next { tokens, cache, logits: false, cancel: Some(cancel) }])?;
        let (vocab, mut scores) = (self.transformer.description().vocab_size, Vec::with_capacity(computed));
        let rows = (logits_bytes(self.plan.memory.budget) / (4 * vocab)).max(1);
        for first in (0..computed).step_by(rows) {
            let logits = self.transformer.logits(&hidden.narrow(0, first, rows.min(computed - first))?)?.flatten_all()?.to_vec1::<f32>()?;
            let next = &session.tokens()[from + first + 1..];
            scores.extend(logits.chunks(vocab).zip(next).map(|(logits, token)| Scored::of(*token, logits, count)));
        }
        Ok(scores)
    }
}
