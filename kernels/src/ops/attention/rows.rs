//! Products of queries with latents, which lie token by token: their sums cross lanes, of 16 tokens at once.
use super::queries::{Float, Queries};
use crate::{isa::Isa, ops::rotate::lanes};

/// Products of N queries with R blocks of 16 tokens, of `wide` numbers each. R tokens share each load of a query.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub fn floats<I: Isa, E: Float, const N: usize, const R: usize>(
    isa: I,
    page: &[E],
    wide: usize,
    blocks: [usize; R],
    q: &Queries<N>,
) -> [[I::F; N]; R] {
    let (vectors, mut dots) = (wide / 16, [[isa.splat(0.0); N]; R]);
    let mut queries = [&[][..]; N];
    for i in 0..N {
        queries[i] = q.floats[i].as_chunks::<16>().0.split_at(vectors).0;
    }
    for b in 0..R {
        let mut parts = [[[0.0; 16]; 16]; N];
        for t in (0..16).step_by(R) {
            let mut own = [&[][..]; R];
            for r in 0..R {
                own[r] = page[(blocks[b] * 16 + t + r) * wide..].as_chunks::<16>().0.split_at(vectors).0;
            }
            let mut sums = [[isa.splat(0.0); N]; R];
            for j in 0..vectors {
                let mut k = [isa.splat(0.0); R];
                for r in 0..R {
                    k[r] = E::load(isa, &own[r][j]);
                }
                for i in 0..N {
                    let q = isa.load(&queries[i][j]);
                    for r in 0..R {
                        sums[r][i] = isa.fma(q, k[r], sums[r][i]);
                    }
                }
            }
            for r in 0..R {
                for i in 0..N {
                    isa.store(sums[r][i], &mut parts[i][t + r]);
                }
            }
        }
        for i in 0..N {
            dots[b][i] = across::<I, false>(isa, &parts[i]);
        }
    }
    dots
}

/// The same of codes with signs.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub fn codes<I: Isa, const N: usize, const R: usize>(isa: I, rows: &[u8], wide: usize, blocks: [usize; R], q: &Queries<N>) -> [[I::F; N]; R] {
    let (lines, mut dots, raised) = (wide / 64, [[isa.splat(0.0); N]; R], isa.splat_b(128));
    for b in 0..R {
        let mut parts = [[[0.0; 16]; 16]; N];
        for t in (0..16).step_by(R) {
            let mut own = [&[][..]; R];
            for r in 0..R {
                own[r] = rows[(blocks[b] * 16 + t + r) * wide..].as_chunks::<64>().0.split_at(lines).0;
            }
            let mut sums = [[isa.splat_i(0); N]; R];
            for j in 0..lines {
                for r in 0..R {
                    // Without signs, by adding 128.
                    let k = isa.xor_b(isa.load_b(&own[r][j]), raised);
                    for i in 0..N {
                        sums[r][i] = isa.dot_c8(sums[r][i], k, isa.load_b(&q.bytes[i][j]));
                    }
                }
            }
            for r in 0..R {
                for i in 0..N {
                    isa.store(isa.as_f(sums[r][i]), &mut parts[i][t + r]);
                }
            }
        }
        for i in 0..N {
            let sums = isa.as_i(across::<I, true>(isa, &parts[i]));
            dots[b][i] = isa.to_f(isa.sub_i(sums, isa.splat_i(q.off[i])));
        }
    }
    dots
}

/// Lane i is the sum of `parts[i]`, whose lanes are floats, or integers.
#[inline(always)]
fn across<I: Isa, const INTEGERS: bool>(isa: I, parts: &[[f32; 16]; 16]) -> I::F {
    let (mut all, mut half) = ([isa.splat(0.0); 16], [isa.splat(0.0); 8]);
    for i in 0..16 {
        all[i] = isa.load(&parts[i]);
    }
    for i in 0..8 {
        half[i] = both::<I, INTEGERS, 1>(isa, all[2 * i], all[2 * i + 1]);
    }
    for i in 0..4 {
        half[i] = both::<I, INTEGERS, 2>(isa, half[2 * i], half[2 * i + 1]);
    }
    for i in 0..2 {
        half[i] = both::<I, INTEGERS, 4>(isa, half[2 * i], half[2 * i + 1]);
    }
    both::<I, INTEGERS, 8>(isa, half[0], half[1])
}

/// Sums of lanes that are N apart: of `a` in the lower one, of `b` in the other.
#[inline(always)]
fn both<I: Isa, const INTEGERS: bool, const N: usize>(isa: I, a: I::F, b: I::F) -> I::F {
    let upper = const { lanes(N) };
    let (own, other) = (isa.select(upper, b, a), isa.swap::<N>(isa.select(upper, a, b)));
    if INTEGERS { isa.as_f(isa.add_i(isa.as_i(own), isa.as_i(other))) } else { isa.add(own, other) }
}
