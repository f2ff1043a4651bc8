//! What packed bytes and inputs mean, one number at a time in f64: so plain that it is obviously right. Tests hold everything else to it.
use crate::{
    Format, Matrix, Scheme,
    decode::{levels, zeros},
    encode::planes,
    ops::rotate,
    product::{Rows, Want},
};
use half::{bf16, f16};

/// The matrix, row by row.
pub fn matrix(m: &Matrix) -> Vec<f64> {
    let back = |w: Vec<f64>| {
        let w = if Want::of(m.format()) == Want::Rotated { rotated_back(&w) } else { w };
        let mut out = vec![0.0; m.cols()];
        order(m).into_iter().zip(w).for_each(|(to, w)| out[to] = w);
        out
    };
    (0..m.rows()).flat_map(|r| back(row(m, r))).collect()
}

/// The matrix as products see it: rotated and in order, rows filled up to a multiple of 16.
pub fn stored(m: &Matrix) -> Vec<f64> {
    (0..m.rows()).flat_map(|r| row(m, r)).collect()
}

fn row(m: &Matrix, row: usize) -> Vec<f64> {
    let (format, cols, bytes) = (m.format(), m.cols(), m.bytes());
    let at = |i: usize, size: usize| &bytes[(row * cols + i) * size..][..size];
    let word = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    let tile = || &bytes[row / 16 * format.row_bytes(16, cols)..][..format.row_bytes(16, cols)];
    let mut w: Vec<f64> = match format.scheme() {
        Scheme::F32 => (0..cols).map(|i| f64::from(f32::from_le_bytes(at(i, 4).try_into().expect("4 bytes")))).collect(),
        Scheme::F16 => (0..cols).map(|i| f16::from_bits(word(at(i, 2))).to_f64()).collect(),
        Scheme::Bf16 => (0..cols).map(|i| bf16::from_bits(word(at(i, 2))).to_f64()).collect(),
        Scheme::Trellis | Scheme::Signed => trellis(format, cols, tile(), row % 16),
        Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric | Scheme::Mx => {
            plain(format, cols, tile(), row % 16)
        }
    };
    w.resize(cols.next_multiple_of(16), 0.0);
    w
}

/// Which input each column takes.
fn order(m: &Matrix) -> Vec<usize> {
    let own = |order: &[u8]| order.as_chunks().0.iter().map(|i| u32::from_le_bytes(*i) as usize).collect();
    m.order().map_or_else(|| (0..m.cols()).collect(), own)
}

/// Inputs as `m` wants them, before they are rounded.
pub fn wanted(m: &Matrix, x: &[f32]) -> Vec<f64> {
    let mut out: Vec<f64> = order(m).into_iter().map(|i| f64::from(x[i])).collect();
    out.resize(m.cols().next_multiple_of(16), 0.0);
    if Want::of(m.format()) == Want::Rotated { rotated(&out) } else { out }
}

/// What inputs that were made ready stand for, and half a step between codes at each.
pub fn inputs(rows: &Rows, token: u32) -> Vec<(f64, f64)> {
    if rows.want() == Want::Dense {
        return rows.floats(token).as_flattened().iter().map(|bits| (f64::from(f32::from_bits(*bits)), 0.0)).collect();
    }
    let row = rows.row(token, rows.spans(16));
    let scales = row.spans.iter().map(|[scale, _]| f64::from(f32::from_bits(*scale)));
    let each = |(codes, scale): (&[u32; 4], f64)| codes.map(|word| word.to_le_bytes().map(|code| (f64::from(code as i8) * scale, scale / 2.0)));
    row.codes.iter().zip(scales).flat_map(|both| each(both).as_flattened().to_vec()).collect()
}

/// Scales and codes of one row of a tile.
fn parts(format: Format, cols: usize, tile: &[u8]) -> (&[u8], &[u8]) {
    tile[format.head_bytes()..].split_at(cols.next_multiple_of(16).div_ceil(format.group()) * format.group_bytes())
}

