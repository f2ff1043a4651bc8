//! How one matrix is stored: scheme, bits and group size, and how many bytes that takes.
use std::{fmt, str::FromStr};

/// Family of a [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Trellis-coded levels of rotated weights, 2 to 6 bits.
    Trellis,
    /// Signed codes of rotated weights, 7 and 8 bits, with the scales of a trellis.
    Signed,
    /// `scale * code + offset`, unrotated, f16 scale and offset.
    Affine,
    /// The same with bf16 scale and offset, as MLX stores it for bf16 models.
    AffineBf16,
    /// `scale * (code - zero)`, f16 scale and a zero of as many bits as a code: GPTQ's, unrotated.
    Gptq,
    /// The same with groups over reordered inputs, whose order is stored behind the matrix (act-order).
    GptqOrdered,
    /// `scale * (code - middle)`, f16 scale, unrotated: compressed-tensors' where it is symmetric.
    Symmetric,
    /// Floats of 4 bits (E2M1) with a power of two for every 32, unrotated: MXFP4 of the OCP Microscaling Formats 1.0.
    Mx,
    /// 16-bit brain float.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

impl Scheme {
    /// Whether weights are rotated before they are coded, and have a scale per row besides those of groups.
    pub const fn is_rotated(self) -> bool {
        matches!(self, Scheme::Trellis | Scheme::Signed)
    }
}

/// How one matrix is stored. `t4g64`, `t8g64`, `a4g64`, `b4g64`, `q4g128`, `p4g128`, `s4g128`, `mxfp4`, `bf16`, `f16`, `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    scheme: Scheme,
    bits: u8,
    group: u16,
}

/// Why a format or a packed matrix is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The text names no format.
    Unknown(String),
    /// The bytes given are not what [`Format::bytes`] says.
    Length {
        /// The format.
        format: Format,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// Bytes that it takes.
        need: usize,
        /// Bytes given.
        have: usize,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unknown(s) => write!(
                f,
                "unknown format '{s}': use t2 to t8 with g16, g32, g64 or g128 (t4g64), a2 to a6 or a8 with g32, g64 or g128 (a4g64), s4 or s8 with g32, g64 or g128, bf16, f16 or f32"
            ),
            Self::Length { format, rows, cols, need, have } => write!(f, "a {rows} x {cols} matrix in {format} takes {need} bytes, not {have}"),
        }
    }
}

impl std::error::Error for FormatError {}

impl Format {
    /// 16-bit brain float.
    pub const BF16: Format = Format { scheme: Scheme::Bf16, bits: 16, group: 0 };
    /// IEEE half.
    pub const F16: Format = Format { scheme: Scheme::F16, bits: 16, group: 0 };
    /// IEEE single.
    pub const F32: Format = Format { scheme: Scheme::F32, bits: 32, group: 0 };

    /// Floats of 4 bits with a power of two for every 32.
    pub const MXFP4: Format = Format { scheme: Scheme::Mx, bits: 4, group: 32 };

    /// A format of rotated weights: a trellis of 2 to 6 bits, signed codes of 7 or 8, or `None` where there is no such format.
    pub const fn rotated(bits: u8, group: u16) -> Option<Format> {
        let scheme = if bits < 7 { Scheme::Trellis } else { Scheme::Signed };
        if matches!(bits, 2..=8) && matches!(group, 16 | 32 | 64 | 128) { Some(Format { scheme, bits, group }) } else { None }
    }
    /// An affine format, or `None` where there is no such format.
    pub const fn affine(bits: u8, group: u16) -> Option<Format> {
        if matches!(bits, 2..=6 | 8) && matches!(group, 32 | 64 | 128) { Some(Format { scheme: Scheme::Affine, bits, group }) } else { None }
    }
    /// An affine format with bf16 scales and offsets, or `None` where there is no such format.
    pub const fn affine_bf16(bits: u8, group: u16) -> Option<Format> {
        match Format::affine(bits, group) {
            Some(f) => Some(Format { scheme: Scheme::AffineBf16, ..f }),
            None => None,
        }
    }
    /// A format of GPTQ, whose groups are as long as a multiple of 32 can be: a row that is one group is one of its length.
    /// `ordered` for act-order. `None` where there is no such format.
    pub const fn gptq(bits: u8, group: u16, ordered: bool) -> Option<Format> {
        let scheme = if ordered { Scheme::GptqOrdered } else { Scheme::Gptq };
        if matches!(bits, 2 | 3 | 4 | 8) && group != 0 && group.is_multiple_of(32) { Some(Format { scheme, bits, group }) } else { None }
    }
    /// A symmetric format of 4 or 8 bits, or `None` where there is no such format.
    pub const fn symmetric(bits: u8, group: u16) -> Option<Format> {
        if matches!(bits, 4 | 8) && matches!(group, 32 | 64 | 128) { Some(Format { scheme: Scheme::Symmetric, bits, group }) } else { None }
    }
    /// The family.
    pub const fn scheme(self) -> Scheme {
        self.scheme
    }
    /// Stored bits per weight, scales apart.
    pub const fn bits(self) -> usize {
        self.bits as usize
    }
    /// Weights per scale along the input dimension; 0 for dense formats.
    pub const fn group(self) -> usize {
        self.group as usize
    }
    /// Whether codes can make up for the errors of those before them ([`quantize_with`](crate::quantize_with)).
    pub const fn takes_feedback(self) -> bool {
        matches!(self.scheme, Scheme::Trellis | Scheme::Affine | Scheme::AffineBf16 | Scheme::Symmetric)
    }

