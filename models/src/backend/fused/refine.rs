//! A pass over weights that are coded as an operation needs them: the same operations, with what coding leaves of the weights.
use super::{
    Fused, Packed,
    survey::{Named, Taking, Unread, plain, taking},
};
use crate::{
    backend::{Norm, Pass, Tensors},
    description::{Attention, Router},
    forward_error::Fault,
    tensors::TensorSpec,
};
use ram_kernels::{Arena, Format, Matrix, Moments, Team, normed};
use std::sync::Arc;

/// Who codes a model's matrices.
pub trait Coder {
    /// What can go wrong.
    type Error;

    /// The values of a norm or a bias, as the model will have them.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;

    /// Codes matrices that share their inputs; nothing is known of those of an embedding.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn code(&mut self, team: &Team, specs: &[&TensorSpec], inputs: Option<&Moments>) -> Result<Vec<Matrix>, Self::Error>;

    /// How many inputs apart errors may be to make up for each other.
    fn span(&self) -> usize;
}

/// A pass by a team of threads.
pub struct Refining<'a, C: Coder> {
    fused: Fused<'a>,
    coder: &'a mut C,
    /// Why matrices could not be coded.
    failed: &'a mut Option<C::Error>,
    /// What the router of a layer took, and its experts do.
    routed: Option<Moments>,
}

impl<'a, C: Coder> Refining<'a, C> {
    /// The pass `fused` over what `coder` makes of the weights. Where it cannot the reason is left in `failed`.
    pub fn new(fused: Fused<'a>, coder: &'a mut C, failed: &'a mut Option<C::Error>) -> Refining<'a, C> {
        Refining { fused, coder, failed, routed: None }
    }

    fn code(&mut self, specs: &[&TensorSpec], inputs: Option<&Moments>) -> Result<Vec<Matrix>, Fault> {
        self.coder.code(self.fused.team, specs, inputs).map_err(|e| {
            *self.failed = Some(e);
            candle_core::Error::Msg("a matrix cannot be coded".into()).into()
        })
    }

    fn code_one(&mut self, spec: &TensorSpec, inputs: Option<&Moments>) -> Result<Matrix, Fault> {
        Ok(self.code(&[spec], inputs)?.remove(0))
    }

    /// Second moments of the normed stream of some tokens.
    fn normed(&self, norm: &Norm<Vec<f32>>, tokens: usize, token: impl Fn(usize) -> usize + Sync) -> Moments {
        let Fused { s, hidden_size, team, .. } = &self.fused;
        let (hidden, size, level) = (&s.hidden, *hidden_size, team.level());
        let mut moments = Moments::new(size, self.coder.span());
        moments.add(team, tokens, |i, to| {
            let row = &hidden[token(i) * size..][..size];
            let scale = normed(level, row, &norm.weight, norm.eps as f32).scale;
            to.iter_mut().zip(row).zip(&norm.weight).for_each(|((to, x), weight)| *to = x * scale * weight);
        });
        moments
    }

    /// Codes the head for the stream behind the last layer.
    pub fn finish(mut self, norm: &Norm<Named>, head: Option<&TensorSpec>) -> Result<(), Fault> {
        let Some(head) = head else { return Ok(()) };
        let inputs = self.normed(&plain(norm), self.fused.s.tokens.len(), |i| i);
        self.code_one(head, Some(&inputs)).map(drop)
    }

    /// All MLPs of a layer; `all` are the moments of all tokens where these are shared out.
    fn mlps(&mut self, norm: &Norm<Named>, each: &[Taking], all: Option<Moments>) -> Result<(), Fault> {
        let own = plain(norm);
        let mut sum = vec![0.0; self.fused.s.hidden.len()];
        for ([gate, up, down], taken) in each {
            let mut inputs = self.normed(&own, taken.len(), |i| taken[i].0 as usize);
            if let Some(all) = &all {
                inputs.add_like(all);
            }
            let mut pair = self.code(&[gate, up], Some(&inputs))?;
            let (up, gate) = (pair.remove(1), pair.remove(0));
            let mut middle = Moments::new(down.shape[1], self.coder.span());
            if !taken.is_empty() {
                // Stands for the matrix that takes what gate and up give, as it is.
                let any = Arena::new(64 * down.shape[1]).map_err(candle_core::Error::from)?;
                let any = Matrix::new(Arc::new(any), 0, Format::F32, 16, down.shape[1]);
                self.fused.gate(&Packed::experts(vec![[gate.clone(), up.clone(), any]]), taken, &own)?;
                let rows = self.fused.s.mixture.middle(0);
                middle.add(self.fused.team, taken.len(), |i, to| to.iter_mut().zip(rows.dense(i)).for_each(|(to, x)| *to = x));
            }
            let down = self.code_one(down, Some(&middle))?;
            if taken.is_empty() {
                continue;
            }
            let experts = Packed::experts(vec![[gate, up, down]]);
            let out = self.fused.results(&experts, taken, &own)?;
            self.fused.add_results(taken, &out, &mut sum);
        }
        self.fused.s.hidden.iter_mut().zip(sum).for_each(|(x, y)| *x += y);
        Ok(())
    }
}

impl<C: Coder> Pass for Refining<'_, C> {
    type Tensors = Unread;
    type State = ();

