//! Products with dense weights, widened in registers, products and sums in f32.
use super::task::Product;
use crate::{
    Scheme,
    decode::words,
    isa::{Isa, Kernel},
};

/// Stored weights as they are widened.
trait Stored {
    /// Bytes of a weight.
    const SIZE: usize;
    /// 16 weights as floats.
    fn widen<I: Isa>(isa: I, v: &[u8]) -> I::F;
}

struct Bf16;
struct F16;
struct F32;

impl Stored for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn widen<I: Isa>(isa: I, v: &[u8]) -> I::F {
        isa.load_bf16(&words(v))
    }
}

impl Stored for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn widen<I: Isa>(isa: I, v: &[u8]) -> I::F {
        isa.load_f16(&words(v))
    }
}

impl Stored for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    fn widen<I: Isa>(isa: I, v: &[u8]) -> I::F {
        let mut f = [0.0; 16];
        for (to, from) in f.iter_mut().zip(v.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        isa.load(&f)
    }
}

/// Tiles of a dense matrix. A sum has 16 lanes over the inputs, then halves; its order depends on nothing else.
pub struct Dense<'a> {
    pub product: Product<'a>,
    /// The first tile.
    pub first: usize,
    /// (tiles, tokens).
    pub y: &'a mut [[f32; 16]],
}

impl Kernel for Dense<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.product.matrix.format().scheme() {
            Scheme::Bf16 => self.tiles::<I, Bf16>(isa),
            Scheme::F16 => self.tiles::<I, F16>(isa),
            Scheme::F32 => self.tiles::<I, F32>(isa),
            Scheme::Trellis
            | Scheme::Signed
            | Scheme::Affine
            | Scheme::AffineBf16
            | Scheme::Gptq
            | Scheme::GptqOrdered
            | Scheme::Symmetric
            | Scheme::Mx => {
                unreachable!("these have codes")
            }
        }
    }
}

impl Dense<'_> {
    /// Blocks of 4 rows x 4 tokens have 16 sums in half of AVX-512's registers, 2 x 3 have 6 pairs in 12 of AVX2's 16: enough for
    /// the latency of a product, and a load is used twice at least. A token alone waits for its weights.
    #[inline(always)]
    fn tiles<I: Isa, W: Stored>(mut self, isa: I) {
        let tokens = self.product.tokens.len();
        for i in 0..self.y.len() / tokens {
            let mut at = 0;
            while at < tokens {
                at += match tokens - at {
                    4.. if I::TOKENS == 8 => self.block::<I, W, 4, 4>(isa, i, at),
                    3.. => self.block::<I, W, 2, 3>(isa, i, at),
                    2 => self.block::<I, W, 2, 2>(isa, i, at),
                    _ => self.block::<I, W, 4, 1>(isa, i, at),
                };
            }
        }
    }

    /// Tile `i` times T tokens from number `at`, R rows at a time.
    #[inline(always)]
    fn block<I: Isa, W: Stored, const R: usize, const T: usize>(&mut self, isa: I, i: usize, at: usize) -> usize {
        let Product { matrix: m, rows, tokens, part } = self.product;
        let first = (part.0 + self.first + i) * 16;
        let count = 16.min(m.rows() - first);
        let mut x = [rows.floats(tokens[at]); T];
        for (x, token) in x.iter_mut().zip(&tokens[at..]) {
            *x = rows.floats(*token);
        }
        let mut out = [[0.0; 16]; T];
        for r in (0..count).step_by(R) {
            let mut w = [&[][..]; R];
            for (j, w) in w.iter_mut().enumerate() {
                // Past the last row the block repeats it and the result is not stored.
                *w = &m.bytes()[(first + (r + j).min(count - 1)) * m.cols() * W::SIZE..][..m.cols() * W::SIZE];
            }
            let sums = dots::<I, W, R, T>(isa, w, x);
            for k in 0..T {
                for j in 0..R.min(count - r) {
                    out[k][r + j] = isa.sum(sums[k][j]);
                }
            }
        }
        for (y, out) in self.y[i * tokens.len()..][..tokens.len()][at..].iter_mut().zip(out) {
            *y = out;
        }
        T
    }
}

#[inline(always)]
fn dots<I: Isa, W: Stored, const R: usize, const T: usize>(isa: I, w: [&[u8]; R], x: [&[[u32; 16]]; T]) -> [[I::F; R]; T] {
    let mut sums = [[isa.splat(0.0); R]; T];
    let full = w[0].len() / (16 * W::SIZE);
    for at in 0..full {
        let mut own = [isa.splat(0.0); R];
        for j in 0..R {
            own[j] = W::widen(isa, &w[j][at * 16 * W::SIZE..][..16 * W::SIZE]);
        }
        add(isa, own, x, at, &mut sums);
    }
    let rest = w[0].len() - full * 16 * W::SIZE;
    if rest > 0 {
        let mut own = [isa.splat(0.0); R];
        for j in 0..R {
            let mut bytes = [0; 64];
            bytes[..rest].copy_from_slice(&w[j][full * 16 * W::SIZE..]);
            own[j] = W::widen(isa, &bytes[..16 * W::SIZE]);
        }
        add(isa, own, x, full, &mut sums);
    }
    sums
}

#[inline(always)]
fn add<I: Isa, const R: usize, const T: usize>(isa: I, w: [I::F; R], x: [&[[u32; 16]]; T], at: usize, sums: &mut [[I::F; R]; T]) {
    for (x, sums) in x.iter().zip(sums) {
        let x = isa.load(&x[at].map(f32::from_bits));
        for (w, sum) in w.iter().zip(sums) {
            *sum = isa.fma(*w, x, *sum);
        }
    }
}
