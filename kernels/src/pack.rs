//! Codes of a macro-step (16 inputs of 16 rows) as bit planes, and back.
//!
//! A step is 4 inputs; lane = 4 * row + input mod 4. The first plane holds the low bits of every code, the second the
//! rest: 2 = [2], 3 = [2, 1], 4 = [4], 5 = [4, 1], 6 = [4, 2], 8 = [8]. Per step s and lane the planes hold
//! 8 bits: byte 64 s + lane; 4 bits: byte 64 (s / 2) + lane, low half for even s; 2 bits: byte lane, bits 2 s and up;
//! 1 bit: byte lane mod 32, bit 2 s + lane / 32. Every step's 64 codes come out with one shift and one mask.

/// Widths of the planes of codes of `bits` bits; 0 where there is no second one.
const fn planes(bits: usize) -> [usize; 2] {
    match bits {
        3 => [2, 1],
        5 => [4, 1],
        6 => [4, 2],
        whole => [whole, 0],
    }
}

/// Byte and shift of step `s`, lane `lane` in a plane.
const fn place(width: usize, s: usize, lane: usize) -> (usize, usize) {
    match width {
        8 => (64 * s + lane, 0),
        4 => (64 * (s / 2) + lane, 4 * (s % 2)),
        2 => (lane, 2 * s),
        _ => (lane % 32, 2 * s + lane / 32),
    }
}

/// Packs (16 inputs) of 16 rows' codes into `32 * bits` bytes.
pub fn pack(bits: usize, codes: &[[u8; 16]; 16], out: &mut [u8]) {
    out.fill(0);
    let [low, high] = planes(bits);
    let (first, second) = out.split_at_mut(32 * low);
    for (input, codes) in codes.iter().enumerate() {
        for (row, &code) in codes.iter().enumerate() {
            let (s, lane) = (input / 4, 4 * row + input % 4);
            let (byte, shift) = place(low, s, lane);
            first[byte] |= (if low == 8 { code } else { code & ((1 << low) - 1) }) << shift;
            if high > 0 {
                let (byte, shift) = place(high, s, lane);
                second[byte] |= code >> low << shift;
            }
        }
    }
}

/// The code of one input (0 to 15) of one row in a packed macro-step.
pub fn code(bits: usize, packed: &[u8], input: usize, row: usize) -> u8 {
    let [low, high] = planes(bits);
    let (s, lane) = (input / 4, 4 * row + input % 4);
    let take = |plane: &[u8], width: usize| {
        let (byte, shift) = place(width, s, lane);
        plane[byte] >> shift & if width == 8 { 255 } else { (1 << width) - 1 }
    };
    let first = take(packed, low);
    if high == 0 { first } else { first | take(&packed[32 * low..], high) << low }
}
