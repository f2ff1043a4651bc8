//! Rules for what may come next: a grammar, an end that is forced.
use crate::Error;
use std::fmt;

/// Says before every choice what may be chosen, and is told after it what was.
pub trait Guide: Send {
    /// Sets the logits (vocab_size) of all that may not come next to minus infinity, and leaves at least one.
    ///
    /// # Errors
    /// A sentence, where the rules cannot be followed; the session fails with it.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String>;

    /// The token that was chosen.
    ///
    /// # Errors
    /// A sentence, as above.
    fn chosen(&mut self, token: u32) -> Result<(), String>;
}

/// A guide at work.
pub(super) struct Guided {
    guide: Box<dyn Guide>,
    allowed: Vec<f32>,
}

impl fmt::Debug for Guided {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Guided")
    }
}

impl Guided {
    pub fn new(guide: Box<dyn Guide>) -> Guided {
        Guided { guide, allowed: Vec::new() }
    }

    /// The token that `choose` takes of what is left of `logits`.
    pub fn choose(&mut self, logits: &[f32], choose: impl FnOnce(&[f32]) -> Result<u32, Error>) -> Result<u32, Error> {
        self.allowed.clear();
        self.allowed.extend_from_slice(logits);
        self.guide.restrict(&mut self.allowed).map_err(Error::Guide)?;
        if self.allowed.iter().all(|l| *l == f32::NEG_INFINITY) {
            return Err(Error::Guide("nothing may come next".into()));
        }
        let token = choose(&self.allowed)?;
        self.guide.chosen(token).map_err(Error::Guide)?;
        Ok(token)
    }
}
