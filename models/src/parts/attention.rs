//! Causal attention with grouped queries: norm, q, k and v, positions, the look back, output.
use super::{At, Supply};
use crate::{
    KvElement,
    backend::{Needs, Norm, Pass, Tensors},
    description,
    forward_error::Fault,
    tensors::Kind,
};
use ram_kernels::KvLayer;

/// Its tensors.
#[derive(Debug)]
pub struct Attention<T: Tensors> {
    shape: description::Attention,
    norm: Norm<T::Vector>,
    qkv: [T::Matrix; 3],
    qkv_bias: Option<[T::Vector; 3]>,
    qk_norm: Option<[Norm<T::Vector>; 2]>,
    sinks: Option<T::Vector>,
    output: T::Matrix,
    output_bias: Option<T::Vector>,
}

impl description::Attention {
    /// Numbers of all queries, and of all keys or values.
    pub(crate) fn widths(&self) -> [usize; 2] {
        [self.num_attention_heads, self.num_key_value_heads].map(|heads| heads * self.head_dim)
    }

    /// Bytes of the keys and values of `capacity` tokens; `usize::MAX` where they are more than that counts.
    pub(crate) fn state_bytes(&self, capacity: usize, element: KvElement) -> usize {
        KvLayer::bytes(self.num_key_value_heads, self.head_dim, capacity, element)
    }

    /// Room for them.
    pub(crate) fn state(&self, capacity: usize, element: KvElement) -> KvLayer {
        KvLayer::new(self.num_key_value_heads, self.head_dim, capacity, element)
    }

    pub(crate) fn needs(&self, hidden_size: usize) -> Needs {
        let [q, kv] = self.widths();
        Needs {
            inputs: hidden_size.max(q),
            products: hidden_size.max(q + 2 * kv),
            qkv: q + 2 * kv,
            queries: q,
            heads: self.num_attention_heads,
            head_dim: self.head_dim,
            ..Needs::default()
        }
    }
}

impl<T: Tensors> Attention<T> {
    pub(super) fn build<S: Supply<Tensors = T>>(shape: &description::Attention, at: At, from: &mut S) -> Result<Attention<T>, S::Error> {
        let [q, kv] = shape.widths();
        let each = [("q", q, Kind::Query), ("k", kv, Kind::Key), ("v", kv, Kind::Value)];
        let norm = at.norm("input_layernorm", at.hidden_size, from)?;
        let mut matrix = |(name, n, kind)| from.matrix(at.spec(&format!("self_attn.{name}_proj.weight"), vec![n, at.hidden_size], kind));
        let qkv = [matrix(each[0])?, matrix(each[1])?, matrix(each[2])?];
        let mut bias = |name, n| from.vector(at.spec(&format!("self_attn.{name}_proj.bias"), vec![n], Kind::Bias));
        let qkv_bias = if shape.qkv_bias { Some([bias("q", q)?, bias("k", kv)?, bias("v", kv)?]) } else { None };
        let mut qk_norm = None;
        if let Some(description::QkNorm { of, names }) = shape.qk_norm {
            let [q, k] = if of == description::Normed::All { [q, kv] } else { [shape.head_dim; 2] };
            qk_norm = Some([at.norm(names[0], q, from)?, at.norm(names[1], k, from)?]);
        }
        let sinks = at.spec("self_attn.sinks", vec![shape.num_attention_heads], Kind::Bias);
        let sinks = if shape.sinks { Some(from.vector(sinks)?) } else { None };
        let output = from.matrix(at.spec("self_attn.o_proj.weight", vec![at.hidden_size, q], Kind::Output))?;
        let bias = at.spec("self_attn.o_proj.bias", vec![at.hidden_size], Kind::Bias);
        let output_bias = if shape.output_bias { Some(from.vector(bias)?) } else { None };
        Ok(Attention { shape: shape.clone(), norm, qkv, qkv_bias, qk_norm, sinks, output, output_bias })
    }

    /// Adds the attention of its norm to the residual stream; `states` are those of the sequences.
    pub(super) fn forward<P: Pass<Tensors = T>>(&self, pass: &mut P, states: &mut [&mut P::State]) -> Result<(), Fault> {
        pass.heads(&self.norm, &self.qkv, self.qkv_bias.as_ref(), self.qk_norm.as_ref(), &self.shape)?;
        pass.attend(states, &self.shape, self.sinks.as_ref())?;
        pass.add_attended(&self.output, self.output_bias.as_ref(), self.shape.multiplier as f32)
    }
}
