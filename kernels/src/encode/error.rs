//! What a format loses of given weights.
use super::{coder::Coder, effort::Effort, plain, quantize::quantize, trellis};
use crate::{
    Format,
    decode::dequantize_rows,
    isa::{Isa, Kernel, Level, dispatch},
};

/// ||W - Q(W)||^2 / ||W||^2 of row-major (n, cols) weights; 0 where all of them are 0.
///
/// # Panics
/// If the format has an order of inputs, which comes from elsewhere.
pub fn relative_error(format: Format, effort: Effort, rows: &[f32], cols: usize) -> f64 {
    // Where inputs are padded, the rotated space has errors that no product sees.
    if format.scheme().is_rotated() && cols.is_multiple_of(16) {
        let [error, norm] = dispatch(Level::active(), TrellisError { format, effort, rows, cols });
        return if norm > 0.0 { error / norm } else { 0.0 };
    }
    let n = rows.len() / cols;
    let mut packed = vec![0; format.bytes(n, cols)];
    quantize(format, effort, rows, cols, &mut packed);
    let mut back = vec![0.0; 16 * cols];
    let (mut error, mut norm) = (0.0, 0.0);
    for (tile, rows) in rows.chunks(16 * cols).enumerate() {
        dequantize_rows(format, n, cols, &packed, 16 * tile, &mut back[..rows.len()]);
        for (&w, &q) in rows.iter().zip(&back) {
            error += f64::from(w - q).powi(2);
            norm += f64::from(w).powi(2);
        }
    }
    if norm > 0.0 { error / norm } else { 0.0 }
}

/// ||W - Q(W)||^2 and ||W||^2 of a trellis format, in the rotated space, where they are the same.
struct TrellisError<'a> {
    format: Format,
    effort: Effort,
    rows: &'a [f32],
    cols: usize,
}

impl Kernel for TrellisError<'_> {
    type Out = [f64; 2];
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [f64; 2] {
        let mut coder = Coder::new(self.format, self.effort, self.cols);
        let mut sums = [0.0; 2];
        for rows in self.rows.chunks(16 * self.cols) {
            coder.code(isa, rows, None);
            let (x, coding) = (&coder.x, &coder.coding);
            let [error, norm] = if coder.search.is_some() { trellis::error(isa, x, coding) } else { plain::error_of(isa, self.format, x, coding) };
            sums = [sums[0] + error, sums[1] + norm];
        }
        sums
    }
}
