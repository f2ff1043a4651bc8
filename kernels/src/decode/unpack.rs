//! Levels of whole tiles, and rows of packed matrices as floats.
use super::{
    codec::{Codec, CodecKernel, by_codec, mx_scale, zeros},
    levels::{self, MX_ZERO, Tables},
    planes::Decoder,
};
use crate::{
    Format, Scheme,
    isa::{Isa, Kernel, Level, dispatch},
    ops::rotate,
};
use half::{bf16, f16};
use std::cell::RefCell;

/// Levels of macro-steps: of every 16 inputs, four steps of 16 rows of four.
pub type Levels = Vec<[[u8; 64]; 4]>;

thread_local! {
    static LEVELS: RefCell<Levels> = const { RefCell::new(Vec::new()) };
}

/// Memory for levels that every thread keeps.
pub fn with_memory<R>(f: impl FnOnce(&mut Levels) -> R) -> R {
    LEVELS.with_borrow_mut(f)
}

/// What `f` makes of the levels of a tile's codes: of every 16 inputs, four steps of 16 rows of four.
pub fn with_levels<R>(level: Level, format: Format, codes: &[u8], f: impl FnOnce(&[[[u8; 64]; 4]]) -> R) -> R {
    with_memory(|levels| {
        let n = codes.len() / (32 * format.bits());
        levels.resize(levels.len().max(n), [[0; 64]; 4]);
        by_codec(level, format, Decode { tables: levels::tables(format), codes, skip: 0, levels: &mut levels[..n] });
        f(&levels[..n])
    })
}

/// Levels of a tile's codes, but for the first `skip` macro-steps.
pub struct Decode<'a> {
    pub tables: &'a Tables,
    pub codes: &'a [u8],
    pub skip: usize,
    pub levels: &'a mut [[[u8; 64]; 4]],
}

impl CodecKernel for Decode<'_> {
    #[inline(always)]
    fn run<I: Isa, C: Codec>(self, isa: I) {
        let mut decoder = Decoder::new(isa, self.tables);
        let (before, codes) = self.codes.split_at(self.skip * 32 * C::BITS);
        if !before.is_empty() {
            C::levels(isa, &mut decoder, before);
        }
        for (to, codes) in self.levels.iter_mut().zip(codes.chunks_exact(32 * C::BITS)) {
            for (to, levels) in to.iter_mut().zip(C::levels(isa, &mut decoder, codes)) {
                isa.store_b(levels, to);
            }
        }
    }
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
        Scheme::Trellis
        | Scheme::Signed
        | Scheme::Affine
        | Scheme::AffineBf16
        | Scheme::Gptq
        | Scheme::GptqOrdered
        | Scheme::Symmetric
        | Scheme::Mx => {
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
            if !format.scheme().is_rotated() {
                for (j, (to, code)) in out.iter_mut().zip(row_levels).enumerate() {
                    let at = j / group * format.group_bytes();
                    let scale = || word(at + 2 * row);
                    *to = match format.scheme() {
                        Scheme::Mx => mx_scale(scales[at + row]) * (code - f32::from(MX_ZERO)),
                        Scheme::Affine => f16::from_bits(scale()).to_f32() * code + f16::from_bits(word(at + 32 + 2 * row)).to_f32(),
                        Scheme::AffineBf16 => bf16::from_bits(scale()).to_f32() * code + bf16::from_bits(word(at + 32 + 2 * row)).to_f32(),
                        Scheme::Gptq | Scheme::GptqOrdered => f16::from_bits(scale()).to_f32() * (code - zeros(bits, &scales[at + 32..])[row] as f32),
                        Scheme::Symmetric => f16::from_bits(scale()).to_f32() * (code - (1 << (bits - 1)) as f32),
                        Scheme::Trellis | Scheme::Signed | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no offsets"),
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
