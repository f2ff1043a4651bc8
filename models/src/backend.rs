//! The operations that parts are written in, on the tokens of one forward pass. A backend says what tensors are, and computes.
mod candle;
mod fused;
mod mixer;
mod rotary;

pub use candle::{Candle, Plain, State, finite};
pub use fused::{Channels, Coder, Cost, Fused, LayerState, Lens, Needs, Observer, Packed, Refining, Scratch, Survey, TOKENS, Unread, Work};
pub use mixer::{Ending, Mixer, Mixing};
pub use rotary::Rotary;

use crate::{
    description::{self, Clamped, DeltaShape, Router},
    forward_error::Fault,
};
use std::{fmt::Debug, ops::Range};

/// What a model's tensors are.
pub trait Tensors: Debug {
    /// (out, in).
    type Matrix: Debug;
    /// A norm's weights, or a bias.
    type Vector: Debug;
    /// MLPs of one width, as many as there are experts.
    type Experts: Debug;

    /// MLPs of their gates, ups and downs.
    fn experts(of: Mlps<Self::Matrix, Self::Vector>) -> Self::Experts;

    /// The taps of a convolution of so many tokens, (channels, 1, kernel) as files have them.
    fn taps(of: Self::Vector, _kernel: usize) -> Self::Vector {
        of
    }
}

/// MLPs of one width.
#[derive(Clone, Debug)]
pub struct Mlps<M, V> {
    /// Gate, up and down of each.
    pub each: Vec<[M; 3]>,
    /// What is made of the products of gate and up.
    pub glu: Glu<V>,
    /// Whether a token's weight multiplies what one takes, not what it gives.
    pub weigh_inputs: bool,
}

/// What MLPs make of the products of gate and up.
#[derive(Clone, Debug)]
pub enum Glu<V> {
    Silu,
    Gelu,
    /// With the biases of each one's gate, up and down.
    Clamped(Clamped, Vec<[V; 3]>),
}

impl<V> Glu<V> {
    /// The same of other vectors.
    pub fn map<U>(&self, vector: impl Fn(&V) -> U) -> Glu<U> {
        match self {
            Glu::Silu => Glu::Silu,
            Glu::Gelu => Glu::Gelu,
            Glu::Clamped(gate, biases) => Glu::Clamped(*gate, biases.iter().map(|own| own.each_ref().map(&vector)).collect()),
        }
    }
}

/// Norms of a layer's MLPs.
#[derive(Clone, Debug)]
pub struct MlpNorms<V> {
    /// What they read the stream through.
    pub before: Norm<V>,
    /// Those of a mixture whose experts are apart.
    pub apart: Option<Apart<V>>,
    /// What their sum is normalised by before it is added, where it is.
    pub after: Option<Norm<V>>,
}

/// Norms of a mixture whose routed experts and shared one each have their own.
#[derive(Clone, Debug)]
pub struct Apart<V> {
    /// What the routed experts read the stream through.
    pub routed: Norm<V>,
    /// Of the results of those, and of the shared one.
    pub after: [Norm<V>; 2],
}

/// Tensors that a model can be loaded into.
pub trait Home: Tensors {
    /// A matrix that is packed in memory.
    fn matrix(&self, matrix: ram_kernels::Matrix) -> Self::Matrix;

    /// A norm's weights, or a bias.
    fn vector(&self, values: Vec<f32>) -> candle_core::Result<Self::Vector>;
}

/// An RMS norm, or a layer norm.
#[derive(Clone, Debug)]
pub struct Norm<V> {
    pub weight: V,
    pub bias: Option<V>,
    /// Added to the mean square.
    pub eps: f64,
    /// Whether the mean is taken off first.
    pub centred: bool,
    /// What its result is multiplied with.
    pub times: f32,
}

impl<V> Norm<V> {
    /// An RMS norm.
    pub fn rms(weight: V, eps: f64) -> Norm<V> {
        Norm { weight, bias: None, eps, centred: false, times: 1.0 }
    }

    /// The same of other weights.
    pub fn map<U>(&self, vector: impl Fn(&V) -> U) -> Norm<U> {
        let Norm { eps, centred, times, .. } = *self;
        Norm { weight: vector(&self.weight), bias: self.bias.as_ref().map(&vector), eps, centred, times }
    }
}

