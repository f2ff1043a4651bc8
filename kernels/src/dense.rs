//! Products with dense weights, widened in registers, products and sums in f32.
use crate::{
    Format,
    codec::words,
    dot::{Product, Sink},
    isa::{Isa, Kernel},
};

/// Rows and tokens of a register block: 4 x 4 sums stay in registers on AVX-512, 2 x 2 pairs of them on AVX2.
const BLOCK: usize = 2;

/// Tiles of a dense matrix. A sum has 16 lanes over the inputs, then halves; its order depends on nothing else.
pub struct Dense<'a> {
    pub product: Product<'a>,
    /// The first tile.
    pub first: usize,
    pub places: usize,
    pub sink: Sink<'a>,
    /// (tiles, places).
    pub y: &'a mut [[f32; 16]],
}

impl Kernel for Dense<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.product.matrix.format() {
            Format::BF16 => rows::<I, 2>(isa, self, |isa, v| isa.load_bf16(&words(v))),
            Format::F16 => rows::<I, 2>(isa, self, |isa, v| isa.load_f16(&words(v))),
            _ => rows::<I, 4>(isa, self, |isa, v| {
                let mut f = [0.0; 16];
                for (to, from) in f.iter_mut().zip(v.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*from);
                }
                isa.load(&f)
            }),
        }
    }
}

#[inline(always)]
fn rows<I: Isa, const SIZE: usize>(isa: I, d: Dense, widen: impl Fn(I, &[u8]) -> I::F + Copy) {
    let Product { matrix: m, rows: x, tokens } = d.product;
    for (i, y) in d.y.chunks_exact_mut(d.places).enumerate() {
        let first = (d.first + i) * 16;
        let count = 16.min(m.rows() - first);
        // Past the last row or token the block repeats it and the result is not stored.
        let row = |r: usize| &m.bytes()[(first + r.min(count - 1)) * m.cols() * SIZE..][..m.cols() * SIZE];
        for (b, pair) in tokens.chunks(BLOCK).enumerate() {
            let x = [x.floats(pair[0]), x.floats(pair[pair.len() - 1])];
            let mut out = [[0.0; 16]; BLOCK];
            for r in (0..count).step_by(BLOCK) {
                let sums = block::<I, SIZE>(isa, [row(r), row(r + 1)], x, widen);
                for k in 0..BLOCK {
                    for j in 0..BLOCK.min(count - r) {
                        out[k][r + j] = isa.sum(sums[k][j]);
                    }
                }
            }
            for (k, out) in out.iter().enumerate().take(pair.len()) {
                d.sink.put(isa, b * BLOCK + k, isa.load(out), y);
            }
        }
    }
}

#[inline(always)]
fn block<I: Isa, const SIZE: usize>(
    isa: I,
    w: [&[u8]; BLOCK],
    x: [&[[u32; 16]]; BLOCK],
    widen: impl Fn(I, &[u8]) -> I::F + Copy,
) -> [[I::F; BLOCK]; BLOCK] {
    let mut sums = [[isa.splat(0.0); BLOCK]; BLOCK];
    let load = |x: &[u32; 16]| isa.load(&x.map(f32::from_bits));
    let full = w[0].len() / (16 * SIZE);
    let [w0, w1] = w.map(|w| w.chunks_exact(16 * SIZE));
    for (((a, b), x0), x1) in w0.zip(w1).zip(x[0]).zip(x[1]) {
        let (a, b, x0, x1) = (widen(isa, a), widen(isa, b), load(x0), load(x1));
        sums[0][0] = isa.fma(a, x0, sums[0][0]);
        sums[0][1] = isa.fma(b, x0, sums[0][1]);
        sums[1][0] = isa.fma(a, x1, sums[1][0]);
        sums[1][1] = isa.fma(b, x1, sums[1][1]);
    }
    let rest = w[0].len() - full * 16 * SIZE;
    if rest > 0 {
        let last = |k: usize| {
            let mut bytes = [0; 64];
            bytes[..rest].copy_from_slice(&w[k][full * 16 * SIZE..]);
            widen(isa, &bytes[..16 * SIZE])
        };
        for (k, x) in x.iter().enumerate() {
            for (j, sum) in sums[k].iter_mut().enumerate() {
                *sum = isa.fma(last(j), load(&x[full]), *sum);
            }
        }
    }
    sums
}
