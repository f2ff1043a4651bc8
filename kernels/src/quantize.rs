//! Rows in, packed bytes out, and a row back.
use crate::{
    Effort, Format, Scheme, affine, codec, import,
    isa::{Isa, Kernel, Level, dispatch},
    levels, pack,
    panel::with_levels,
    plain, rotate,
    search::Search,
    trellis,
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

/// [`quantize`] with a given instruction set: the bytes are the same.
pub fn quantize_at(level: Level, format: Format, effort: Effort, rows: &[f32], cols: usize, out: &mut [u8]) {
    assert_eq!(out.len(), format.row_bytes(rows.len() / cols, cols), "{format} takes another number of bytes");
    match format.scheme() {
        Scheme::F32 => out.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, w)| *to = w.to_le_bytes()),
        Scheme::F16 => out.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, w)| *to = f16::from_f32(*w).to_le_bytes()),
        Scheme::Bf16 => out.as_chunks_mut().0.iter_mut().zip(rows).for_each(|(to, w)| *to = bf16::from_f32(*w).to_le_bytes()),
        Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered => {
            let tile_bytes = format.row_bytes(16, cols);
            rows.chunks(16 * cols).zip(out.chunks_exact_mut(tile_bytes)).for_each(|(rows, out)| affine_rows(format, rows, cols, out));
        }
        Scheme::Trellis => dispatch(level, Trellis { format, effort, rows, cols, out }),
    }
}

fn affine_rows(format: Format, rows: &[f32], cols: usize, out: &mut [u8]) {
    let mut codes = vec![0u8; rows.len()];
    let groups = rows.chunks_exact(cols).flat_map(|row| row.chunks(format.group()));
    let codes_of = codes.chunks_exact_mut(cols).flat_map(|row| row.chunks_mut(format.group()));
    let (scales, offsets): (Vec<u16>, Vec<u16>) = groups.zip(codes_of).map(|(group, codes)| affine::encode(group, format, codes)).unzip();
    import::place(format, cols, &codes, import::Groups { scales: &scales, offsets: &offsets }, out);
}

/// Codes of 16 rows, four columns to a word, into macro-steps.
pub(crate) fn pack_all(bits: usize, codes: &[[i32; 16]], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(32 * bits)) {
        pack::pack(bits, codes, out);
    }
}

/// Tiles of a trellis format.
struct Trellis<'a> {
    format: Format,
    effort: Effort,
    rows: &'a [f32],
    cols: usize,
    out: &'a mut [u8],
}

impl Kernel for Trellis<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut coder = Coder::new(self.format, self.effort, self.cols);
        for (rows, out) in self.rows.chunks(16 * self.cols).zip(self.out.chunks_exact_mut(self.format.row_bytes(16, self.cols))) {
            coder.code(isa, rows);
            let coding = &coder.coding;
            let (heads, packed) = out.split_at_mut(64 + 16 * coding.scales.len());
            heads.as_chunks_mut::<4>().0.iter_mut().zip(coding.row_scales).for_each(|(to, s)| *to = s.to_le_bytes());
            heads[64..].iter_mut().zip(coding.scales.as_flattened()).for_each(|(to, &s)| *to = s as u8);
            pack_all(self.format.bits(), &coding.codes, packed);
        }
    }
}

/// Codes tile after tile.
struct Coder {
    format: Format,
    effort: Effort,
    cols: usize,
    /// None for plain codes.
    search: Option<Search>,
    x: Vec<[f32; 16]>,
    coding: trellis::Coding,
}

impl Coder {
    fn new(format: Format, effort: Effort, cols: usize) -> Coder {
        let levels = levels::of(format);
        let search = if levels.is_empty() { None } else { Some(Search::new(levels)) };
        Coder { format, effort, cols, search, x: vec![[0.0; 16]; cols.next_multiple_of(16)], coding: trellis::Coding::default() }
    }

    #[inline(always)]
    fn code<I: Isa>(&mut self, isa: I, rows: &[f32]) {
        transpose_rotated(isa, rows, self.cols, &mut self.x);
        match &self.search {
            Some(search) => trellis::encode(isa, self.format, self.effort.searches(), search, &self.x, &mut self.coding),
            None => plain::round(isa, self.format, self.effort.plain(), &self.x, &mut self.coding),
        }
    }
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
            coder.code(isa, rows);
            let (x, coding) = (&coder.x, &coder.coding);
            let [error, norm] = if coder.search.is_some() { trellis::error(isa, x, coding) } else { plain::error_of(isa, self.format, x, coding) };
            sums = [sums[0] + error, sums[1] + norm];
        }
        sums
    }
}

/// Up to 16 rows, rotated, as (padded inputs) of 16 rows; zeros where there is no row or input.
#[inline(always)]
pub(crate) fn transpose_rotated<I: Isa>(isa: I, rows: &[f32], cols: usize, x: &mut [[f32; 16]]) {
    let block = rotate::block(x.len());
    if rows.len() < 16 * cols {
        x.fill([0.0; 16]);
    }
    let mut values = [[0.0f32; 16]; 8];
    for (r, row) in rows.chunks_exact(cols).enumerate() {
        for (b, x) in x.chunks_exact_mut(block).enumerate() {
            let from = &row[(b * block).min(cols)..((b + 1) * block).min(cols)];
            let v = &mut values[..block / 16];
            v.as_flattened_mut().fill(0.0);
            v.as_flattened_mut()[..from.len()].copy_from_slice(from);
            rotate::rotate_block(isa, b * block, v);
            x.iter_mut().zip(v.as_flattened()).for_each(|(x, v)| x[r] = *v);
        }
    }
}

