//! How tokens learn of those before them, in tensors: what comes in, what is made of it, what goes out.
use super::{Norm, StateShape};
use crate::description::{Attention, DeltaNet, Latent};

/// Adds `times` what `output` makes of what is found, to the stream.
#[derive(Clone, Debug)]
pub struct Mixer<M, V> {
    pub norm: Norm<V>,
    /// Of the normed stream: queries, keys and values; of a delta net what they, gates, betas and decays come from.
    pub inputs: Vec<M>,
    /// Of what is made of those: what makes queries of theirs where that is another, queries for latents of those for keys, values of latents.
    pub inner: Vec<M>,
    pub of: Mixing<V>,
    pub output: M,
    pub bias: Option<V>,
    /// What that is normalised by before it is added, where it is.
    pub after: Option<Norm<V>>,
    pub times: f32,
}

/// What is made of the inputs.
#[derive(Clone, Debug)]
pub enum Mixing<V> {
    /// Every query looks at its sequence up to its own, as far as the shape says, and at its head's sink, where there are some.
    Attention {
        shape: Attention,
        /// Of queries, keys and values.
        biases: Option<[V; 3]>,
        /// Of queries and keys, as `shape` says.
        norms: Option<[Norm<V>; 2]>,
        sinks: Option<V>,
    },
    /// The same of latents.
    Latent {
        shape: Latent,
        /// Of what queries are made of, where it is not the stream.
        query: Option<Norm<V>>,
        latent: Norm<V>,
    },
    DeltaNet {
        shape: DeltaNet,
        /// Of the convolution, as [`super::Tensors::taps`] has them.
        taps: V,
        /// Of every value head the logarithm of how fast it forgets.
        decay: V,
        /// Of every value head what is added to its time steps.
        time: V,
        /// Of its results.
        norm: Norm<V>,
    },
}

/// The end of a mixer.
#[derive(Debug)]
pub struct Ending<'a, M, V> {
    pub output: &'a M,
    pub bias: Option<&'a V>,
    pub after: Option<&'a Norm<V>>,
    pub times: f32,
}

impl<M, V> Mixer<M, V> {
    pub fn ending(&self) -> Ending<'_, M, V> {
        Ending { output: &self.output, bias: self.bias.as_ref(), after: self.after.as_ref(), times: self.times }
    }
}

impl<V> Mixing<V> {
    /// What it makes, for an error.
    pub fn results(&self) -> &'static str {
        match self {
            Mixing::Attention { .. } | Mixing::Latent { .. } => "results of the attention",
            Mixing::DeltaNet { .. } => "results of the delta net",
        }
    }

    /// The state of a layer of it.
    pub fn state(&self) -> StateShape {
        match self {
            Mixing::Attention { shape, .. } => StateShape::of_attention(shape),
            Mixing::Latent { shape, .. } => StateShape::of_latents(shape),
            Mixing::DeltaNet { shape, .. } => StateShape::Delta(shape.shape),
        }
    }

    /// The same of other vectors.
    pub fn map<U>(&self, vector: impl Fn(&V) -> U) -> Mixing<U> {
        match self {
            Mixing::Attention { shape, biases, norms, sinks } => Mixing::Attention {
                shape: shape.clone(),
                biases: biases.as_ref().map(|all| all.each_ref().map(&vector)),
                norms: norms.as_ref().map(|both| both.each_ref().map(|norm| norm.map(&vector))),
                sinks: sinks.as_ref().map(&vector),
            },
            Mixing::Latent { shape, query, latent } => {
                Mixing::Latent { shape: shape.clone(), query: query.as_ref().map(|norm| norm.map(&vector)), latent: latent.map(&vector) }
            }
            Mixing::DeltaNet { shape, taps, decay, time, norm } => {
                Mixing::DeltaNet { shape: shape.clone(), taps: vector(taps), decay: vector(decay), time: vector(time), norm: norm.map(&vector) }
            }
        }
    }
}
