//! Causal attention with grouped queries: norm, q, k and v, positions, the look back, output.
use super::{At, MixerOf, Supply};
use crate::{
    KvElement,
    backend::{Mixer, Mixing, Needs},
    description::{Attention, AttentionNames, ByHead, Normed, QkNorm},
    tensors::{Kind, TensorSpec},
};
use ram_kernels::KvLayer;

impl Attention {
    /// Numbers of all queries, and of all keys or values.
    pub(crate) fn widths(&self) -> [usize; 2] {
        [self.num_attention_heads, self.num_key_value_heads].map(|heads| heads * self.head_dim)
    }

    /// Numbers of all queries with their gates.
    pub(crate) fn query_rows(&self) -> usize {
        self.widths()[0] * if self.gated { 2 } else { 1 }
    }

    /// Bytes of the keys and values of `capacity` tokens; `usize::MAX` where they are more than that counts.
    pub(super) fn state_bytes(&self, capacity: usize, element: KvElement) -> usize {
        let (heads, dim) = (self.num_key_value_heads, self.head_dim);
        match self.held() {
            Some(window) => KvLayer::window_bytes(heads, dim, capacity, element, window),
            None => KvLayer::bytes(heads, dim, capacity, element),
        }
    }

    pub(super) fn needs(&self, hidden_size: usize) -> Needs {
        let ([q, kv], rows) = (self.widths(), self.query_rows());
        Needs {
            inputs: hidden_size.max(q),
            products: hidden_size.max(rows + 2 * kv),
            heads_in: rows + 2 * kv,
            mixed: q,
            heads: self.num_attention_heads,
            values: [self.head_dim, self.head_dim.next_multiple_of(16)],
            turned: self.rope.dim,
            ..Needs::default()
        }
    }

    /// Where a matrix of a layer lies in the one that files have of three.
    pub(super) fn by_head(&self, spec: &TensorSpec) -> Option<ByHead> {
        let ([q, kv], joined) = (self.widths(), self.names.joined?);
        let (own, letter) = match spec.kind {
            Kind::Query => (0..q, "q"),
            Kind::Key => (q..q + kv, "k"),
            Kind::Value => (q + kv..q + 2 * kv, "v"),
            _ => return None,
        };
        let name = spec.name.replace(&format!("{letter}_proj"), joined);
        Some(ByHead { name, heads: 1, rows: q + 2 * kv, stored: spec.shape[1], own, transposed: false })
    }

    pub(super) fn build<S: Supply>(&self, at: At, from: &mut S) -> Result<MixerOf<S>, S::Error> {
        let ([q, kv], rows) = (self.widths(), self.query_rows());
        let each = [("q", rows, Kind::Query), ("k", kv, Kind::Key), ("v", kv, Kind::Value)];
        let norm = at.stream_norm(0, from)?;
        let AttentionNames { module, output: last, .. } = self.names;
        let mut matrix = |(name, n, kind)| from.matrix(at.spec(&format!("{module}.{name}_proj.weight"), vec![n, at.hidden_size], kind));
        let read = if self.tied_values { 2 } else { 3 };
        let inputs = each.into_iter().take(read).map(&mut matrix).collect::<Result<Vec<_>, _>>()?;
        let mut bias = |name, n| from.vector(at.spec(&format!("{module}.{name}_proj.bias"), vec![n], Kind::Bias));
        let biases = if self.qkv_bias { Some([bias("q", rows)?, bias("k", kv)?, bias("v", kv)?]) } else { None };
        let mut norms = None;
        if let Some(QkNorm { of, names }) = self.qk_norm {
            let [q, k] = if of == Normed::All { [q, kv] } else { [self.head_dim; 2] };
            norms = Some([at.norm(names[0], q, from)?, at.norm(names[1], k, from)?]);
        }
        let sinks = at.spec(&format!("{module}.sinks"), vec![self.num_attention_heads], Kind::Bias);
        let sinks = if self.sinks { Some(from.vector(sinks)?) } else { None };
        let output = from.matrix(at.spec(&format!("{module}.{last}.weight"), vec![at.hidden_size, q], Kind::Output))?;
        let bias = at.spec(&format!("{module}.{last}.bias"), vec![at.hidden_size], Kind::Bias);
        let bias = if self.output_bias { Some(from.vector(bias)?) } else { None };
        let of = Mixing::Attention { shape: self.clone(), biases, norms, sinks };
        Ok(Mixer { norm, inputs, inner: Vec::new(), of, output, bias, after: at.norm_after(0, from)?, times: self.multiplier as f32 })
    }
}