fn plain(format: Format, cols: usize, tile: &[u8], row: usize) -> Vec<f64> {
    let (scales, codes) = parts(format, cols, tile);
    let each = (0..cols.next_multiple_of(16)).map(|j| {
        let group = &scales[j / format.group() * format.group_bytes()..][..format.group_bytes()];
        let word = |at: usize| u16::from_le_bytes([group[at], group[at + 1]]);
        let code = f64::from(code(format.bits(), codes, j, row));
        let half = |at: usize| f16::from_bits(word(at)).to_f64();
        match format.scheme() {
            Scheme::Affine => half(2 * row) * code + half(32 + 2 * row),
            Scheme::AffineBf16 => bf16::from_bits(word(2 * row)).to_f64() * code + bf16::from_bits(word(32 + 2 * row)).to_f64(),
            Scheme::Mx => {
                let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code as usize % 8] * 2f64.powi(i32::from(group[row]) - 127);
                if code >= 8.0 { -size } else { size }
            }
            Scheme::Gptq | Scheme::GptqOrdered => half(2 * row) * (code - f64::from(zeros(format.bits(), &group[32..])[row])),
            Scheme::Symmetric => half(2 * row) * (code - f64::from(1 << (format.bits() - 1))),
            Scheme::Trellis | Scheme::Signed | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => unreachable!("{format} has no offsets"),
        }
    });
    each.collect()
}

fn trellis(format: Format, cols: usize, tile: &[u8], row: usize) -> Vec<f64> {
    let (scales, codes) = parts(format, cols, tile);
    let row_scale = f64::from(f32::from_le_bytes(tile[4 * row..][..4].try_into().expect("4 bytes")));
    let (bits, table) = (format.bits(), levels(format));
    let mut history = [[0; 3]; 4];
    let each = (0..cols.next_multiple_of(16)).map(|j| {
        let code = usize::from(code(bits, codes, j, row));
        let level = if bits >= 7 {
            code as f64 - (1 << (bits - 1)) as f64
        } else {
            let h: &mut [usize; 3] = &mut history[j % 4];
            let index = 4 * (code >> 1) + 2 * ((code & 1) ^ h[0] ^ h[2]) + h[1];
            *h = [code & 1, h[0], h[1]];
            f64::from(table[index])
        };
        row_scale * f64::from(scales[16 * (j / format.group()) + row] as i8) * level
    });
    each.collect()
}

/// H D x / sqrt(block).
pub fn rotated(x: &[f64]) -> Vec<f64> {
    hadamard(&x.iter().enumerate().map(|(j, x)| rotate::sign(j) * x).collect::<Vec<_>>())
}

/// D H w / sqrt(block).
pub fn rotated_back(w: &[f64]) -> Vec<f64> {
    hadamard(w).into_iter().enumerate().map(|(j, w)| rotate::sign(j) * w).collect()
}

/// H v / sqrt(block), sum by sum.
fn hadamard(v: &[f64]) -> Vec<f64> {
    let block = rotate::block(v.len());
    let each = (0..v.len()).map(|j| {
        let (start, j) = (j / block * block, j % block);
        let sum: f64 = (0..block).map(|k| if (j & k).count_ones() % 2 == 1 { -v[start + k] } else { v[start + k] }).sum();
        sum / (block as f64).sqrt()
    });
    each.collect()
}

/// The code of input `input` of a row in packed codes.
pub fn code(bits: usize, codes: &[u8], input: usize, row: usize) -> u8 {
    let (mut rest, mut below, mut code) = (&codes[input / 16 * 32 * bits..], 0, 0);
    let (step, lane) = (input % 16 / 4, 4 * row + input % 4);
    for &width in planes(bits) {
        let (byte, shift) = match width {
            8 => (64 * step + lane, 0),
            4 => (64 * (step / 2) + lane, 4 * (step % 2)),
            2 => (lane, 2 * step),
            _ => (lane % 32, 2 * step + lane / 32),
        };
        code |= (rest[byte] >> shift & ((1u16 << width) - 1) as u8) << below;
        (rest, below) = (&rest[32 * width..], below + width);
    }
    code
}
