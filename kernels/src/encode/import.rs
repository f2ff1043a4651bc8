//! Codes that another tool has chosen, into this engine's tiles: nothing is quantized again.
use super::pack::pack_all;
use crate::{Format, Scheme};

/// What the groups of some rows have, as (rows, groups) of 16 bits each.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    /// The bits of scales: f16, or bf16 where the format says so; or exponents, with as many zeros for offsets.
    pub scales: &'a [u16],
    /// The bits of offsets, of the same type; or zeros, as whole numbers that have as many bits as a code; nothing where the middle is the zero.
    pub offsets: &'a [u16],
}

/// Packs row-major (n, cols) codes with their groups into the `format.row_bytes(n, cols)` bytes of `out`. Where the format has an
/// order of inputs, the codes are in that order, and the caller writes it behind the last row.
///
/// # Panics
/// If the format has no such groups, or lengths do not fit together.
pub fn place(format: Format, cols: usize, codes: &[u8], groups: Groups, out: &mut [u8]) {
    let [gptq, affine] = match format.scheme() {
        Scheme::Gptq | Scheme::GptqOrdered => [true, false],
        Scheme::Affine | Scheme::AffineBf16 => [false, true],
        Scheme::Symmetric | Scheme::Mx => [false; 2],
        Scheme::Trellis | Scheme::Signed | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => panic!("{format} has scales of another kind"),
    };
    let (rows, per_row, padded) = (codes.len() / cols, cols.div_ceil(format.group()), cols.next_multiple_of(16));
    assert_eq!((codes.len(), out.len()), (rows * cols, format.row_bytes(rows, cols)));
    assert_eq!(groups.scales.len(), rows * per_row);
    assert_eq!(groups.offsets.len(), if gptq || affine { rows * per_row } else { 0 });
    let mut tile = vec![[0i32; 16]; padded / 4];
    for ((t, out), codes) in out.chunks_exact_mut(format.row_bytes(16, cols)).enumerate().zip(codes.chunks(16 * cols)) {
        let n = codes.len() / cols;
        let (heads, packed) = out.split_at_mut(padded.div_ceil(format.group()) * format.group_bytes());
        for (g, head) in heads.chunks_exact_mut(format.group_bytes()).enumerate() {
            head.fill(0);
            let mut zeros = 0u128;
            for r in 0..n {
                let at = (16 * t + r) * per_row + g;
                if format.scheme() == Scheme::Mx {
                    head[r] = groups.scales[at] as u8;
                    continue;
                }
                head[2 * r..][..2].copy_from_slice(&groups.scales[at].to_le_bytes());
                if gptq {
                    zeros |= u128::from(groups.offsets[at]) << (r * format.bits());
                } else if affine {
                    head[32 + 2 * r..][..2].copy_from_slice(&groups.offsets[at].to_le_bytes());
                }
            }
            if gptq {
                head[32..].copy_from_slice(&zeros.to_le_bytes()[..2 * format.bits()]);
            }
        }
        tile.fill([0; 16]);
        for (r, codes) in codes.chunks_exact(cols).enumerate() {
            for (to, codes) in tile.iter_mut().zip(codes.chunks(4)) {
                to[r] = codes.iter().rev().fold(0, |word, &code| word << 8 | i32::from(code));
            }
        }
        pack_all(format.bits(), &tile, packed);
    }
}
