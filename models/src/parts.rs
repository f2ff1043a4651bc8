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
    description::Names,
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
}

impl At {
    fn spec(self, name: &str, shape: Vec<usize>, kind: Kind) -> TensorSpec {
        TensorSpec { name: format!("{}.layers.{}.{name}", self.names.model, self.layer), shape, kind, layer: Some(self.layer), expert: None }
    }

    fn norm<S: Supply>(self, name: &str, len: usize, from: &mut S) -> Result<Norm<VectorOf<S>>, S::Error> {
        let weight = from.vector(self.spec(&format!("{name}.weight"), vec![len], Kind::Norm))?;
        Ok(Norm { weight, eps: self.eps, times: 1.0 })
    }
}
