//! Attention over latents in candle's tensors: queries become such for latents, and what they find becomes values.
use super::{Candle, KvState, times, turned};
use crate::{
    backend::{Norm, Span},
    description::Latent,
    packed_linear::PackedLinear,
};
use candle_core::{Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// Of all tokens what is looked with and at.
pub struct Parts {
    /// (heads, tokens, kept), for latents.
    queries: Tensor,
    /// Latents and what tells positions, (1, tokens, kept).
    pub kept: Tensor,
    /// What makes values of latents, (heads, v_head_dim, kv_lora_rank).
    values: Tensor,
}

/// A matrix of several heads' rows, (heads, rows, cols).
fn heads_of(matrix: &PackedLinear, heads: usize, like: &Tensor) -> Result<Tensor> {
    let all = Tensor::arange(0, matrix.matrix().rows() as u32, like.device())?;
    matrix.rows(&all)?.reshape((heads, (), matrix.matrix().cols()))
}

impl Candle<'_> {
    /// Queries and latents from the products of the stream.
    pub(super) fn latents(
        &self,
        products: Vec<Tensor>,
        inner: &[PackedLinear],
        shape: &Latent,
        (query, latent): (Option<&Norm<Tensor>>, &Norm<Tensor>),
    ) -> Result<Parts> {
        let (heads, rank, tells) = (shape.num_attention_heads, shape.kv_lora_rank, shape.qk_rope_head_dim);
        let (tokens, [cos, sin]) = (products[0].dim(0)?, self.angles(&shape.rope)?);
        let mut inner = inner.iter();
        let mut next = || inner.next().ok_or_else(|| candle_core::Error::Msg("an attention over latents lacks a matrix".into()));
        let mut q = products[0].clone();
        if let Some(query) = query {
            q = next()?.times(&query.of(&q)?)?;
        }
        let q = q.reshape((tokens, heads, shape.query()))?.transpose(0, 1)?;
        let part = |x: &Tensor, at, len| x.narrow(2, at, len)?.contiguous();
        // What makes keys of latents, of every head (kv_lora_rank, qk_nope_head_dim).
        let keys = heads_of(next()?, heads, &q)?;
        let of_latents = part(&q, 0, shape.qk_nope_head_dim)?.matmul(&keys.transpose(1, 2)?.contiguous()?)?;
        let of_positions = turned(&part(&q, shape.qk_nope_head_dim, tells)?, &shape.rope, &cos, &sin)?;
        let own = products[1].unsqueeze(0)?;
        let own = [latent.of(&part(&own, 0, rank)?)?, turned(&part(&own, rank, tells)?, &shape.rope, &cos, &sin)?];
        let queries = times(&Tensor::cat(&[of_latents, of_positions], 2)?, shape.scale as f32)?;
        Ok(Parts { queries, kept: Tensor::cat(&own, 2)?.contiguous()?, values: heads_of(next()?, heads, &q)? })
    }

    /// What the queries of one sequence find, (tokens, heads of v_head_dim).
    pub(super) fn look_at_latents(&self, state: &mut KvState, parts: &Parts, span: &Span, shape: &Latent) -> Result<Tensor> {
        let own = |x: &Tensor| x.narrow(1, span.tokens.start, span.tokens.len())?.contiguous();
        let held = state.join(&[own(&parts.kept)?], self.device)?[0].squeeze(0)?;
        let q = own(&parts.queries)?;
        let (heads, tokens, kept) = q.dims3()?;
        let scores = q.reshape((heads * tokens, kept))?.matmul(&held.t()?)?.reshape((heads, tokens, state.len))?;
        let weights = softmax_last_dim(&scores.broadcast_add(&self.mask(span, state.len, [usize::MAX; 2])?)?)?;
        let found = weights.reshape((heads * tokens, state.len))?.matmul(&held.narrow(1, 0, shape.kv_lora_rank)?.contiguous()?)?;
        let out = found.reshape((heads, tokens, shape.kv_lora_rank))?.matmul(&parts.values.transpose(1, 2)?.contiguous()?)?;
        out.transpose(0, 1)?.contiguous()?.reshape((tokens, ()))
    }
}
