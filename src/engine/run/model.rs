//! A model that runs: weights, tokenizer and plan together.
use super::{
    perplexity::{Protocol, Report, Running, Scored, perplexity},
    sampler::{Sampler, Sampling},
    session::Session,
    tokenizer::Tokenizer,
};
use crate::{
    Error,
    checkpoint::Checkpoint,
    load::{self, Loaded},
    planner::{Plan, logits_bytes},
};
use ram_models::Transformer;
use std::{path::Path, sync::Arc};

/// Weights in memory as a plan says, with the tokenizer.
pub struct Model {
    /// What computes.
    pub transformer: Transformer,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// What every tensor got.
    pub plan: Plan,
}

impl Model {
    /// Reads and quantizes the weights; `done` is told how many weights each piece had.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint's weights or its tokenizer.
    pub fn load(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Model, Error> {
        Model::new(checkpoint, plan, &load::load(checkpoint, plan, done)?)
    }

    /// A model of weights that [`load()`](load::load) or [`packed::read`](crate::packed::read) gave for the same plan.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint's tokenizer.
    pub fn new(checkpoint: &Checkpoint, plan: &Plan, weights: &Loaded) -> Result<Model, Error> {
        plan.belongs_to(checkpoint)?;
        let description = checkpoint.description().reaching(plan.context);
        let tokenizer = Arc::new(Tokenizer::open(checkpoint.folder(), description.vocab_size)?);
        Ok(Model { transformer: weights.transformer(description, &plan.backend)?, tokenizer, plan: plan.clone() })
    }

    /// A session without a text, of up to the plan's context, whose tokens are chosen by `sampling`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a number out of its range.
    pub fn session(&self, sampling: Sampling) -> Result<Session, Error> {
        Ok(Session::new(self.transformer.cache(self.plan.context, self.plan.kv), Sampler::new(sampling)?))
    }

    /// Whose sessions it can go on with: of the same plan, and with the same positions.
    fn kind(&self) -> String {
        let longer = self.transformer.description().reaches_longer();
        format!("{}{}", self.plan.fingerprint, if longer { ", for longer texts," } else { "" })
    }

    /// Writes a session to a file, whole or not at all: its tokens, their keys and values, and how far it is in its choices.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, session: &Session, path: &Path) -> Result<(), Error> {
        session.save(path, &self.kind())
    }

    /// The session that [`Model::save`] wrote, of a model with the same plan and numbers in its KV cache: it goes on the same, with the same
    /// `sampling`.
    ///
    /// # Errors
    /// [`Error::File`] where it is another's, damaged or none; [`Error::Context`] where it is too long; as for [`Model::session`].
    pub fn restore(&self, path: &Path, sampling: Sampling) -> Result<Session, Error> {
        let mut session = self.session(sampling)?;
        session.restore(path, &self.kind())?;
        Ok(session)
    }

    /// Perplexity of a text, tokenized once without special tokens; against `reference` also the KL divergence.
    ///
    /// # Errors
    /// [`Error::Short`] for a text of less than one window.
    pub fn perplexity(
        &self,
        text: &str,
        protocol: &Protocol,
        max_windows: Option<usize>,
        reference: Option<&Model>,
        progress: &mut dyn FnMut(Running),
    ) -> Result<Report, Error> {
        let tokens = self.tokenizer.encode(text, false)?;
        fn scored(m: &Model) -> Scored<'_> {
            Scored { transformer: &m.transformer, kv: m.plan.kv }
        }
        let (own, other) = (scored(self), reference.map(scored));
        perplexity(&own, other.as_ref(), &tokens, protocol, max_windows, self.plan.chunk, logits_bytes(self.plan.memory.budget), progress)
    }
}