    fn embed(&mut self, table: &TensorSpec, tokens: &[u32]) -> Result<(), Fault> {
        let table = self.code_one(table, None)?;
        self.fused.embed(&table, tokens)
    }

    fn heads(
        &mut self,
        norm: &Norm<Named>,
        specs: &[TensorSpec; 3],
        biases: Option<&[Named; 3]>,
        norms: Option<&[Norm<Named>; 2]>,
        shape: &Attention,
    ) -> Result<(), Fault> {
        let own = plain(norm);
        let inputs = self.normed(&own, self.fused.s.tokens.len(), |i| i);
        let qkv = self.code(&specs.each_ref(), Some(&inputs))?;
        let qkv = [qkv[0].clone(), qkv[1].clone(), qkv[2].clone()];
        let biases = biases.map(|b| b.each_ref().map(|(_, values)| values.clone()));
        let norms = norms.map(|n| n.each_ref().map(plain));
        self.fused.heads(&own, &qkv, biases.as_ref(), norms.as_ref(), shape)
    }

    fn attend(&mut self, _: &mut [&mut ()], shape: &Attention) -> Result<(), Fault> {
        self.fused.attend_alone(shape)
    }

    fn add_attended(&mut self, spec: &TensorSpec, bias: Option<&Named>) -> Result<(), Fault> {
        let mut inputs = Moments::new(spec.shape[1], self.coder.span());
        let (attended, cols) = (&self.fused.s.attended, spec.shape[1]);
        inputs.add(self.fused.team, self.fused.s.tokens.len(), |i, to| to.copy_from_slice(&attended[i * cols..][..cols]));
        let output = self.code_one(spec, Some(&inputs))?;
        self.fused.add_attended(&output, bias.map(|(_, values)| values))
    }

    fn route(&mut self, norm: &Norm<Named>, routers: &[TensorSpec], router: &Router) -> Result<(), Fault> {
        let own = plain(norm);
        let inputs = self.normed(&own, self.fused.s.tokens.len(), |i| i);
        let each = self.code(&routers.iter().collect::<Vec<_>>(), Some(&inputs))?;
        self.routed = Some(inputs);
        self.fused.route(&own, &each, router)
    }

    fn add_experts(&mut self, norm: &Norm<Named>, experts: &Vec<[TensorSpec; 3]>, shared: Option<&Vec<[TensorSpec; 3]>>) -> Result<(), Fault> {
        let each = taking(self.fused.s, experts, shared);
        let all = self.routed.take();
        self.mlps(norm, &each, all)
    }

    fn add_mlp(&mut self, norm: &Norm<Named>, mlp: &Vec<[TensorSpec; 3]>) -> Result<(), Fault> {
        let all = self.fused.s.tokens.iter().map(|token| (*token, 1.0)).collect();
        self.mlps(norm, &[(&mlp[0], all)], None)
    }
}
