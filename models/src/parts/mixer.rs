//! How the tokens of a layer learn of those before them: what that takes.
use super::{At, MixerOf, Supply};
use crate::{KvElement, backend::Needs, description::Mixer};

impl Mixer {
    /// Bytes of what a sequence of `capacity` tokens leaves; `usize::MAX` where they are more than that counts.
    pub(crate) fn state_bytes(&self, capacity: usize, element: KvElement) -> usize {
        match self {
            Mixer::Attention(attention) => attention.state_bytes(capacity, element),
            Mixer::Latent(latent) => latent.state_bytes(capacity, element),
            Mixer::DeltaNet(net) => net.state_bytes(),
        }
    }

    /// Whether those do not grow with the sequence once it is long.
    pub(crate) fn is_bounded(&self) -> bool {
        match self {
            Mixer::Attention(attention) => attention.held().is_some(),
            Mixer::Latent(_) => false,
            Mixer::DeltaNet(_) => true,
        }
    }

    pub(crate) fn needs(&self, hidden_size: usize) -> Needs {
        match self {
            Mixer::Attention(attention) => attention.needs(hidden_size),
            Mixer::Latent(latent) => latent.needs(hidden_size),
            Mixer::DeltaNet(net) => net.needs(hidden_size),
        }
    }

    pub(super) fn build<S: Supply>(&self, at: At, from: &mut S) -> Result<MixerOf<S>, S::Error> {
        match self {
            Mixer::Attention(attention) => attention.build(at, from),
            Mixer::Latent(latent) => latent.build(at, from),
            Mixer::DeltaNet(net) => net.build(at, from),
        }
    }
}
