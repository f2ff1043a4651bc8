//! A packed matrix as a layer of candle: anybody's candle model can hold one that a plan has.
use candle_core::{CpuStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, bail};
use candle_nn::Module;
use ram_kernels::{Matrix, NotFinite};
use rayon::prelude::*;

/// Numbers of a matrix that are decoded at once: 16 MiB.
pub(crate) const DECODED: usize = 4 << 20;

/// (tokens, rows) of (tokens, cols), both f32. On the CPU its forward is ram-kernels' product, which rounds inputs to 8 bits where the
/// format is packed; on other devices the matrix is decoded in parts and multiplied there, as [`PackedLinear::times`] does everywhere.
#[derive(Clone, Debug)]
pub struct PackedLinear(Matrix);

impl PackedLinear {
    /// The layer of a matrix.
    pub fn new(matrix: Matrix) -> PackedLinear {
        PackedLinear(matrix)
    }

    /// The matrix.
    pub fn matrix(&self) -> &Matrix {
        &self.0
    }

    /// Decoded rows (n, cols) f32 by their numbers (n) u32, on the device of these.
    ///
    /// # Errors
    /// Where a number is no row's, and candle's.
    pub fn rows(&self, numbers: &Tensor) -> Result<Tensor> {
        // Packed bytes are in the CPU's memory; one of its own for another device would be a `cuda_fwd` of `Rows`.
        numbers.to_device(&Device::Cpu)?.apply_op1_no_bwd(&Rows(&self.0))?.to_device(numbers.device())
    }

    /// The product with inputs (tokens, cols) f32 as they are, without rounding them: rows are decoded, some at a time, and multiplied by
    /// candle, on the device of the inputs.
    ///
    /// # Errors
    /// Candle's, where the shapes do not fit together.
    pub fn times(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, step) = (self.0.rows(), (DECODED / self.0.cols()).next_multiple_of(16));
        let parts = (0..rows).step_by(step).map(|first| {
            let numbers = Tensor::arange(first as u32, rows.min(first + step) as u32, x.device())?;
            x.matmul(&self.rows(&numbers)?.t()?)
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)
    }
}

impl Module for PackedLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() { x.apply_op1_no_bwd(&Product(&self.0)) } else { self.times(x) }
    }
}

/// Rows by their numbers.
struct Rows<'a>(&'a Matrix);

impl CustomOp1 for Rows<'_> {
    fn name(&self) -> &'static str {
        "packed rows"
    }

    fn cpu_fwd(&self, numbers: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, cols) = (self.0, self.0.cols());
        let numbers = match (numbers, layout.contiguous_offsets()) {
            (CpuStorage::U32(all), Some((start, end))) => &all[start..end],
            _ => bail!("numbers of rows must be contiguous and {:?}", DType::U32),
        };
        if let Some(other) = numbers.iter().find(|n| **n as usize >= m.rows()) {
            bail!("row {other} of a matrix that has {}", m.rows());
        }
        let mut out = vec![0.0; numbers.len() * cols];
        // Those of a tile that follow each other are decoded together.
        let runs: Vec<&[u32]> = numbers.chunk_by(|a, b| a + 1 == *b && b % 16 != 0).collect();
        let mut rest = out.as_mut_slice();
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs {
            let (own, after) = rest.split_at_mut(run.len() * cols);
            parts.push((run[0] as usize, own));
            rest = after;
        }
        parts.into_par_iter().for_each(|(first, out)| ram_kernels::dequantize_rows(m.format(), m.rows(), cols, m.bytes(), first, out));
        Ok((CpuStorage::F32(out), (numbers.len(), cols).into()))
    }
}

/// (tokens, rows) of (tokens, cols).
struct Product<'a>(&'a Matrix);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "packed product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, cols) = layout.shape().dims2()?;
        if self.0.cols() != cols {
            bail!("inputs of {cols} for a matrix of {} columns", self.0.cols());
        }
        let mut out = vec![0.0; tokens * self.0.rows()];
        let done = ram_kernels::linear(values(x, layout)?, &[self.0], &mut [&mut out]);
        done.map_err(|e| Error::WrappedContext { wrapped: Box::new(e), context: self.name().to_string() })?;
        Ok((CpuStorage::F32(out), (tokens, self.0.rows()).into()))
    }
}

/// Whether an error is that of inputs or results that are not finite.
pub(crate) fn is_not_finite(error: &Error) -> bool {
    matches!(error, Error::WrappedContext { wrapped, .. } if wrapped.is::<NotFinite>())
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