/// What is made of the products of the head.
#[derive(Clone, Debug)]
pub struct Logits<V> {
    /// Added to them.
    pub bias: Option<V>,
    /// What they come near then.
    pub cap: Option<f32>,
}

impl<V> Logits<V> {
    /// Whether they are logits already.
    pub fn is_plain(&self) -> bool {
        self.bias.is_none() && self.cap.is_none()
    }
}

/// What the state of a layer is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StateShape {
    /// KV heads, numbers of each, and how many tokens a query looks at, where that is not all.
    Kv(usize, usize, Option<usize>),
    /// Numbers that are kept of a token, and those of them that are its value.
    Latent(usize, usize),
    /// Of a delta net.
    Delta(DeltaShape),
}

impl StateShape {
    /// That of a layer with this mixer.
    pub fn of(mixer: &description::Mixer) -> StateShape {
        match mixer {
            description::Mixer::Attention(attention) => StateShape::of_attention(attention),
            description::Mixer::Latent(latent) => StateShape::of_latents(latent),
            description::Mixer::DeltaNet(net) => StateShape::Delta(net.shape),
        }
    }

    fn of_attention(a: &description::Attention) -> StateShape {
        StateShape::Kv(a.num_key_value_heads, a.head_dim, a.held())
    }

    fn of_latents(latent: &description::Latent) -> StateShape {
        StateShape::Latent(latent.kept(), latent.kv_lora_rank)
    }

    /// Heads of keys, and numbers of each.
    pub fn keys(self) -> Option<(usize, usize)> {
        match self {
            StateShape::Kv(heads, dim, _) => Some((heads, dim)),
            StateShape::Latent(dim, _) => Some((1, dim)),
            StateShape::Delta(_) => None,
        }
    }
}

/// Tokens of one sequence in a pass: which they are of all, and the position of the first.
#[derive(Clone, Debug)]
pub struct Span {
    pub tokens: Range<usize>,
    pub start: usize,
}

/// Tokens on their way through the layers: the residual stream, and what an operation leaves for the next one. They may be of several
/// sequences, one after the other; only mixers ask of which.
pub trait Pass {
    /// What tensors are.
    type Tensors: Tensors;
    /// What a layer knows of a sequence.
    type State;

    /// The stream becomes `times` the tokens' rows of `table`.
    fn embed(&mut self, table: &Matrix<Self>, tokens: &[u32], times: f32) -> Result<(), Fault>;

    /// Adds to the stream what a mixer makes of it and of each sequence's tokens before, which its state has; the new ones join them.
    fn mix(&mut self, mixer: &MixerOf<Self>, states: &mut [&mut Self::State]) -> Result<(), Fault>;

    /// Each token's experts and their weights from the normed stream times `routers`: that of the experts, to whose logits the first of `more`
    /// is added and the second to their scores while they are chosen, and whose weights are multiplied with the third, and the shared one's row
    /// where it has one; else that has all its weight.
    fn route(&mut self, norm: &Norm<Vector<Self>>, routers: &[Matrix<Self>], more: [Option<&Vector<Self>>; 3], router: &Router) -> Result<(), Fault>;

    /// Adds the weighted results of the chosen `experts` for the normed stream, and those of the shared one.
    fn add_experts(&mut self, norms: &MlpNorms<Vector<Self>>, experts: &Experts<Self>, shared: Option<&Experts<Self>>) -> Result<(), Fault>;

    /// Adds the result of an MLP that every token takes.
    fn add_mlp(&mut self, norms: &MlpNorms<Vector<Self>>, mlp: &Experts<Self>) -> Result<(), Fault>;

    /// Multiplies the stream with the only number of a vector.
    fn scale(&mut self, by: &Vector<Self>) -> Result<(), Fault>;
}

type MixerOf<P> = Mixer<Matrix<P>, Vector<P>>;
type Matrix<P> = <<P as Pass>::Tensors as Tensors>::Matrix;
type Vector<P> = <<P as Pass>::Tensors as Tensors>::Vector;
type Experts<P> = <<P as Pass>::Tensors as Tensors>::Experts;
