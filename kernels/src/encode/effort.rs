//! How long the encoder looks for a good coding.
use std::{fmt, str::FromStr};

/// How long the encoder searches: error against encoding time (docs/encoder.md has the curve). Dense formats, GPTQ's and floats of 4 bits are
/// the same at every effort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effort {
    /// One search: 2 to 2.8 times the default's speed at up to 6 bits, with 1 to 9 % more error (docs/encoder.md). Affine formats are rounded as
    /// RAM and MLX do.
    Fast,
    /// The knee of the curve: a search with three scales per group, and one with the scales refitted.
    #[default]
    Default,
    /// Two and a half times the default's time for 1 to 2 % less error.
    Best,
}

impl Effort {
    /// All of them, from fastest to best.
    pub const ALL: [Effort; 3] = [Effort::Fast, Effort::Default, Effort::Best];

    /// The searches of a format of 2 to 6 bits, each with the factors that every group's scale is tried with. Where
    /// several are tried, scales are chosen before the rest of the row is known; the last search has one, so that it is
    /// the best coding for its scales.
    pub(crate) const fn searches(self) -> &'static [&'static [f32]] {
        match self {
            Effort::Fast => &[&[1.0]],
            Effort::Default => &[&[0.96, 1.0, 1.04], &[1.0]],
            Effort::Best => &[&[0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06], &[0.98, 1.0, 1.02], &[1.0], &[1.0]],
        }
    }

    /// The factors that a group's scale is tried with where codes are plain, 7 and 8 bits: where levels are so dense,
    /// other scales only lay the grid elsewhere, and the smaller a group, the more the luckiest of them gives.
    pub(crate) const fn plain(self) -> &'static [f32] {
        match self {
            Effort::Fast => &[1.0, 0.99, 1.01],
            Effort::Default => &[0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04],
            Effort::Best => &[0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09, 1.1, 1.11, 1.12],
        }
    }

    /// How much narrower than all weights the range is that evenly spaced codes are tried with first.
    pub(crate) const fn shrinks(self) -> &'static [f32] {
        match self {
            Effort::Fast => &[],
            Effort::Default => &[1.0, 0.9, 0.8, 0.7],
            Effort::Best => &[1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55],
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Effort::Fast => "fast",
            Effort::Default => "default",
            Effort::Best => "best",
        })
    }
}

impl FromStr for Effort {
    type Err = String;
    fn from_str(s: &str) -> Result<Effort, String> {
        Effort::ALL.into_iter().find(|e| e.to_string() == s).ok_or_else(|| format!("unknown effort '{s}': use fast, default or best"))
    }
}
