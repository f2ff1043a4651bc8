//! Codes out of tiles, as other engines store them: what [`place`](crate::place) puts there.
use super::{codec::zeros, unpack::with_levels};
use crate::{Format, Scheme, isa::Level};

/// Rows' codes, and what their groups have: as [`place`](crate::place) takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifted {
    /// (rows, cols) codes.
    pub codes: Vec<u8>,
    /// (rows, groups): the bits of scales, f16, or bf16 where the format says so.
    pub scales: Vec<u16>,
    /// (rows, groups): the bits of offsets, of the same type; or zeros as whole numbers; nothing where the middle is the zero.
    pub offsets: Vec<u16>,
}

/// Takes the codes of `rows` rows of `cols` inputs out of the `format.row_bytes(rows, cols)` bytes of `packed`; where the format has an order of
/// inputs they come in that order.
///
/// # Panics
/// If the format has no codes that are evenly spaced, or `packed` another length.
pub fn lift(format: Format, rows: usize, cols: usize, packed: &[u8], to: &mut Lifted) {
    let offsets = match format.scheme() {
        Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered => true,
        Scheme::Symmetric => false,
        Scheme::Trellis | Scheme::Signed | Scheme::Mx | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => panic!("{format} has no evenly spaced codes"),
    };
    assert_eq!(packed.len(), format.row_bytes(rows, cols), "{rows} x {cols} in {format}");
    let (padded, group, each) = (cols.next_multiple_of(16), format.group(), format.group_bytes());
    let groups = cols.div_ceil(group);
    to.codes.resize(rows * cols, 0);
    to.scales.resize(rows * groups, 0);
    to.offsets.resize(if offsets { rows * groups } else { 0 }, 0);
    for (t, tile) in packed.chunks_exact(format.row_bytes(16, cols)).enumerate() {
        let (heads, codes) = tile.split_at(padded.div_ceil(group) * each);
        let n = 16.min(rows - 16 * t);
        with_levels(Level::active(), format, codes, |levels| {
            for (r, to) in to.codes[16 * t * cols..].chunks_exact_mut(cols).take(n).enumerate() {
                let own = levels.as_flattened().iter().flat_map(|step| &step[4 * r..4 * r + 4]);
                to.iter_mut().zip(own).for_each(|(to, code)| *to = *code);
            }
        });
        for (g, head) in heads.chunks_exact(each).enumerate().take(groups) {
            let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
            for r in 0..n {
                let at = (16 * t + r) * groups + g;
                to.scales[at] = word(2 * r);
                if matches!(format.scheme(), Scheme::Affine | Scheme::AffineBf16) {
                    to.offsets[at] = word(32 + 2 * r);
                } else if offsets {
                    to.offsets[at] = zeros(format.bits(), &head[32..])[r] as u16;
                }
            }
        }
    }
}
