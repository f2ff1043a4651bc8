//! What models are made of. A part owns its tensors: which there are, how they come from a source, what is computed with them, and what
//! that takes.
mod attention;
mod delta_net;
mod latent;
mod mixer;
mod mlp;
mod model;

pub use model::Model;

use crate::{
    backend::{Mixer, Mlps, Norm, Tensors},
    description::{Names, StreamNorm},
    tensors::{Kind, TensorSpec},
};
use std::convert::Infallible;

/// Gives tensors one by one, in order of computation.
pub trait Supply {
    /// What they are.
    type Tensors: Tensors;
    /// What can go wrong.
    type Error;

    /// A matrix.
    fn matrix(&mut self, spec: TensorSpec) -> Result<<Self::Tensors as Tensors>::Matrix, Self::Error>;
    /// A norm's weights, or a bias.
    fn vector(&mut self, spec: TensorSpec) -> Result<<Self::Tensors as Tensors>::Vector, Self::Error>;
}

type MatrixOf<S> = <<S as Supply>::Tensors as Tensors>::Matrix;
type VectorOf<S> = <<S as Supply>::Tensors as Tensors>::Vector;

type MixerOf<S> = Mixer<MatrixOf<S>, VectorOf<S>>;

/// The list of the tensors that are asked for.
#[derive(Debug, Default)]
pub struct List(pub Vec<TensorSpec>);

impl Tensors for List {
    type Matrix = ();
    type Vector = ();
    type Experts = ();
    fn experts(_: Mlps<(), ()>) {}
}

impl Supply for List {
    type Tensors = List;
    type Error = Infallible;
    fn matrix(&mut self, spec: TensorSpec) -> Result<(), Infallible> {
        self.0.push(spec);
        Ok(())
    }
    fn vector(&mut self, spec: TensorSpec) -> Result<(), Infallible> {
        self.0.push(spec);
        Ok(())
    }
}

/// Names and shapes of one layer's tensors.
#[derive(Clone, Copy)]
struct At {
    names: Names,
    layer: usize,
    hidden_size: usize,
    eps: f64,
    norm: StreamNorm,
}

/// A norm of the stream, of tensors that `spec` names by what they end with.
fn stream_norm<S: Supply>(of: StreamNorm, eps: f64, spec: impl Fn(&str, Kind) -> TensorSpec, from: &mut S) -> Result<Norm<VectorOf<S>>, S::Error> {
    let weight = from.vector(spec("weight", Kind::Norm))?;
    let bias = if of == (StreamNorm::Layer { bias: true }) { Some(from.vector(spec("bias", Kind::Bias))?) } else { None };
    Ok(Norm { weight, bias, eps, centred: of != StreamNorm::Rms, times: 1.0 })
}

impl At {
    fn spec(self, name: &str, shape: Vec<usize>, kind: Kind) -> TensorSpec {
        TensorSpec {
            name: format!("{}.{}.{}.{name}", self.names.model, self.names.layers, self.layer),
            shape,
            kind,
            layer: Some(self.layer),
            expert: None,
        }
    }

    /// What the stream is read through; of [`Names::norms`] the first or the second.
    fn stream_norm<S: Supply>(self, which: usize, from: &mut S) -> Result<Norm<VectorOf<S>>, S::Error> {
        let name = self.names.norms[which];
        stream_norm(self.norm, self.eps, |end, kind| self.spec(&format!("{name}.{end}"), vec![self.hidden_size], kind), from)
    }

    /// What results are normalised by before they are added to the stream; of [`Names::after`] the first or the second.
    fn norm_after<S: Supply>(self, which: usize, from: &mut S) -> Result<Option<Norm<VectorOf<S>>>, S::Error> {
        self.names.after.map(|names| self.norm(names[which], self.hidden_size, from)).transpose()
    }

    fn norm<S: Supply>(self, name: &str, len: usize, from: &mut S) -> Result<Norm<VectorOf<S>>, S::Error> {
        let weight = from.vector(self.spec(&format!("{name}.weight"), vec![len], Kind::Norm))?;
        Ok(Norm::rms(weight, self.eps))
    }
}
