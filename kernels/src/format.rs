//! How one matrix is stored: scheme, bits and group size, and how many bytes that takes.
use std::{fmt, str::FromStr};

/// Family of a [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Trellis-coded levels of rotated weights, 2 to 6 bits (7 and 8 bits: plain signed codes, rotated).
    Trellis,
    /// `scale * code + offset`, unrotated.
    Affine,
    /// 16-bit brain float.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

/// How one matrix is stored. `t4g64`, `t8g64`, `a4g64`, `bf16`, `f16`, `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    scheme: Scheme,
    bits: u8,
    group: u8,
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
                "unknown format '{s}': use t2 to t8 with g16, g32, g64 or g128 (t4g64), a2, a3, a4 or a8 with g32, g64 or g128 (a4g64), bf16, f16 or f32"
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

    /// A trellis format (7 and 8 bits: plain signed codes), or `None` where there is no such format.
    pub const fn trellis(bits: u8, group: u8) -> Option<Format> {
        if matches!(bits, 2..=8) && matches!(group, 16 | 32 | 64 | 128) { Some(Format { scheme: Scheme::Trellis, bits, group }) } else { None }
    }
    /// An affine format, or `None` where there is no such format.
    pub const fn affine(bits: u8, group: u8) -> Option<Format> {
        if matches!(bits, 2 | 3 | 4 | 8) && matches!(group, 32 | 64 | 128) { Some(Format { scheme: Scheme::Affine, bits, group }) } else { None }
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
    /// Whether weights are plain numbers.
    pub const fn is_dense(self) -> bool {
        matches!(self.scheme, Scheme::Bf16 | Scheme::F16 | Scheme::F32)
    }

    /// Bytes of a (rows, cols) matrix: the only place where this is computed.
    pub const fn bytes(self, rows: usize, cols: usize) -> usize {
        match self.scheme {
            Scheme::Bf16 | Scheme::F16 => rows * cols * 2,
            Scheme::F32 => rows * cols * 4,
            Scheme::Trellis | Scheme::Affine => {
                let (tiles, cols) = (rows.div_ceil(16), cols.next_multiple_of(16));
                let groups = cols.div_ceil(self.group as usize);
                let scales = if matches!(self.scheme, Scheme::Trellis) { groups + 4 } else { 4 * groups };
                tiles * (16 * scales + 2 * cols * self.bits as usize)
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let text = match self.scheme {
            Scheme::Bf16 => "bf16".to_string(),
            Scheme::F16 => "f16".to_string(),
            Scheme::F32 => "f32".to_string(),
            Scheme::Trellis => format!("t{}g{}", self.bits, self.group),
            Scheme::Affine => format!("a{}g{}", self.bits, self.group),
        };
        f.pad(&text)
    }
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(s: &str) -> Result<Format, FormatError> {
        let unknown = || FormatError::Unknown(s.to_string());
        match s {
            "bf16" => return Ok(Format::BF16),
            "f16" => return Ok(Format::F16),
            "f32" => return Ok(Format::F32),
            _ => {}
        }
        let (scheme, rest) = s.split_at_checked(1).ok_or_else(unknown)?;
        let (bits, group) = rest.split_once('g').ok_or_else(unknown)?;
        let (bits, group) = (bits.parse().map_err(|_| unknown())?, group.parse().map_err(|_| unknown())?);
        match scheme {
            "t" => Format::trellis(bits, group),
            "a" => Format::affine(bits, group),
            _ => None,
        }
        .filter(|f| f.to_string() == s)
        .ok_or_else(unknown)
    }
}
