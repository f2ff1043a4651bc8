//! Heads in 8 or 4 bits: rotated, with one scale each.
use super::{KvElement, PAGE, own};
use crate::{
    isa::{Isa, Kernel},
    ops::rotate,
};
use std::sync::Arc;

/// The levels of 4 bits, 127 for the largest: those of Max' table for 16, of a Gaussian whose deviation is 127 / 2.733.
pub const LEVELS: [i8; 16] = [-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127];

/// Magnitudes, in deviations, from which on the next level is nearer.
const BOUNDS: [f32; 7] = [0.2582, 0.5224, 0.7996, 1.0993, 1.4371, 1.8435, 2.4008];

/// Codes of a rotated head, and the scale of what they stand for: numbers from -127 to 127, or a level's number.
#[inline(always)]
fn code<I: Isa>(isa: I, element: KvElement, row: &[[f32; 16]], codes: &mut [[i32; 16]]) -> f32 {
    if element == KvElement::Q8 {
        let mut most = isa.splat(0.0);
        for v in row {
            most = isa.max(isa.abs(isa.load(v)), most);
        }
        let scale = isa.largest(most) / 127.0;
        let per = isa.splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
        for (v, codes) in row.iter().zip(codes) {
            isa.store_i(isa.round(isa.mul(isa.load(v), per)), codes);
        }
        return scale;
    }
    let mut squares = isa.splat(0.0);
    for v in row {
        squares = isa.fma(isa.load(v), isa.load(v), squares);
    }
    let deviation = (isa.sum(squares) / (16 * row.len()) as f32).sqrt();
    let per = isa.splat(if deviation > 0.0 { 1.0 / deviation } else { 0.0 });
    let (mut products, mut squares) = (0.0f32, 0.0f32);
    for (v, codes) in row.iter().zip(codes) {
        let (x, mut above) = (isa.mul(isa.load(v), per), isa.splat(0.0));
        for bound in BOUNDS {
            above = isa.add(above, isa.select(isa.lt(isa.splat(bound), isa.abs(x)), isa.splat(1.0), isa.splat(0.0)));
        }
        let negative = isa.lt(x, isa.splat(0.0));
        isa.store_i(isa.round(isa.select(negative, isa.sub(isa.splat(7.0), above), isa.add(isa.splat(8.0), above))), codes);
        for (v, code) in v.iter().zip(codes) {
            let level = f32::from(LEVELS[*code as usize & 15]);
            (products, squares) = (products + v * level, squares + level * level);
        }
    }
    // Of all scales the one of least square error.
    products / squares
}

/// `head` rotated, zeros behind it.
#[inline(always)]
pub fn rotated<I: Isa>(isa: I, head: &[f32], row: &mut [[f32; 16]]) {
    let flat = row.as_flattened_mut();
    flat[..head.len()].copy_from_slice(head);
    flat[head.len()..].fill(0.0);
    let block = rotate::block(16 * row.len()) / 16;
    for (i, block_of) in row.chunks_exact_mut(block).enumerate() {
        rotate::rotate_block(isa, 16 * block * i, block_of);
    }
}

/// The inverse, of the first blocks of a head of `wide` numbers.
#[inline(always)]
pub fn rotated_back<I: Isa>(isa: I, row: &mut [[f32; 16]], wide: usize) {
    let block = rotate::block(wide) / 16;
    for (i, block_of) in row.chunks_exact_mut(block).enumerate() {
        rotate::rotate_block_back(isa, 16 * block * i, block_of);
    }
}

/// Keys and values of one KV head into pages of codes.
pub struct WriteCodes<'p, T> {
    pub pages: &'p mut [Arc<[u8]>],
    /// What keys are less, where there is one.
    pub centre: &'p [f32],
    pub element: KvElement,
    /// Numbers that a head takes.
    pub wide: usize,
    /// Whether there are only keys, which lie as values do.
    pub latent: bool,
    /// The place of each token, its key and its value.
    pub new: T,
}

impl<'a, T: Iterator<Item = (usize, &'a [f32], &'a [f32])>> Kernel for WriteCodes<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (element, wide, latent) = (self.element, self.wide, self.latent);
        let (mut row, mut codes) = (vec![[0.0; 16]; wide / 16], vec![[0; 16]; wide / 16]);
        let mut less = vec![0.0; self.centre.len()];
        let part = if element == KvElement::Q8 { PAGE * wide } else { PAGE * wide / 2 };
        for (at, k, v) in self.new {
            let page = own(&mut self.pages[at / PAGE]);
            let at = at % PAGE;
            let heads = if latent { 1 } else { 2 };
            for (values, head) in [k, v].into_iter().enumerate().take(heads) {
                if values == 0 && !less.is_empty() {
                    less.iter_mut().zip(head.iter().zip(self.centre)).for_each(|(less, (k, c))| *less = k - c);
                    rotated(isa, &less, &mut row);
                } else {
                    rotated(isa, head, &mut row);
                }
                let scale = code(isa, element, &row, &mut codes);
                let (numbers, scales) = page.split_at_mut(heads * part);
                scales[4 * (values * PAGE + at)..][..4].copy_from_slice(&scale.to_le_bytes());
                let numbers = &mut numbers[values * part..][..part];
                let by_token = latent || values == 1;
                for (j, &code) in codes.as_flattened().iter().enumerate() {
                    // Of the part, where it is taken as one number after the other.
                    let place = if by_token { at * wide + j } else { at / 16 * wide * 16 + j / 4 * 64 + at % 16 * 4 + j % 4 };
                    if element == KvElement::Q4 {
                        let (byte, upper) = (&mut numbers[place / 128 * 64 + place % 64], place % 128 >= 64);
                        *byte = if upper { *byte & 15 | (code as u8) << 4 } else { *byte & 240 | code as u8 };
                    } else {
                        // Keys are multiplied as bytes without signs.
                        numbers[place] = (code as u8).wrapping_add(if by_token { 0 } else { 128 });
                    }
                }
            }
        }
    }
}

/// A head, as it is once it has been coded.
pub struct Held<'a> {
    pub element: KvElement,
    pub head: &'a mut [f32],
}

impl Kernel for Held<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let vectors = self.head.len().div_ceil(16);
        let (mut row, mut codes) = (vec![[0.0; 16]; vectors], vec![[0; 16]; vectors]);
        rotated(isa, self.head, &mut row);
        let scale = code(isa, self.element, &row, &mut codes);
        for (v, code) in row.as_flattened_mut().iter_mut().zip(codes.as_flattened()) {
            *v = scale * if self.element == KvElement::Q8 { *code as f32 } else { f32::from(LEVELS[*code as usize & 15]) };
        }
        rotated_back(isa, &mut row, 16 * vectors);
        let len = self.head.len();
        self.head.copy_from_slice(&row.as_flattened()[..len]);
    }
}
