//! The rotation of trellis formats: blocks of inputs times a Hadamard matrix with fixed signs.
//!
//! A row w becomes H D w / sqrt(block), with D the signs and H the Hadamard matrix in Sylvester's order; inputs get the
//! same, and as the matrix is orthonormal, products do not change. Rotated weights look Gaussian whatever the
//! checkpoint does (Ashkboos et al., arXiv 2404.00456; Chee et al., arXiv 2307.13304).
use crate::isa::Isa;

/// Signs of a block of 128 inputs, the same in every block: top bits of splitmix64 of 0..128.
const SIGNS: [[f32; 16]; 8] = {
    let mut signs = [[1.0; 16]; 8];
    let mut j = 0;
    while j < 128 {
        if split_mix(&mut (j as u64).wrapping_mul(GOLDEN)) >> 63 == 1 {
            signs[j / 16][j % 16] = -1.0;
        }
        j += 1;
    }
    signs
};

/// What SplitMix64 adds to its state.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The next random number of a state (SplitMix64, Steele, Lea and Flood 2014).
pub const fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN);
    mix(*state)
}

/// A number whose bits all depend on all of `z`'s: what SplitMix64 makes of its state.
pub const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Inputs per rotation: the largest of 128, 64, 32 and 16 that divides `padded`, itself a multiple of 16.
pub const fn block(padded: usize) -> usize {
    match padded % 128 {
        0 => 128,
        64 => 64,
        32 | 96 => 32,
        _ => 16,
    }
}

/// The sign of an input.
#[cfg(test)]
pub fn sign(input: usize) -> f64 {
    f64::from(SIGNS[input / 16 % 8][input % 16])
}

/// Bits set where the lane number has bit N.
pub const fn lanes(n: usize) -> u16 {
    let (mut mask, mut i) = (0, 0);
    while i < 16 {
        if i & n != 0 {
            mask |= 1 << i;
        }
        i += 1;
    }
    mask
}

#[inline(always)]
fn butterfly<I: Isa, const N: usize>(isa: I, v: I::F) -> I::F {
    let other = isa.swap::<N>(v);
    isa.select(const { lanes(N) }, isa.sub(other, v), isa.add(v, other))
}

/// Rotates one block of 1, 2, 4 or 8 times 16 inputs that starts at input `at`, a multiple of the block.
#[inline(always)]
pub fn rotate_block<I: Isa>(isa: I, at: usize, v: &mut [[f32; 16]]) {
    let scale = isa.splat(1.0 / ((v.len() * 16) as f32).sqrt());
    for (i, v) in v.iter_mut().enumerate() {
        let mut x = isa.mul(isa.load(v), isa.load(&SIGNS[(at / 16 + i) % 8]));
        x = butterfly::<I, 1>(isa, x);
        x = butterfly::<I, 2>(isa, x);
        x = butterfly::<I, 4>(isa, x);
        x = butterfly::<I, 8>(isa, x);
        isa.store(isa.mul(x, scale), v);
    }
    across(isa, v);
}

/// The inverse of [`rotate_block`].
#[inline(always)]
pub fn rotate_block_back<I: Isa>(isa: I, at: usize, v: &mut [[f32; 16]]) {
    across(isa, v);
    let scale = isa.splat(1.0 / ((v.len() * 16) as f32).sqrt());
    for (i, v) in v.iter_mut().enumerate() {
        let mut x = isa.load(v);
        x = butterfly::<I, 1>(isa, x);
        x = butterfly::<I, 2>(isa, x);
        x = butterfly::<I, 4>(isa, x);
        x = butterfly::<I, 8>(isa, x);
        isa.store(isa.mul(isa.mul(x, scale), isa.load(&SIGNS[(at / 16 + i) % 8])), v);
    }
}

/// Butterflies between vectors.
#[inline(always)]
fn across<I: Isa>(isa: I, v: &mut [[f32; 16]]) {
    let mut half = 1;
    while half < v.len() {
        for pair in v.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                let (x, y) = (isa.load(a), isa.load(b));
                isa.store(isa.add(x, y), a);
                isa.store(isa.sub(x, y), b);
            }
        }
        half *= 2;
    }
}
