//! Inputs of a product, made ready once: rotated and quantized to i8, and laid out as the inner loops read them.
use crate::{
    Format, Scheme,
    isa::{Isa, Kernel, Level, dispatch},
    rotate,
};
use rayon::prelude::*;

/// Inputs per activation scale where weights are not rotated: outliers stay in blocks of 32.
const PLAIN_BLOCK: usize = 32;

/// What a format wants its inputs to be.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Want {
    /// f32 as they are.
    #[default]
    Dense,
    /// i8 with a scale per 32.
    Plain,
    /// Rotated in blocks, then i8 with a scale per block.
    Rotated,
}

impl Want {
    /// What `format` wants.
    pub fn of(format: Format) -> Want {
        match format.scheme() {
            Scheme::Trellis => Want::Rotated,
            Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered => Want::Plain,
            Scheme::Bf16 | Scheme::F16 | Scheme::F32 => Want::Dense,
        }
    }
}

/// Squared relative error of a product with weights in `format` that comes from its inputs' rounding: 0 for dense weights.
/// Were rotated inputs Gaussian, the largest of a block of 128 would be 2.76 deviations on average (root mean square), steps
/// 2.76 / 127 of a deviation, and rounding would add a twelfth of their square. Those of trained models are not quite: with
/// all weights in 8 bits the KL divergence of three of them is twice what this says, hence 3.9 deviations.
pub const fn input_error(format: Format) -> f64 {
    if format.is_dense() { 0.0 } else { (3.9 / 127.0) * (3.9 / 127.0) / 12.0 }
}

/// (tokens, cols) inputs of `tokens` with the columns in another order, which is one of little-endian u32.
pub fn reordered(x: &[f32], cols: usize, tokens: &[u32], order: &[u8]) -> Vec<f32> {
    let order: Vec<usize> = order.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b) as usize).collect();
    let mut out = vec![0.0; tokens.len() * cols];
    for (out, &t) in out.chunks_exact_mut(cols).zip(tokens) {
        let x = &x[t as usize * cols..][..cols];
        out.iter_mut().zip(&order).for_each(|(to, &from)| *to = x[from]);
    }
    out
}

