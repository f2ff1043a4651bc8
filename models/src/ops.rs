//! Products of ram-kernels as a candle operation on f32 tensors.
use candle_core::{CpuStorage, CustomOp1, DType, Error, Layout, Result, Shape, Storage, Tensor, bail};
use candle_nn::Module;
use ram_kernels::Matrix;

/// (tokens, rows) of (tokens, cols).
#[derive(Debug)]
pub(crate) struct Linear(pub Matrix);

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, cols) = layout.shape().dims2()?;
        if self.0.cols() != cols {
            bail!("inputs of {cols} for a matrix of {} columns", self.0.cols());
        }
        let mut out = vec![0.0; tokens * self.0.rows()];
        let done = ram_kernels::linear(values(x, layout)?, &[&self.0], &mut [&mut out]);
        done.map_err(|e| Error::WrappedContext { wrapped: Box::new(e), context: self.name().to_string() })?;
        Ok((CpuStorage::F32(out), (tokens, self.0.rows()).into()))
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

/// What `f` makes of a contiguous f32 tensor's numbers, without a copy of them.
///
/// # Errors
/// Where the tensor is another.
pub fn floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(values(storage, layout)?)),
        _ => bail!("a tensor that must be on the CPU is not"),
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&all[start..end]),
        (CpuStorage::F32(_), None) => bail!("a tensor that must be contiguous is not"),
        _ => bail!("a tensor that must be {:?} is not", DType::F32),
    }
}
