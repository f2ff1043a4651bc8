//! What comes next: of one session, of several at once, and as an iterator.
use super::{model::Model, session::Session};
use crate::Error;
use ram_models::Next;
use std::time::Instant;

impl Model {
    /// The next token of a session, which has it then. What was not computed of its text is, some tokens at a time.
    ///
    /// # Errors
    /// [`Error::Empty`] before the first [`Session::prompt`], [`Error::Context`] where the context is full, [`Error::Cancelled`].
    pub fn next(&self, session: &mut Session) -> Result<u32, Error> {
        loop {
            if let Some(Some(token)) = self.step(&mut [&mut *session])?.pop() {
                return Ok(token);
            }
        }
    }

    /// Logits (vocab_size) of what follows a session's tokens, for choices of one's own: [`Session::push`] adds what they were.
    ///
    /// # Errors
    /// As for [`Model::next`].
    pub fn logits<'s>(&self, session: &'s mut Session) -> Result<&'s [f32], Error> {
        while !self.compute(&mut [&mut *session], self.plan.chunk)?.contains(&true) {}
        Ok(session.cache.logits())
    }

    /// One forward pass for several sessions: of as many tokens as the plan has memory for, at least one of each. Who waits for one token is
    /// served first, and longer texts in order, so that a long prompt keeps nobody waiting. Gives each session's next token, or none where
    /// its text is not computed to the end yet. A session's tokens do not depend on the others.
    ///
    /// # Errors
    /// As for [`Model::next`], where it is so for one of them; others may have their next token then.
    pub fn step(&self, sessions: &mut [&mut Session]) -> Result<Vec<Option<u32>>, Error> {
        self.pass(sessions, self.plan.chunk)?.into_iter().collect()
    }

    /// The same with at most `tokens` tokens, but one of each session at least; of each session whether it could choose. Where the pass itself
    /// fails, no session has changed.
    pub(crate) fn pass(&self, sessions: &mut [&mut Session], tokens: usize) -> Result<Vec<Result<Option<u32>, Error>>, Error> {
        let (start, prompts) = (Instant::now(), sessions.iter().map(|s| s.stats.generated == 0).collect::<Vec<_>>());
        let before: Vec<usize> = sessions.iter().map(|s| s.computed()).collect();
        let whole = self.compute(sessions, tokens)?;
        let mut chosen = Vec::with_capacity(sessions.len());
        for ((session, whole), (prompt, before)) in sessions.iter_mut().zip(whole).zip(prompts.into_iter().zip(before)) {
            let (computed, stats) = (session.computed() - before, &mut session.stats);
            if prompt {
                (stats.prompt_tokens, stats.prefill) = (stats.prompt_tokens + computed, stats.prefill + start.elapsed());
            } else {
                (stats.decoded, stats.decode) = (stats.decoded + computed, stats.decode + start.elapsed());
            }
            chosen.push(if whole { session.choose().map(Some) } else { Ok(None) });
        }
        Ok(chosen)
    }

    /// The forward pass of a step; of each session whether all of its tokens are computed and logits known.
    fn compute(&self, sessions: &mut [&mut Session], tokens: usize) -> Result<Vec<bool>, Error> {
        for session in sessions.iter_mut() {
            if session.tokens().is_empty() {
                return Err(Error::Empty);
            }
            if session.is_full() {
                return Err(Error::Context { tokens: session.tokens().len(), capacity: session.capacity() });
            }
            // The logits of the last token may be of another session, or not be there.
            let last = session.tokens().len() - 1;
            session.cache.truncate(last);
        }
        let mut room = tokens.min(self.plan.chunk).saturating_sub(sessions.len());
        let counts = sessions.iter().map(|session| {
            let more = (session.pending().len() - 1).min(room);
            room -= more;
            more + 1
        });
        let counts: Vec<usize> = counts.collect();
        let whole: Vec<bool> = sessions.iter().zip(&counts).map(|(session, count)| *count == session.pending().len()).collect();
        let mut batch = Vec::with_capacity(sessions.len());
        for ((session, count), &logits) in sessions.iter_mut().zip(counts).zip(&whole) {
            let (tokens, cache, cancel) = session.parts(count);
            batch.push(Next { tokens, cache, logits, cancel: Some(cancel) });
        }
        self.transformer.advance(&mut batch)?;
        Ok(whole)
    }

    /// The tokens that follow, as they are computed; ends at an end token, after `max_tokens` or where the context is full.
    pub fn generate<'a>(&'a self, session: &'a mut Session, max_tokens: usize) -> Generator<'a> {
        Generator { model: self, session, left: max_tokens }
    }
}

/// Tokens as they are computed; an end token is not one of them.
pub struct Generator<'a> {
    model: &'a Model,
    /// Whose tokens they are.
    pub session: &'a mut Session,
    left: usize,
}

impl Iterator for Generator<'_> {
    type Item = Result<u32, Error>;
    fn next(&mut self) -> Option<Result<u32, Error>> {
        if self.left == 0 || self.session.is_full() {
            return None;
        }
        self.left -= 1;
        let token = self.model.next(self.session);
        let end = token.as_ref().is_ok_and(|token| self.model.tokenizer.eos.contains(token));
        if end || token.is_err() {
            self.left = 0;
        }
        (!end).then_some(token)
    }
}