/// ||W - Q(W)||^2 / ||W||^2 of row-major (n, cols) weights; 0 where all of them are 0.
///
/// # Panics
/// If the format has an order of inputs, which comes from elsewhere.
pub fn relative_error(format: Format, effort: Effort, rows: &[f32], cols: usize) -> f64 {
    // Where inputs are padded, the rotated space has errors that no product sees.
    if format.scheme() == Scheme::Trellis && cols.is_multiple_of(16) {
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

/// One row of a packed (rows, cols) matrix, rotated back.
///
/// # Panics
/// If there is no such row or `out` does not hold `cols`.
pub fn dequantize_row(format: Format, rows: usize, cols: usize, bytes: &[u8], row: usize, out: &mut [f32]) {
    assert!(out.len() == cols, "a row has {cols} numbers");
    dequantize_rows(format, rows, cols, bytes, row, out);
}

/// Rows from `first` on, as many as `out` (rows, cols) takes, rotated back. Those of one tile are decoded together.
///
/// # Panics
/// If there are not so many rows, or `out` does not hold whole ones.
pub fn dequantize_rows(format: Format, rows: usize, cols: usize, bytes: &[u8], first: usize, out: &mut [f32]) {
    let n = out.len() / cols;
    assert!(n <= rows && first <= rows - n && out.len() == n * cols, "{n} rows from {first} of {rows}");
    let start = first * cols;
    match format.scheme() {
        Scheme::F32 => out.iter_mut().zip(&bytes.as_chunks().0[start..]).for_each(|(to, b)| *to = f32::from_le_bytes(*b)),
        Scheme::F16 => out.iter_mut().zip(&bytes.as_chunks().0[start..]).for_each(|(to, b)| *to = f16::from_le_bytes(*b).to_f32()),
        Scheme::Bf16 => out.iter_mut().zip(&bytes.as_chunks().0[start..]).for_each(|(to, b)| *to = bf16::from_le_bytes(*b).to_f32()),
        Scheme::Trellis | Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered => {
            let order = bytes[format.row_bytes(rows, cols)..][..format.order_bytes(cols)].as_chunks().0;
            let mut ordered = vec![0.0; order.len()];
            let (mut row, mut rest) = (first, out);
            while !rest.is_empty() {
                let tile = &bytes[row / 16 * format.row_bytes(16, cols)..][..format.row_bytes(16, cols)];
                let (own, after) = rest.split_at_mut((16 - row % 16).min(rest.len() / cols) * cols);
                packed_rows(format, cols, tile, row % 16, own);
                for out in own.chunks_exact_mut(cols).filter(|_| !order.is_empty()) {
                    ordered.copy_from_slice(out);
                    order.iter().zip(&ordered).for_each(|(to, w)| out[u32::from_le_bytes(*to) as usize] = *w);
                }
                row += own.len() / cols;
                rest = after;
            }
        }
    }
}

/// Rows of one tile from `first` on.
fn packed_rows(format: Format, cols: usize, tile: &[u8], first: usize, out: &mut [f32]) {
    let (padded, bits, group) = (cols.next_multiple_of(16), format.bits(), format.group());
    let (head, rest) = tile.split_at(format.head_bytes());
    let (scales, codes) = rest.split_at(padded.div_ceil(group) * format.group_bytes());
    let word = |at: usize| u16::from_le_bytes([scales[at], scales[at + 1]]);
    with_levels(Level::active(), format, codes, |levels| {
        for (row, out) in (first..).zip(out.chunks_exact_mut(cols)) {
            // Four steps of 16 rows of four inputs.
            let row_levels = levels.as_flattened().iter().flat_map(|step| &step[4 * row..4 * row + 4]).map(|&l| f32::from(l));
            if format.scheme() != Scheme::Trellis {
                for (j, (to, code)) in out.iter_mut().zip(row_levels).enumerate() {
                    let at = j / group * format.group_bytes();
                    let scale = word(at + 2 * row);
                    *to = match format.scheme() {
                        Scheme::Affine => f16::from_bits(scale).to_f32() * code + f16::from_bits(word(at + 32 + 2 * row)).to_f32(),
                        Scheme::AffineBf16 => bf16::from_bits(scale).to_f32() * code + bf16::from_bits(word(at + 32 + 2 * row)).to_f32(),
                        Scheme::Gptq | Scheme::GptqOrdered => {
                            f16::from_bits(scale).to_f32() * (code - codec::zeros(bits, &scales[at + 32..])[row] as f32)
                        }
                        Scheme::Trellis | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no offsets"),
                    };
                }
                continue;
            }
            let row_scale = f32::from_le_bytes([head[4 * row], head[4 * row + 1], head[4 * row + 2], head[4 * row + 3]]);
            let zero = if bits == 8 { 128.0 } else { 64.0 };
            let mut w = vec![[0.0f32; 16]; padded / 16];
            for (j, (w, level)) in w.as_flattened_mut().iter_mut().zip(row_levels).enumerate() {
                *w = row_scale * f32::from(scales[16 * (j / group) + row] as i8) * (level - zero);
            }
            dispatch(Level::active(), Back { w: &mut w });
            out.copy_from_slice(&w.as_flattened()[..cols]);
        }
    });
}

struct Back<'a> {
    w: &'a mut [[f32; 16]],
}

impl Kernel for Back<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let block = rotate::block(self.w.len() * 16);
        for (b, w) in self.w.chunks_exact_mut(block / 16).enumerate() {
            rotate::rotate_block_back(isa, b * block, w);
        }
    }
}
