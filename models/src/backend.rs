//! The operations that parts are written in, on the tokens of one forward pass. A backend says what tensors are, and computes.
mod candle;
mod fused;
mod rotary;

pub use candle::{Candle, Plain, State, finite};
pub use fused::{Channels, Coder, Cost, Fused, Lens, Needs, Observer, Packed, Refining, Scratch, Survey, TOKENS, Unread, Work};
pub use rotary::Rotary;

use crate::{
    description::{Attention, Clamped, Router},
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
}

/// MLPs of one width.
#[derive(Clone, Debug)]
pub struct Mlps<M, V> {
    /// Gate, up and down of each.
    pub each: Vec<[M; 3]>,
    /// Their gate, where it is not silu, and the biases of each one's gate, up and down then.
    pub clamped: Option<(Clamped, Vec<[V; 3]>)>,
}

/// Tensors that a model can be loaded into.
pub trait Home: Tensors {
    /// A matrix that is packed in memory.
    fn matrix(&self, matrix: ram_kernels::Matrix) -> Self::Matrix;

    /// A norm's weights, or a bias.
    fn vector(&self, values: Vec<f32>) -> candle_core::Result<Self::Vector>;
}

/// An RMS norm.
#[derive(Debug)]
pub struct Norm<V> {
    pub weight: V,
    /// Added to the mean square.
    pub eps: f64,
    /// What its result is multiplied with.
    pub times: f32,
}

/// Tokens of one sequence in a pass: which they are of all, and the position of the first.
#[derive(Clone, Debug)]
pub struct Span {
    pub tokens: Range<usize>,
    pub start: usize,
}

/// Tokens on their way through the layers: the residual stream, and what an operation leaves for the next one. They may be of several
/// sequences, one after the other; only attention asks of which.
pub trait Pass {
    /// What tensors are.
    type Tensors: Tensors;
    /// Keys and values of a layer.
    type State;

    /// The stream becomes `times` the tokens' rows of `table`.
    fn embed(&mut self, table: &Matrix<Self>, tokens: &[u32], times: f32) -> Result<(), Fault>;

    /// Queries, keys and values: the normed stream times three matrices, with biases where there are some; queries and keys normed where
    /// there are norms for them, as `shape` says, and turned by their positions.
    fn heads(
        &mut self,
        norm: &Norm<Vector<Self>>,
        qkv: &[Matrix<Self>; 3],
        biases: Option<&[Vector<Self>; 3]>,
        norms: Option<&[Norm<Vector<Self>>; 2]>,
        shape: &Attention,
    ) -> Result<(), Fault>;

    /// Keys and values of each sequence join those in its state; every query looks at its sequence up to its own, as far as the shape says,
    /// and at its head's sink, where there are some.
    fn attend(&mut self, states: &mut [&mut Self::State], shape: &Attention, sinks: Option<&Vector<Self>>) -> Result<(), Fault>;

    /// Adds to the stream `times` what `output` and a bias make of what attention found.
    fn add_attended(&mut self, output: &Matrix<Self>, bias: Option<&Vector<Self>>, times: f32) -> Result<(), Fault>;

    /// Each token's experts and their weights from the normed stream times `routers`: that of the experts, to whose logits the first of `more`
    /// is added and the second to their scores while they are chosen, and the shared one's row where it has one; else that has all its weight.
    fn route(&mut self, norm: &Norm<Vector<Self>>, routers: &[Matrix<Self>], more: [Option<&Vector<Self>>; 2], router: &Router) -> Result<(), Fault>;

    /// Adds the weighted results of the chosen `experts` for the normed stream, and those of the shared one.
    fn add_experts(&mut self, norm: &Norm<Vector<Self>>, experts: &Experts<Self>, shared: Option<&Experts<Self>>) -> Result<(), Fault>;

    /// Adds the result of an MLP that every token takes.
    fn add_mlp(&mut self, norm: &Norm<Vector<Self>>, mlp: &Experts<Self>) -> Result<(), Fault>;
}

type Matrix<P> = <<P as Pass>::Tensors as Tensors>::Matrix;
type Vector<P> = <<P as Pass>::Tensors as Tensors>::Vector;
type Experts<P> = <<P as Pass>::Tensors as Tensors>::Experts;
