//! Level tables of the trellis formats.
//!
//! Trained on Gaussian rows for each group size by coordinate descent over integers from -64 to 63, on the error of the
//! encoder itself (`examples/train_levels.rs` makes them in four minutes). A rotated row is close to Gaussian whatever
//! the checkpoint, so the tables are constants. Descent matters: alternating search and weighted centroids (Lloyd 1982)
//! stops at errors 3 to 10 % higher, uniform levels of 5 bits at 34 to 52 % higher. With 6 bits every number is a level.
use crate::{Format, Scheme};

/// Levels of 2 bits, for groups of 16, 32, 64 and 128.
const TWO: [[i8; 8]; 4] =
    [[-59, -34, -20, -8, 3, 13, 26, 44], [-56, -31, -18, -7, 3, 13, 25, 43], [-52, -29, -16, -6, 3, 13, 24, 42], [-46, -26, -15, -6, 3, 12, 22, 39]];

/// Levels of 3 bits, for groups of 16, 32, 64 and 128.
const THREE: [[i8; 16]; 4] = [
    [-63, -62, -44, -34, -26, -19, -13, -7, -1, 4, 10, 16, 23, 30, 40, 53],
    [-62, -45, -34, -26, -20, -14, -9, -4, 1, 6, 11, 17, 23, 30, 40, 53],
    [-61, -44, -33, -26, -19, -14, -9, -4, 1, 6, 11, 16, 22, 29, 38, 52],
    [-59, -42, -31, -24, -18, -13, -8, -4, 1, 5, 10, 15, 21, 27, 36, 50],
];

/// Levels of 4 bits, for groups of 16, 32, 64 and 128.
const FOUR: [[i8; 32]; 4] = [
    [-64, -64, -54, -47, -41, -36, -32, -28, -24, -21, -18, -15, -12, -9, -6, -3, 0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 30, 34, 39, 44, 51, 59],
    [-64, -63, -53, -46, -40, -35, -31, -27, -23, -20, -17, -14, -11, -8, -5, -3, 0, 2, 5, 7, 10, 12, 15, 18, 21, 24, 28, 32, 37, 42, 49, 58],
    [-63, -53, -45, -39, -34, -30, -27, -24, -21, -18, -15, -13, -10, -8, -5, -3, 0, 2, 5, 7, 10, 12, 15, 18, 21, 24, 27, 31, 36, 42, 49, 58],
    [-63, -52, -44, -38, -33, -29, -25, -22, -19, -16, -13, -11, -8, -6, -3, -1, 1, 3, 6, 8, 11, 13, 16, 18, 21, 24, 27, 31, 35, 41, 48, 57],
];

/// Levels of 5 bits, for groups of 16, 32, 64 and 128.
const FIVE: [[i8; 64]; 4] = [
    [
        -64, -64, -59, -55, -52, -49, -46, -43, -40, -38, -36, -34, -32, -30, -28, -26, -24, -22, -20, -19, -17, -16, -14, -13, -11, -10, -8, -7, -5,
        -4, -2, -2, 0, 1, 2, 4, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 42, 45, 48, 51, 54, 58, 62,
    ],
    [
        -64, -64, -59, -55, -51, -48, -45, -42, -39, -36, -34, -32, -30, -28, -26, -24, -22, -21, -19, -18, -16, -15, -13, -12, -10, -9, -7, -7, -5,
        -4, -3, -1, -1, 1, 2, 3, 5, 5, 7, 8, 10, 11, 13, 14, 16, 17, 19, 20, 22, 23, 25, 27, 29, 31, 33, 35, 37, 40, 43, 46, 49, 53, 57, 61,
    ],
    [
        -64, -64, -58, -53, -49, -46, -43, -40, -37, -34, -32, -30, -28, -26, -24, -22, -20, -19, -17, -16, -14, -13, -11, -11, -9, -8, -6, -6, -4,
        -3, -2, -1, 1, 1, 3, 3, 5, 5, 7, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22, 24, 26, 28, 30, 32, 34, 36, 39, 42, 45, 49, 53, 57, 61,
    ],
    [
        -64, -59, -55, -51, -47, -44, -41, -38, -35, -32, -30, -28, -26, -24, -22, -20, -18, -17, -15, -14, -12, -12, -10, -9, -8, -7, -6, -5, -4,
        -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 11, 13, 14, 15, 17, 18, 20, 21, 23, 25, 27, 29, 31, 33, 36, 39, 42, 46, 50, 55, 61,
    ],
];

