//! A tile while it is coded.
use crate::Format;

/// What one float of levels from -64 is worth: `weight = span * (level as a float - MIDDLE)` with a span of 128 scales.
pub const SPAN: f32 = 128.0;

/// The result, codes and scales of a tile, and the buffers that one thread needs.
#[derive(Default)]
pub struct Coding {
    /// Stored codes, (padded inputs / 4) of 16 rows of 4 bytes.
    pub codes: Vec<[i32; 16]>,
    /// Signed scales, (groups) of 16 rows.
    pub scales: Vec<[i8; 16]>,
    /// What the signed scales are multiplied with.
    pub row_scales: [f32; 16],
    /// [`SPAN`] times the effective scales of the current search, and the two sums that refit them.
    pub spans: Vec<[f32; 16]>,
    /// Sums of weight * level in the units of [`SPAN`].
    pub products: Vec<[f32; 16]>,
    /// Sums of level^2 in the units of [`SPAN`].
    pub squares: Vec<[f32; 16]>,
    /// Decisions of a search.
    pub buffers: Buffers,
}

impl Coding {
    /// Makes room for a tile of `inputs`, a multiple of 16.
    pub fn resize(&mut self, format: Format, inputs: usize) {
        let groups = inputs.div_ceil(format.group());
        self.codes.resize(inputs / 4, [0; 16]);
        self.scales.resize(groups, [0; 16]);
        for v in [&mut self.spans, &mut self.products, &mut self.squares] {
            v.resize(groups, [0.0; 16]);
        }
    }
}

/// Decisions of a step: bit i of `[state][sequence]` says that row i's cheapest way there came from the state with h3 set.
pub type Decisions = [[u16; 4]; 8];

/// What a search needs beside its result.
#[derive(Default)]
pub struct Buffers {
    pub decisions: Vec<Decisions>,
    /// Decisions of a group under one candidate.
    pub trial: Vec<Decisions>,
}
