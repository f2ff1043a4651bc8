//! Where a model's tensors come from: packed in memory, or as they were published.
use crate::tensors::TensorSpec;
use ram_kernels::Matrix;

/// Where a model's tensors come from.
pub trait Weights {
    /// What can go wrong.
    type Error;

    /// The matrix of a spec whose kind is one.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Self::Error>;

    /// The values of a norm or bias.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;
}

/// Weights as they were published, dense, each read when it is asked for.
pub trait Published: Weights {
    /// Some rows of a matrix, one after the other.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn rows(&self, spec: &TensorSpec, rows: &[u32]) -> Result<Vec<f32>, Self::Error>;
}
