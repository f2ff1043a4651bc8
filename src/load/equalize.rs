//! Equalization: channels between two linear maps are scaled so that a coarse error costs the least, which changes nothing else.
//!
//! Rotation spreads a coded matrix' error evenly over the channels of a block. A channel with large inputs and small weights suffers
//! from that; times s, with its inputs made 1 / s as large where they come from, it suffers less. With mean squares a of the inputs and
//! c of a channel's weights, the error of a block is (sum of c s^2) (sum of a / s^2), which is least for s^4 = a / c (Cauchy and
//! Schwarz). Norm weights and the rows of up projections are made smaller, the columns of what reads them larger.
//!
//! The weights alone tell a badly: on SmolLM2 a norm's squared weights correlate with it by 0.3 and 0.4, the product of gate's and
//! up's rows not at all. Random tokens tell it nearly as well as text does (3 bits, KL: 0.80 as it is, 0.37 by 2,048 random tokens,
//! 0.36 by 512, 0.33 by text of the tested kind). The first token of a text must be among them: what it looks like is no other's.
use crate::{
    Error,
    checkpoint::{Checkpoint, read_rows, read_vector, size},
    planner::Plan,
};
use ram_kernels::{Arena, Matrix};
use ram_models::{Published, Seen, TensorSpec, Weights, survey};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Sequences of random tokens, and their length.
const SEQUENCES: usize = 4;
const LENGTH: usize = 128;
/// Tokens that what is said of all channels together counts as, beside those that an expert was looked at with.
const PRIOR: f64 = 8.0;
/// The largest s, and one over the smallest.
const MOST: f64 = 64.0;

/// What each tensor is multiplied with.
#[derive(Default)]
pub struct Scales {
    /// Of matrices, by column.
    columns: HashMap<String, Arc<[f32]>>,
    /// Of matrices and norms, what their rows are divided by.
    rows: HashMap<String, Arc<[f32]>>,
}

impl Scales {
    /// Of a plan's coded matrices; nothing where it does not equalize. `done` is told the number of weights that were looked at.
    ///
    /// # Errors
    /// Where the checkpoint cannot be read, or a number that comes up is not finite.
    pub fn measure(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Scales, Error> {
        let mut scales = Scales::default();
        let coded: HashSet<&str> = plan.entries.iter().filter(|e| !e.format.is_dense()).map(|e| e.spec.name.as_str()).collect();
        // Without a coded matrix there is nothing to look at the weights for.
        if !plan.equalize || coded.is_empty() {
            return Ok(scales);
        }
        let description = checkpoint.description();
        let sequences = sequences(description.vocab_size, LENGTH.min(description.max_position_embeddings));
        survey(description, &Read { checkpoint, done }, &sequences, &mut |seen| {
            // What is kept as it was published stays exactly that.
            if seen.readers.iter().any(|reader| coded.contains(reader.name.as_str())) {
                scales.add(seen);
            }
        })?;
        Ok(scales)
    }

    fn add(&mut self, seen: Seen) {
        let scale: Arc<[f32]> = scale(&seen).into();
        self.columns.extend(seen.readers.into_iter().map(|reader| (reader.name, scale.clone())));
        self.rows.insert(seen.maker.name, scale);
    }

    /// Scales rows of a matrix (rows, cols), or the weights of a norm, from number `first` on; says whether the tensor has a scale.
    pub fn apply(&self, name: &str, first: usize, values: &mut [f32], cols: usize) -> bool {
        let (columns, rows) = (self.columns.get(name), self.rows.get(name));
        if let Some(scale) = columns {
            for row in values.chunks_exact_mut(cols) {
                row.iter_mut().zip(&**scale).for_each(|(w, s)| *w *= s);
            }
        }
        if let Some(scale) = rows {
            for (row, s) in values.chunks_exact_mut(cols).zip(&scale[first..]) {
                row.iter_mut().for_each(|w| *w /= s);
            }
        }
        columns.or(rows).is_some()
    }
}

/// s of every channel, around 1. Square roots are the same on every machine.
fn scale(seen: &Seen) -> Vec<f32> {
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (square, column) = (mean(&seen.squares), mean(&seen.columns));
    if square <= 0.0 || column <= 0.0 {
        return vec![1.0; seen.squares.len()];
    }
    let tokens = seen.tokens as f64;
    let each = seen.squares.iter().zip(&seen.columns).map(|(a, c)| {
        let a = (tokens * a / square + PRIOR) / (tokens + PRIOR);
        // A column of zeros has nothing to lose.
        let ratio = a / (c / column).max(1e-4);
        ratio.sqrt().sqrt()
    });
    let each: Vec<f64> = each.collect();
    let mut sorted = each.clone();
    let (_, median, _) = sorted.select_nth_unstable_by(each.len() / 2, f64::total_cmp);
    each.iter().map(|s| (s / *median).clamp(1.0 / MOST, MOST) as f32).collect()
}

/// Tokens from all of the vocabulary, the same every time (SplitMix64, Steele, Lea and Flood 2014).
fn sequences(vocab_size: usize, length: usize) -> Vec<Vec<u32>> {
    let mut state = 0u64;
    let mut token = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * vocab_size as u128) >> 64) as u32
    };
    (0..SEQUENCES).map(|_| (0..length).map(|_| token()).collect()).collect()
}

/// A checkpoint's dense tensors, each read as it is asked for.
struct Read<'a> {
    checkpoint: &'a Checkpoint,
    done: &'a (dyn Fn(usize) + Sync),
}

impl Weights for Read<'_> {
    type Error = Error;

    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Error> {
        let (rows, cols) = (spec.shape[0], spec.shape[1]);
        let len = rows * cols * size(self.checkpoint.info(&spec.name).dtype);
        let io = |source| Error::Io { path: self.checkpoint.folder().into(), source };
        let mut arena = Arena::new(len).map_err(io)?;
        self.checkpoint.read(&spec.name, 0, &mut arena.bytes_mut()[..len])?;
        (self.done)(rows * cols);
        Ok(Matrix::new(Arc::new(arena), 0, self.checkpoint.own_format(&spec.name), rows, cols))
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        read_vector(self.checkpoint, &spec.name)
    }
}

impl Published for Read<'_> {
    fn rows(&self, spec: &TensorSpec, rows: &[u32]) -> Result<Vec<f32>, Error> {
        let rows: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
        read_rows(self.checkpoint, &spec.name, spec.shape[1], &rows)
    }
}
