//! The operations of ram-kernels as candle operations on f32 tensors.
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use ram_kernels::{Attention, Experts, Matrix};
use std::cell::RefCell;

/// Matrices that are multiplied with the same inputs, in one parallel region.
#[derive(Debug)]
pub(crate) struct Linear<const N: usize>(pub [Matrix; N]);

impl<const N: usize> Linear<N> {
    /// (tokens, rows) of every matrix, for `x` (tokens, cols).
    pub fn forward(&self, x: &Tensor) -> Result<[Tensor; N]> {
        let tokens = x.dim(0)?;
        // One after the other in one buffer: each is contiguous, so cutting it up copies nothing.
        let all = x.apply_op1_no_bwd(self)?;
        let mut parts = [const { None }; N];
        let mut start = 0;
        for (part, m) in parts.iter_mut().zip(&self.0) {
            *part = Some(all.narrow(0, start, tokens * m.rows())?.reshape((tokens, m.rows()))?);
            start += tokens * m.rows();
        }
        Ok(parts.map(|part| part.unwrap_or_else(|| all.clone())))
    }
}

impl<const N: usize> CustomOp1 for Linear<N> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, cols) = layout.shape().dims2()?;
        if self.0.iter().any(|m| m.cols() != cols) {
            bail!("inputs of {cols} for a matrix of {} columns", self.0[0].cols());
        }
        let mut out = vec![0.0; tokens * self.0.iter().map(Matrix::rows).sum::<usize>()];
        let mut rest = out.as_mut_slice();
        let mut parts = Vec::with_capacity(N);
        for m in &self.0 {
            let (part, after) = rest.split_at_mut(tokens * m.rows());
            parts.push(part);
            rest = after;
        }
        ram_kernels::linear(values(x, layout)?, &self.0.each_ref(), &mut parts);
        let len = out.len();
        Ok((CpuStorage::F32(out), len.into()))
    }
}

/// `sum + experts(x)`: both (tokens, hidden_size).
pub(crate) fn add_experts(sum: &Tensor, x: &Tensor, experts: &Experts, routes: &[(u32, f32)], per_token: usize) -> Result<Tensor> {
    sum.apply_op2_no_bwd(x, &AddExperts { experts, routes, per_token })
}

struct AddExperts<'a> {
    experts: &'a Experts,
    /// (expert, weight) pairs, `per_token` for each token.
    routes: &'a [(u32, f32)],
    per_token: usize,
}

impl CustomOp2 for AddExperts<'_> {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn cpu_fwd(&self, sum: &CpuStorage, sum_layout: &Layout, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if sum_layout.shape() != layout.shape() {
            bail!("experts of {:?} added to {:?}", layout.shape(), sum_layout.shape());
        }
        let mut out = values(sum, sum_layout)?.to_vec();
        ram_kernels::experts(values(x, layout)?, self.experts, self.routes, self.per_token, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Appends keys and values (tokens, kv_heads, head_dim) to the cache and attends with queries (tokens, heads, head_dim).
pub(crate) fn attend(cache: &mut Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    q.apply_op3_no_bwd(k, v, &Attend(RefCell::new(cache)))
}

/// In a cell, because operations get themselves shared and the cache grows.
struct Attend<'a>(RefCell<&'a mut Attention>);

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, heads, _) = q_layout.shape().dims3()?;
        let mut out = vec![0.0; q_layout.shape().elem_count()];
        let (q, k, v) = (values(q, q_layout)?, values(k, k_layout)?, values(v, v_layout)?);
        ram_kernels::attention(&mut self.0.borrow_mut(), q, k, v, heads, &mut out);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }
}

/// Rows of the embedding, (tokens, hidden_size).
pub(crate) fn embed(matrix: &Matrix, tokens: &[u32]) -> Result<Tensor> {
    let mut out = vec![0.0; tokens.len() * matrix.cols()];
    ram_kernels::embed(matrix, tokens, &mut out);
    Tensor::from_vec(out, (tokens.len(), matrix.cols()), &candle_core::Device::Cpu)
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&all[start..end]),
        (CpuStorage::F32(_), None) => bail!("a tensor that must be contiguous is not"),
        _ => bail!("a tensor that must be {:?} is not", DType::F32),
    }
}
