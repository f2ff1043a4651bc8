//! How many rows of a matrix are read at once, and what a thread needs for them.
use ram_kernels::Format;
use ram_models::TensorSpec;

/// Rows per piece: one tile for wide matrices, more for narrow ones so that a read is worth its call.
pub fn piece_rows(cols: usize) -> usize {
    (65536 / cols.max(1)).next_multiple_of(16).clamp(16, 256)
}

/// The same for matrices that are quantized already: those of GPTQ lie by columns, and of each a piece reads 4 bytes per row
/// at a time.
pub fn coded_rows(cols: usize) -> usize {
    ((1 << 21) / cols.max(1)).next_multiple_of(16).clamp(16, 4096)
}

/// The same for matrices whose rows are columns of what is stored: of each input a piece reads as many numbers at a time.
pub const COLUMNS: usize = 256;

/// Bytes of buffers that one thread needs to load the widest matrix: what is read (at most 4 bytes a weight), its f32 form,
/// and the encoder's transposed tile and decisions; or packed codes, and codes of a byte, with their scales.
/// `own` is the format in which a matrix is published, `by_columns` whether its rows are columns of what is stored.
pub fn buffer_bytes(specs: &[TensorSpec], own: &dyn Fn(&TensorSpec) -> Format, by_columns: &dyn Fn(&TensorSpec) -> bool) -> u64 {
    let each = specs.iter().filter(|s| s.kind.is_matrix()).map(|s| {
        let (rows, cols) = (s.shape[0], s.shape[1]);
        let dense = if by_columns(s) { COLUMNS } else { piece_rows(cols) };
        if own(s).is_dense() { (dense * 8 + 16 * 16) * cols } else { (coded_rows(cols).min(rows) * 9 / 4 + 32) * cols }
    });
    each.max().unwrap_or(0) as u64
}