    /// Whether weights are plain numbers.
    pub const fn is_dense(self) -> bool {
        self.number_bytes().is_some()
    }
    /// Bytes of a plain number, where weights are such.
    const fn number_bytes(self) -> Option<usize> {
        match self.scheme {
            Scheme::Bf16 | Scheme::F16 => Some(2),
            Scheme::F32 => Some(4),
            Scheme::Trellis | Scheme::Signed | Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered => None,
            Scheme::Symmetric | Scheme::Mx => None,
        }
    }

    /// Bytes of a (rows, cols) matrix: the only place where this is computed.
    ///
    /// # Panics
    /// If they are more than a `usize` counts.
    pub const fn bytes(self, rows: usize, cols: usize) -> usize {
        plus(self.row_bytes(rows, cols), self.order_bytes(cols))
    }
    /// Of these, those of rows that come first, in tiles of 16.
    ///
    /// # Panics
    /// If they are more than a `usize` counts.
    pub const fn row_bytes(self, rows: usize, cols: usize) -> usize {
        match self.number_bytes() {
            Some(bytes) => times(times(rows, cols), bytes),
            None => {
                let (tiles, steps) = (rows.div_ceil(16), cols.div_ceil(16));
                let scales = times(times(steps, 16).div_ceil(self.group as usize), self.group_bytes());
                times(tiles, plus(plus(self.head_bytes(), scales), times(steps, 32 * self.bits as usize)))
            }
        }
    }
    /// Of these, those of the order of the inputs, which comes last: a little-endian u32 each.
    pub const fn order_bytes(self, cols: usize) -> usize {
        match self.scheme {
            Scheme::GptqOrdered => times(4, cols),
            Scheme::Trellis | Scheme::Signed | Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::Symmetric | Scheme::Mx => 0,
            Scheme::Bf16 | Scheme::F16 | Scheme::F32 => 0,
        }
    }
    /// Bytes in front of a tile: 16 f32 row scales of rotated weights.
    pub(crate) const fn head_bytes(self) -> usize {
        if self.scheme.is_rotated() { 64 } else { 0 }
    }
    /// Bytes of what a tile's 16 rows have per group: 8-bit scales or exponents; 16-bit scales; or these and offsets, or zeros.
    pub(crate) const fn group_bytes(self) -> usize {
        match self.scheme {
            Scheme::Trellis | Scheme::Signed | Scheme::Mx => 16,
            Scheme::Symmetric => 32,
            Scheme::Affine | Scheme::AffineBf16 => 64,
            Scheme::Gptq | Scheme::GptqOrdered => 32 + 2 * self.bits as usize,
            Scheme::Bf16 | Scheme::F16 | Scheme::F32 => 0,
        }
    }
}

/// A size that wrapped would be one of another matrix.
const TOO_LARGE: &str = "a matrix has more bytes than can be counted";

const fn times(a: usize, b: usize) -> usize {
    a.checked_mul(b).expect(TOO_LARGE)
}

const fn plus(a: usize, b: usize) -> usize {
    a.checked_add(b).expect(TOO_LARGE)
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let text = match self.scheme {
            Scheme::Mx => "mxfp4".to_string(),
            Scheme::Bf16 => "bf16".to_string(),
            Scheme::F16 => "f16".to_string(),
            Scheme::F32 => "f32".to_string(),
            Scheme::Trellis | Scheme::Signed => format!("t{}g{}", self.bits, self.group),
            Scheme::Affine => format!("a{}g{}", self.bits, self.group),
            Scheme::AffineBf16 => format!("b{}g{}", self.bits, self.group),
            Scheme::Gptq => format!("q{}g{}", self.bits, self.group),
            Scheme::GptqOrdered => format!("p{}g{}", self.bits, self.group),
            Scheme::Symmetric => format!("s{}g{}", self.bits, self.group),
        };
        f.pad(&text)
    }
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(s: &str) -> Result<Format, FormatError> {
        let unknown = || FormatError::Unknown(s.to_string());
        match s {
            "mxfp4" => return Ok(Format::MXFP4),
            "bf16" => return Ok(Format::BF16),
            "f16" => return Ok(Format::F16),
            "f32" => return Ok(Format::F32),
            _ => {}
        }
        let (scheme, rest) = s.split_at_checked(1).ok_or_else(unknown)?;
        let (bits, group) = rest.split_once('g').ok_or_else(unknown)?;
        let (bits, group) = (bits.parse().map_err(|_| unknown())?, group.parse().map_err(|_| unknown())?);
        match scheme {
            "t" => Format::rotated(bits, group),
            "a" => Format::affine(bits, group),
            "b" => Format::affine_bf16(bits, group),
            "q" | "p" => Format::gptq(bits, group, scheme == "p"),
            "s" => Format::symmetric(bits, group),
            _ => None,
        }
        .filter(|f| f.to_string() == s)
        .ok_or_else(unknown)
    }
}
