//! Dense rows times f32 tokens: bf16, f16 and f32 weights, widened in registers, products and sums in f32.
use crate::{Format, codec::words, dot::Tiles, isa::Isa};

/// Rows and tokens of a register block: 4 x 4 sums stay in registers on AVX-512, 2 x 2 pairs of them on AVX2.
const BLOCK: usize = 2;

/// [`Tiles`] of a dense matrix. A sum has 16 lanes over the inputs, then halves; its order depends on nothing else.
#[inline(always)]
pub fn tiles<I: Isa>(isa: I, tiles: Tiles) {
    match tiles.format {
        Format::BF16 => rows::<I, 2>(isa, tiles, |isa, v| isa.load_bf16(&words(v))),
        Format::F16 => rows::<I, 2>(isa, tiles, |isa, v| isa.load_f16(&words(v))),
        _ => rows::<I, 4>(isa, tiles, |isa, v| {
            let mut f = [0.0; 16];
            for (to, from) in f.iter_mut().zip(v.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*from);
            }
            isa.load(&f)
        }),
    }
}

#[inline(always)]
fn rows<I: Isa, const SIZE: usize>(isa: I, t: Tiles, widen: impl Fn(I, &[u8]) -> I::F + Copy) {
    let x = &t.x.dense;
    for (i, y) in t.y.chunks_exact_mut(t.x.tokens).enumerate() {
        let first = (t.first_tile + i) * 16;
        y.fill([0.0; 16]);
        for r in (0..16.min(t.rows - first)).step_by(BLOCK) {
            // Past the last row the block repeats it and the result is not stored.
            let row = |k: usize| &t.bytes[(first + r + k).min(t.rows - 1) * t.cols * SIZE..][..t.cols * SIZE];
            let w = [row(0), row(1)];
            let mut token = 0;
            while token < t.x.tokens {
                let at = |k: usize| &x[(token + k).min(t.x.tokens - 1) * t.x.padded..][..t.x.padded];
                let sums = block::<I, SIZE>(isa, w, [at(0), at(1)], widen);
                for k in 0..BLOCK.min(t.x.tokens - token) {
                    for j in 0..BLOCK.min(t.rows - first - r) {
                        y[token + k][r + j] = isa.sum(sums[k][j]);
                    }
                }
                token += BLOCK;
            }
        }
    }
}

#[inline(always)]
fn block<I: Isa, const SIZE: usize>(
    isa: I,
    w: [&[u8]; BLOCK],
    x: [&[f32]; BLOCK],
    widen: impl Fn(I, &[u8]) -> I::F + Copy,
) -> [[I::F; BLOCK]; BLOCK] {
    let mut sums = [[isa.splat(0.0); BLOCK]; BLOCK];
    let xs = [x[0].as_chunks::<16>().0, x[1].as_chunks::<16>().0];
    let full = w[0].len() / (16 * SIZE);
    let wide = [w[0].chunks_exact(16 * SIZE), w[1].chunks_exact(16 * SIZE)];
    let [w0, w1] = wide;
    for (((a, b), x0), x1) in w0.zip(w1).zip(xs[0]).zip(xs[1]) {
        let (a, b, x0, x1) = (widen(isa, a), widen(isa, b), isa.load(x0), isa.load(x1));
        sums[0][0] = isa.fma(a, x0, sums[0][0]);
        sums[0][1] = isa.fma(b, x0, sums[0][1]);
        sums[1][0] = isa.fma(a, x1, sums[1][0]);
        sums[1][1] = isa.fma(b, x1, sums[1][1]);
    }
    let rest = &w[0][full * 16 * SIZE..];
    if !rest.is_empty() {
        let last = |k: usize| {
            let mut bytes = [0; 64];
            bytes[..rest.len()].copy_from_slice(&w[k][full * 16 * SIZE..]);
            widen(isa, &bytes[..16 * SIZE])
        };
        for (k, x) in xs.iter().enumerate() {
            for (j, sum) in sums[k].iter_mut().enumerate() {
                *sum = isa.fma(last(j), isa.load(&x[full]), *sum);
            }
        }
    }
    sums
}