/// Levels of 6 bits: as many as there are numbers.
const SIX: [i8; 128] = {
    let mut levels = [0; 128];
    let mut i = 0;
    while i < 128 {
        levels[i] = (i as i32 - 64) as i8;
        i += 1;
    }
    levels
};

/// The `2 << bits` levels of a trellis format of 2 to 6 bits, rising, from -64 to 63; none for others.
pub fn of(format: Format) -> &'static [i8] {
    match format.scheme() {
        Scheme::Trellis => match format.bits() {
            2 => &TWO[size(format)],
            3 => &THREE[size(format)],
            4 => &FOUR[size(format)],
            5 => &FIVE[size(format)],
            6 => &SIX,
            _ => unreachable!("{format} has no levels"),
        },
        Scheme::Signed | Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric | Scheme::Mx => &[],
        Scheme::Bf16 | Scheme::F16 | Scheme::F32 => &[],
    }
}

/// Which of the tables of its bits a trellis format has, by its group.
fn size(format: Format) -> usize {
    format.group().ilog2() as usize - 4
}

/// Levels as products look them up: plus 64, so that they are unsigned; in rising order (4 and 5 bits: first those of even and
/// then those of odd places, in quarters) and in those of [`even_place`] and [`odd_place`].
pub type Tables = [[u8; 64]; 3];

/// Floats of 4 bits (E2M1) by their codes.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
/// The level of one that is 0: levels are twice the floats, plus this.
pub const MX_ZERO: u8 = 12;

/// The tables of a trellis format of up to 5 bits, and those of floats of 4 bits; zeros for others.
pub fn tables(format: Format) -> &'static Tables {
    static TABLES: [[Tables; 4]; 4] = {
        let mut tables = [[[[0; 64]; 3]; 4]; 4];
        let mut size = 0;
        while size < 4 {
            let [two, three, four, five] = &mut tables;
            unsigned(2, &TWO[size], &mut two[size]);
            unsigned(3, &THREE[size], &mut three[size]);
            unsigned(4, &FOUR[size], &mut four[size]);
            unsigned(5, &FIVE[size], &mut five[size]);
            size += 1;
        }
        tables
    };
    match format.scheme() {
        Scheme::Trellis if format.bits() <= 5 => &TABLES[format.bits() - 2][size(format)],
        Scheme::Mx => {
            &[const {
                let (mut table, mut i) = ([0; 64], 0);
                while i < 64 {
                    table[i] = (2.0 * E2M1[i % 16] + MX_ZERO as f32) as u8;
                    i += 1;
                }
                table
            }; 3]
        }
        // Levels that are their own codes.
        Scheme::Trellis | Scheme::Signed | Scheme::Affine | Scheme::AffineBf16 => &[[0; 64]; 3],
        Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric => &[[0; 64]; 3],
        Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no codes"),
    }
}

const fn unsigned(bits: usize, levels: &[i8], [table, even, odd]: &mut Tables) {
    let mut i = 0;
    while i < 64 {
        let place = if bits < 4 { i } else { i / 32 * 32 + i % 16 * 2 + i / 16 % 2 };
        table[i] = (levels[place % levels.len()] as i16 + 64) as u8;
        even[i] = (levels[even_place(bits, i)] as i16 + 64) as u8;
        odd[i] = (levels[odd_place(bits, i)] as i16 + 64) as u8;
        i += 1;
    }
}

/// Where the table has the level of an even step's index `i` (of the first step, with 2 or 3 bits).
const fn even_place(bits: usize, i: usize) -> usize {
    let (before, mixed, high) = (i >> 5 & 1, i & 1, i >> 4 & 1);
    match bits {
        2 => before | mixed << 1 | (i >> 1 & 1) << 2,
        3 => before | mixed << 1 | (i >> 1 & 1) << 2 | high << 3,
        4 => before | mixed << 1 | (i >> 1 & 7) << 2,
        5 => before | mixed << 1 | (i >> 1 & 7) << 2 | high << 5,
        _ => panic!("tables have levels of 2 to 5 bits"),
    }
}

/// The same of an odd step's index (of the third step, with 2 or 3 bits).
const fn odd_place(bits: usize, i: usize) -> usize {
    let mixed = i & 1 | ((i >> 4 ^ i >> 2) & 1) << 1 | (i >> 5 & 1) << 2;
    let pair = i >> 4 & 1 | (i >> 5 & 1) << 1 | (i & 3) << 2 | (i >> 3 & 1) << 4;
    match bits {
        2 => mixed,
        3 => mixed | (i >> 1 & 1) << 3,
        4 => pair,
        5 => pair | (i >> 2 & 1) << 5,
        _ => panic!("tables have levels of 2 to 5 bits"),
    }
}
