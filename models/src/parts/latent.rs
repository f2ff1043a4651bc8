//! Attention over latents: norm, what queries and latents are made of, norms, positions, the look back, values, output.
use super::{At, MixerOf, Supply};
use crate::{
    KvElement,
    backend::{Mixer, Mixing, Needs, Norm},
    description::{ByHead, Latent},
    tensors::{Kind, TensorSpec},
};
use ram_kernels::KvLayer;

/// Keys for latents and values of them, which files have as one matrix.
const KEYS: &str = "self_attn.embed_q";
const VALUES: &str = "self_attn.unembed_out";
const BOTH: &str = "self_attn.kv_b_proj";

impl Latent {
    /// Bytes of the latents of `capacity` tokens; `usize::MAX` where they are more than that counts.
    pub(super) fn state_bytes(&self, capacity: usize, element: KvElement) -> usize {
        KvLayer::latent_bytes(self.kept(), capacity, element)
    }

    /// Numbers of a token on their way: what queries are made of, then queries, then what they find.
    fn between(&self) -> usize {
        let widest = self.query().max(self.kv_lora_rank).next_multiple_of(16);
        (self.num_attention_heads * widest).max(self.q_lora_rank.unwrap_or(0))
    }

    pub(super) fn needs(&self, hidden_size: usize) -> Needs {
        let heads = self.num_attention_heads;
        let first = self.q_lora_rank.unwrap_or(heads * self.query()) + self.kept();
        Needs {
            inputs: hidden_size.max(heads * self.v_head_dim).max(self.q_lora_rank.unwrap_or(0)),
            head_inputs: [heads, self.qk_nope_head_dim.max(self.kv_lora_rank)],
            products: hidden_size.max(first).max(heads * self.query()).max(heads * self.kv_lora_rank.max(self.v_head_dim)),
            heads_in: (heads + 1) * self.kept(),
            mixed: heads * self.v_head_dim,
            // And a number for each of its rows.
            between: self.between() + heads,
            heads,
            values: [self.kv_lora_rank, KvLayer::summed(self.kept(), self.kv_lora_rank)],
            turned: self.qk_rope_head_dim,
            ..Needs::default()
        }
    }

    /// Where a matrix of a layer lies in the one that files have of two.
    pub(super) fn by_head(&self, spec: &TensorSpec) -> Option<ByHead> {
        let (keys, values) = (self.qk_nope_head_dim, self.v_head_dim);
        let (own, transposed, module) = match spec.kind {
            Kind::KeyUp => (0..keys, true, KEYS),
            Kind::ValueUp => (keys..keys + values, false, VALUES),
            _ => return None,
        };
        let name = spec.name.replace(module, BOTH);
        Some(ByHead { name, heads: self.num_attention_heads, rows: keys + values, stored: self.kv_lora_rank, own, transposed })
    }

    pub(super) fn build<S: Supply>(&self, at: At, from: &mut S) -> Result<MixerOf<S>, S::Error> {
        let (heads, rank) = (self.num_attention_heads, self.kv_lora_rank);
        let norm = at.stream_norm(0, from)?;
        let named = |name: &str, rows, cols, kind| at.spec(&format!("{name}.weight"), vec![rows, cols], kind);
        let (mut query, mut inner) = (None, Vec::new());
        let mut inputs = vec![match self.q_lora_rank {
            None => from.matrix(named("self_attn.q_proj", heads * self.query(), at.hidden_size, Kind::Query))?,
            Some(rank) => from.matrix(named("self_attn.q_a_proj", rank, at.hidden_size, Kind::QueryDown))?,
        }];
        inputs.push(from.matrix(named("self_attn.kv_a_proj_with_mqa", self.kept(), at.hidden_size, Kind::LatentDown))?);
        if let Some(rank) = self.q_lora_rank {
            query = Some(Norm { eps: self.eps, ..at.norm("self_attn.q_a_layernorm", rank, from)? });
            inner.push(from.matrix(named("self_attn.q_b_proj", heads * self.query(), rank, Kind::Query))?);
        }
        let latent = Norm { eps: self.eps, ..at.norm("self_attn.kv_a_layernorm", rank, from)? };
        inner.push(from.matrix(named(KEYS, heads * rank, self.qk_nope_head_dim, Kind::KeyUp))?);
        inner.push(from.matrix(named(VALUES, heads * self.v_head_dim, rank, Kind::ValueUp))?);
        let output = from.matrix(named("self_attn.o_proj", at.hidden_size, heads * self.v_head_dim, Kind::Output))?;
        let of = Mixing::Latent { shape: self.clone(), query, latent };
        Ok(Mixer { norm, inputs, inner, of, output, bias: None, after: at.norm_after(0, from)?, times: 1.0 })
    }
}