/// (tokens, padded) inputs in one of the three forms, row by row; `padded` is `cols` up to a multiple of 16, zeros behind.
pub struct Rows {
    want: Want,
    padded: usize,
    block: usize,
    dense: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Rows {
    /// Prepares (tokens, cols) inputs; rows in parallel.
    pub fn new(level: Level, want: Want, x: &[f32], cols: usize) -> Rows {
        let (tokens, padded) = (x.len() / cols, cols.next_multiple_of(16));
        let block = match want {
            Want::Rotated => rotate::block(padded),
            _ => PLAIN_BLOCK,
        };
        let mut rows = Rows { want, padded, block, dense: Vec::new(), codes: Vec::new(), scales: Vec::new() };
        if want == Want::Dense {
            rows.dense = vec![0.0; tokens * padded];
            for (to, from) in rows.dense.chunks_exact_mut(padded).zip(x.chunks_exact(cols)) {
                to[..cols].copy_from_slice(from);
            }
            return rows;
        }
        let blocks = padded.div_ceil(block);
        rows.codes = vec![0; tokens * padded];
        rows.scales = vec![0.0; tokens * blocks];
        let each = x.par_chunks_exact(cols).zip(rows.codes.par_chunks_exact_mut(padded)).zip(rows.scales.par_chunks_exact_mut(blocks));
        each.with_min_len(8)
            .for_each(|((x, codes), scales)| dispatch(level, QuantizeRow { x, rotated: want == Want::Rotated, block, codes, scales }));
        rows
    }

    /// The rows of `tokens`, laid out for products with `width` tokens side by side.
    pub fn arrange(&self, level: Level, tokens: &[u32]) -> Arranged {
        let mut to = Arranged { want: self.want, padded: self.padded, block: self.block, ..Arranged::default() };
        if self.want == Want::Dense {
            to.tokens = tokens.len();
            for &t in tokens {
                to.dense.extend_from_slice(&self.dense[t as usize * self.padded..][..self.padded]);
            }
            return to;
        }
        let most = level.tokens();
        let mut rest = tokens;
        while !rest.is_empty() {
            let mut width = most;
            while width > rest.len() {
                width /= 2;
            }
            self.arrange_group(&rest[..width], &mut to);
            rest = &rest[width..];
        }
        to
    }

    fn arrange_group(&self, tokens: &[u32], to: &mut Arranged) {
        let (width, blocks) = (tokens.len(), self.padded.div_ceil(self.block));
        to.groups.push(Group { first: to.tokens, width, codes: to.codes.len(), scales: to.scales.len(), sums: to.sums.len() });
        to.tokens += width;
        let codes: Vec<&[[i8; 4]]> = tokens.iter().map(|&t| self.codes[t as usize * self.padded..][..self.padded].as_chunks().0).collect();
        for step in 0..self.padded / 4 {
            to.codes.extend(codes.iter().map(|c| c[step]));
        }
        for b in 0..blocks {
            to.scales.extend(tokens.iter().map(|&t| self.scales[t as usize * blocks + b]));
        }
        let at = to.sums.len();
        to.sums.resize(at + (self.padded / 16 + 1) * width, 0);
        for (i, c) in codes.iter().enumerate() {
            let mut sum = 0;
            for (k, c) in c.chunks_exact(4).enumerate() {
                sum += c.as_flattened().iter().map(|&v| i32::from(v)).sum::<i32>();
                to.sums[at + (k + 1) * width + i] = sum;
            }
        }
    }
}

/// Tokens that a register block serves together, and where their data starts.
pub struct Group {
    pub first: usize,
    pub width: usize,
    /// In [`Arranged::codes`]: (padded / 4, width) steps of four codes.
    pub codes: usize,
    /// In [`Arranged::scales`]: (blocks, width).
    pub scales: usize,
    /// In [`Arranged::sums`]: (padded / 16 + 1, width), running sums of the codes after every 16.
    pub sums: usize,
}

/// Inputs as the products read them.
#[derive(Default)]
pub struct Arranged {
    pub want: Want,
    pub tokens: usize,
    pub padded: usize,
    pub block: usize,
    pub dense: Vec<f32>,
    pub groups: Vec<Group>,
    pub codes: Vec<[i8; 4]>,
    pub scales: Vec<f32>,
    pub sums: Vec<i32>,
}

struct QuantizeRow<'a> {
    x: &'a [f32],
    rotated: bool,
    block: usize,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut values = [[0.0f32; 16]; 8];
        for ((b, codes), scale) in self.codes.chunks_mut(self.block).enumerate().zip(self.scales) {
            let from = &self.x[(b * self.block).min(self.x.len())..((b + 1) * self.block).min(self.x.len())];
            let vectors = &mut values[..codes.len() / 16];
            vectors.as_flattened_mut().fill(0.0);
            vectors.as_flattened_mut()[..from.len()].copy_from_slice(from);
            if self.rotated {
                rotate::rotate_block(isa, b * self.block, vectors);
            }
            let mut most = isa.splat(0.0);
            for v in vectors.iter() {
                most = isa.max(isa.abs(isa.load(v)), most);
            }
            let most = isa.largest(most);
            *scale = most / 127.0;
            let inverse = isa.splat(if most > 0.0 { 127.0 / most } else { 0.0 });
            let mut rounded = [0i32; 16];
            for (to, v) in codes.as_chunks_mut::<16>().0.iter_mut().zip(vectors.iter()) {
                isa.store_i(isa.round(isa.mul(isa.load(v), inverse)), &mut rounded);
                *to = rounded.map(|c| c as i8);
            }
        }
    }
}
