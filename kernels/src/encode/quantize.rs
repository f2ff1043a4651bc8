//! Rows in, packed bytes out, and a row back.
use super::{
    affine,
    coder::Coder,
    feedback::Feedback,
    grid::{self, Grid},
    import,
    pack::pack_all,
};
use crate::{
    Effort, Format, Scheme,
    isa::{Isa, Kernel, Level, dispatch},
};
use half::{bf16, f16};

/// Packs row-major (n, cols) weights, all finite, into the `format.row_bytes(n, cols)` bytes of `out`; sequential. Where the
/// format has an order of inputs, the weights are in that order.
///
/// # Panics
/// If `out` has another size.
pub fn quantize(format: Format, effort: Effort, rows: &[f32], cols: usize, out: &mut [u8]) {
    quantize_at(Level::active(), format, effort, rows, cols, out);
}

/// The same with feedback, for inputs that have the feedback's second moments, where the format takes any ([`Format::takes_feedback`]).
///
/// # Panics
/// If `out` has another size, or the feedback is for other matrices.
pub fn quantize_with(level: Level, format: Format, effort: Effort, feedback: &Feedback, rows: &[f32], cols: usize, out: &mut [u8]) {
    assert!(feedback.is_for(format, cols), "feedback for {format} of {cols} inputs");
    packed(level, format, effort, Some(feedback), rows, cols, out);
}

/// [`quantize`] with a given instruction set: the bytes are the same.
pub fn quantize_at(level: Level, format: Format, effort: Effort, rows: &[f32], cols: usize, out: &mut [u8]) {
    packed(level, format, effort, None, rows, cols, out);
}

fn packed(level: Level, format: Format, effort: Effort, feedback: Option<&Feedback>, rows: &[f32], cols: usize, out: &mut [u8]) {
    assert_eq!(out.len(), format.row_bytes(rows.len() / cols, cols), "{format} takes another number of bytes");
    match format.scheme() {
        Scheme::F32 => out.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, w)| *to = w.to_le_bytes()),
        Scheme::F16 => out.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, w)| *to = f16::from_f32(*w).to_le_bytes()),
        Scheme::Bf16 => out.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, w)| *to = bf16::from_f32(*w).to_le_bytes()),
        // As it was published: what others are compared with.
        Scheme::Affine | Scheme::AffineBf16 if effort == Effort::Fast && feedback.is_none() => affine_rows(format, rows, cols, out),
        Scheme::Gptq | Scheme::GptqOrdered | Scheme::Mx => affine_rows(format, rows, cols, out),
        Scheme::Affine | Scheme::AffineBf16 | Scheme::Symmetric => {
            let weights = if feedback.is_some() { Vec::new() } else { grid::weights(rows, cols) };
            dispatch(level, Grid { format, effort, rows, cols, weights: &weights, feedback, out });
        }
        Scheme::Trellis | Scheme::Signed => dispatch(level, Trellis { format, effort, rows, cols, feedback, out }),
    }
}

fn affine_rows(format: Format, rows: &[f32], cols: usize, out: &mut [u8]) {
    let tile = format.row_bytes(16, cols);
    for (rows, out) in rows.chunks(16 * cols).zip(out.chunks_exact_mut(tile)) {
        affine_tile(format, rows, cols, out);
    }
}

fn affine_tile(format: Format, rows: &[f32], cols: usize, out: &mut [u8]) {
    let mut codes = vec![0u8; rows.len()];
    let groups = rows.chunks_exact(cols).flat_map(|row| row.chunks(format.group()));
    let codes_of = codes.chunks_exact_mut(cols).flat_map(|row| row.chunks_mut(format.group()));
    let (scales, offsets): (Vec<u16>, Vec<u16>) = groups.zip(codes_of).map(|(group, codes)| affine::encode(group, format, codes)).unzip();
    let offsets = if format.scheme() == Scheme::Mx { &[][..] } else { &offsets };
    import::place(format, cols, &codes, import::Groups { scales: &scales, offsets }, out);
}

/// Tiles of a trellis format.
struct Trellis<'a> {
    format: Format,
    effort: Effort,
    rows: &'a [f32],
    cols: usize,
    feedback: Option<&'a Feedback>,
    out: &'a mut [u8],
}

impl Kernel for Trellis<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut coder = Coder::new(self.format, self.effort, self.cols);
        for (rows, out) in self.rows.chunks(16 * self.cols).zip(self.out.chunks_exact_mut(self.format.row_bytes(16, self.cols))) {
            coder.code(isa, rows, self.feedback);
            let coding = &coder.coding;
            let (heads, packed) = out.split_at_mut(64 + 16 * coding.scales.len());
            heads.as_chunks_mut::<4>().0.iter_mut().zip(coding.row_scales).for_each(|(to, s)| *to = s.to_le_bytes());
            heads[64..].iter_mut().zip(coding.scales.as_flattened()).for_each(|(to, &s)| *to = s as u8);
            pack_all(self.format.bits(), &coding.codes, packed);
        }
    }
}
