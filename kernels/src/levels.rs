//! Level tables of the trellis formats.
//!
//! Up to 4 bits: trained on Gaussian rows for each group size, by alternating search, least-squares scales and weighted
//! centroids (Lloyd 1982, with the trellis as the quantizer), then rounded to integers from -64 to 63. A rotated row is
//! close to Gaussian whatever the checkpoint, so the tables are constants. From 5 bits up levels are uniform.
use crate::Format;

/// Levels of 2 bits, for groups of 16, 32, 64 and 128.
const TWO: [[i8; 8]; 4] =
    [[-64, -36, -20, -8, 3, 14, 27, 47], [-64, -34, -19, -7, 4, 15, 29, 50], [-64, -34, -19, -6, 5, 17, 31, 54], [-64, -35, -20, -7, 5, 18, 33, 58]];

/// Levels of 3 bits, for groups of 16, 32, 64 and 128.
const THREE: [[i8; 16]; 4] = [
    [-64, -50, -38, -29, -22, -16, -10, -5, 0, 5, 10, 16, 22, 29, 38, 52],
    [-64, -44, -32, -24, -18, -13, -8, -3, 1, 6, 11, 16, 21, 28, 37, 52],
    [-64, -42, -30, -23, -17, -12, -7, -3, 2, 6, 11, 16, 22, 28, 38, 54],
    [-64, -42, -30, -23, -17, -12, -7, -3, 2, 6, 11, 16, 22, 29, 39, 56],
];

/// Levels of 4 bits, for groups of 16, 32, 64 and 128.
const FOUR: [[i8; 32]; 4] = [
    [-64, -64, -55, -47, -40, -35, -31, -27, -23, -20, -17, -14, -11, -9, -6, -4, -1, 1, 4, 6, 9, 11, 14, 17, 20, 23, 27, 31, 35, 40, 48, 57],
    [-64, -54, -45, -38, -33, -28, -25, -22, -19, -16, -14, -11, -9, -7, -4, -2, 0, 2, 5, 7, 9, 11, 14, 16, 19, 22, 25, 29, 33, 38, 45, 56],
    [-64, -49, -40, -34, -29, -25, -22, -19, -17, -14, -12, -10, -8, -5, -3, -2, 1, 3, 5, 7, 9, 11, 13, 16, 18, 21, 24, 27, 31, 37, 44, 55],
    [-64, -47, -38, -32, -28, -24, -21, -18, -16, -14, -11, -9, -7, -5, -3, -1, 1, 3, 5, 6, 9, 11, 13, 15, 18, 20, 23, 26, 31, 36, 44, 56],
];

/// The `2 << bits` levels of a trellis format of 2 to 6 bits, rising, as signed numbers.
pub fn values(format: Format, out: &mut [f32]) {
    let size = format.group().ilog2() as usize - 4;
    let trained: &[i8] = match format.bits() {
        2 => &TWO[size],
        3 => &THREE[size],
        4 => &FOUR[size],
        _ => {
            let n = out.len() as f32;
            out.iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 - (n - 1.0) / 2.0) * (128.0 / n));
            return;
        }
    };
    out.iter_mut().zip(trained).for_each(|(v, &level)| *v = f32::from(level));
}

/// The levels of up to 4 bits as the products look them up: plus 64, so that they are unsigned.
pub fn table(format: Format) -> [u8; 32] {
    let mut values = [0.0; 32];
    if !format.is_dense() && format.bits() <= 4 && format.scheme() == crate::Scheme::Trellis {
        self::values(format, &mut values[..2 << format.bits()]);
    }
    values.map(|v| (v + 64.0) as u8)
}
