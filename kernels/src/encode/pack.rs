//! Codes of a macro-step (16 inputs of 16 rows) as bit planes, and back.
//!
//! A step is 4 inputs; lane = 4 * row + input mod 4. The first plane holds the low bits of every code, the next ones the
//! rest: 2 = [2], 3 = [2, 1], 4 = [4], 5 = [4, 1], 6 = [4, 2], 7 = [4, 2, 1], 8 = [8]. Per step s and lane the planes
//! hold 8 bits: byte 64 s + lane; 4 bits: byte 64 (s / 2) + lane, low half for even s; 2 bits: byte lane, bits 2 s and
//! up; 1 bit: byte lane mod 32, bit 2 s + lane / 32. Every step's 64 codes come out with one shift and one mask.

/// Widths of the planes of codes of `bits` bits.
pub const fn planes(bits: usize) -> &'static [usize] {
    match bits {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        8 => &[8],
        _ => panic!("codes have 2 to 8 bits"),
    }
}

/// Packs a macro-step's codes, 4 steps of 16 rows of 4 bytes, into `32 * bits` bytes.
pub fn pack(bits: usize, steps: &[[i32; 16]; 4], out: &mut [u8]) {
    let (mut rest, mut below) = (out, 0);
    for &width in planes(bits) {
        let (plane, after) = rest.split_at_mut(32 * width);
        // Steps whose codes share bytes, lane for lane: four bytes at once, no bit leaves its byte.
        let together = (8 / width).min(4);
        for (steps, plane) in steps.chunks_exact(together).zip(plane.chunks_mut(64)) {
            let mut lanes = [0u32; 16];
            for (i, step) in steps.iter().enumerate() {
                let shift = i * 8 / together;
                lanes.iter_mut().zip(step).for_each(|(to, &codes)| *to |= (codes as u32 >> below & mask(width)) << shift);
            }
            if width == 1 {
                let (low, high) = lanes.split_at_mut(8);
                low.iter_mut().zip(high).for_each(|(low, high)| *low |= *high << 1);
            }
            plane.as_chunks_mut().0.iter_mut().zip(lanes).for_each(|(to, lanes)| *to = lanes.to_le_bytes());
        }
        (rest, below) = (after, below + width);
    }
}

/// The lowest `width` bits of each of four bytes.
const fn mask(width: usize) -> u32 {
    0x0101_0101 * ((1 << width) - 1)
}

/// Codes of 16 rows, four columns to a word, into macro-steps.
pub fn pack_all(bits: usize, codes: &[[i32; 16]], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(32 * bits)) {
        pack(bits, codes, out);
    }
}
