//! A survey of a checkpoint: one pass of random tokens over its dense weights, for what the weights alone do not tell. How large the inputs
//! of every matrix are, so that channels can be scaled before they are coded; and what an error in every matrix costs.
//!
//! Rotation spreads a coded matrix' error evenly over the channels of a block. A channel with large inputs and small weights suffers
//! from that; times s, with its inputs made 1 / s as large where they come from, it suffers less. With mean squares a of the inputs and
//! c of a channel's weights, the error of a block is (sum of c s^2) (sum of a / s^2), which is least for s^4 = a / c (Cauchy and
//! Schwarz). Norm weights and the rows of up projections are made smaller, the columns of what reads them larger; nothing else changes.
//!
//! The weights alone tell a badly: on SmolLM2 a norm's squared weights correlate with it by 0.3 and 0.4, the product of gate's and
//! up's rows not at all. Random tokens tell it nearly as well as text does (3 bits, KL: 0.80 as it is, 0.37 by 2,048 random tokens,
//! 0.36 by 512, 0.33 by text of the tested kind). The first token of a text must be among them: what it looks like is no other's.
mod file;

pub(crate) use file::{SUFFIX, path};

use crate::{
    Error,
    checkpoint::{Checkpoint, numbers, read_rows, read_vector, stored},
};
use ram_kernels::{Arena, Effort, Matrix, quantize, split_mix};
use ram_models::{Channels, Cost, Description, Kind, Observer, Published, TensorSpec, Weights, survey};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

/// Sequences of random tokens, and their length.
const SEQUENCES: usize = 4;
const LENGTH: usize = 128;
/// Tokens that see noise in the weights of MLPs.
const NOISY: usize = LENGTH;
/// Tokens that what is said of all channels, or of all experts, counts as, beside those that an expert was looked at with.
const PRIOR: f64 = 8.0;
/// The largest s, and one over the smallest.
const MOST: f64 = 64.0;
/// Nats of KL divergence on text, per unit of the logits' half variance that the stream of random tokens behind a layer would have by the
/// head: what the layers behind leave of it. Of a model of 30 layers it is 0.30, within a factor of 1.8 for two of three matrices; of three
/// with 4 and 6 layers about 1.
const SPREAD: f64 = 0.3;
const LAYERS: f64 = 30.0;
/// The same of the last layer, behind which nothing evens out, on all four.
const LAST: f64 = 1.2;
/// Of the embedding: 0.16 of 30 layers, 0.19 to 0.25 of 4 and 6.
const EMBEDDING: f64 = 0.22;

/// What a checkpoint's weights make of random tokens. The same for any number of threads and on every instruction set.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    about: About,
    /// Of every group, s by channel.
    scales: Vec<Arc<[f32]>>,
    /// A reader's or a maker's group.
    columns: HashMap<String, usize>,
    rows: HashMap<String, usize>,
}

/// All of a survey but its scales.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct About {
    version: u32,
    /// Whose it is, [`Checkpoint::fingerprint`], and where that lay.
    checkpoint: String,
    model: String,
    /// Matrices that share a scale, and what makes their inputs.
    groups: Vec<Group>,
    /// By matrix: nats of KL divergence per unit of squared relative error.
    costs: BTreeMap<String, f64>,
    /// What the model wrote, and by matrix what error feedback for it leaves of that.
    text: Vec<Vec<u32>>,
    left: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    makers: Vec<String>,
    readers: Vec<String>,
}

/// Takes down what is seen.
struct Noting<'a> {
    checkpoint: &'a Checkpoint,
    found: &'a mut Survey,
    costs: &'a mut Vec<Cost>,
}

impl Observer for Noting<'_> {
    fn channels(&mut self, seen: Channels) -> Arc<[f32]> {
        if seen.readers.iter().any(|reader| self.checkpoint.published(&reader.name).is_some()) {
            // Codes that may be kept as they are cannot be scaled.
            return vec![1.0; seen.squares.len()].into();
        }
        let scale: Arc<[f32]> = scale(&seen).into();
        let [makers, readers] = [seen.makers, seen.readers].map(|all| all.into_iter().map(|spec| spec.name).collect());
        self.found.about.groups.push(Group { makers, readers });
        self.found.scales.push(scale.clone());
        scale
    }

    fn cost(&mut self, seen: Cost) {
        self.costs.push(seen);
    }
}

impl Survey {
    /// Looks at the weights of a checkpoint that is here and dense. `done` is told the number of weights that were looked at.
    ///
    /// # Errors
    /// Where the checkpoint cannot be read, a weight or a number that comes up is not finite, or [`Error::Mismatch`] where there is nothing
    /// to look at: weights are at the hub, or quantized.
    pub fn measure(checkpoint: &Checkpoint, done: &(dyn Fn(usize) + Sync)) -> Result<Survey, Error> {
        if !Survey::possible(checkpoint) {
            let folder = checkpoint.folder().display();
            return Err(Error::Mismatch(format!("the weights of {folder} are at the hub or quantized: a survey needs dense ones that are here")));
        }
        let description = checkpoint.description();
        let sequences = random_tokens(description.vocab_size, SEQUENCES, LENGTH.min(description.max_position_embeddings));
        Survey::of(checkpoint, &sequences, NOISY, of_random, done)
    }

    /// The same by a text's tokens, of which `noisy` see noise in MLPs.
    pub(crate) fn of_text(checkpoint: &Checkpoint, text: &[Vec<u32>], noisy: usize, done: &(dyn Fn(usize) + Sync)) -> Result<Survey, Error> {
        Survey::of(checkpoint, text, noisy, of_text, done)
    }

    fn of(
        checkpoint: &Checkpoint,
        sequences: &[Vec<u32>],
        noisy: usize,
        by_kind: fn(Kind) -> f64,
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Survey, Error> {
        let description = checkpoint.description();
        let (mut found, mut costs) = (Survey::default(), Vec::new());
        found.about.checkpoint = checkpoint.fingerprint();
        (found.about.version, found.about.model) = (file::VERSION, checkpoint.folder().display().to_string());
        survey(
            description,
            &Read { checkpoint, done, arenas: Mutex::default() },
            sequences,
            noisy,
            &mut Noting { checkpoint, found: &mut found, costs: &mut costs },
        )?;
        found.about.costs = nats(costs, description, checkpoint.specs(), by_kind);
        Ok(found.named())
    }

    /// Whether there are weights to look at.
    pub fn possible(checkpoint: &Checkpoint) -> bool {
        !checkpoint.is_remote() && !checkpoint.is_quantized()
    }

    /// The same with the groups by name.
    fn named(mut self) -> Survey {
        for (i, group) in self.about.groups.iter().enumerate() {
            self.rows.extend(group.makers.iter().map(|maker| (maker.clone(), i)));
            self.columns.extend(group.readers.iter().map(|reader| (reader.clone(), i)));
        }
        self
    }

    /// The fingerprint of the checkpoint that it was made of.
    pub(crate) fn checkpoint(&self) -> &str {
        &self.about.checkpoint
    }

    /// Nats of KL divergence per unit of a matrix' squared relative error, scaled as it is when it is coded; of a matrix that no token was
    /// multiplied with, or of a router, nothing is known.
    pub fn cost(&self, name: &str) -> Option<f64> {
        self.about.costs.get(name).copied()
    }

    /// What a matrix' columns are multiplied with before it is coded, and what makes its inputs is divided by.
    pub fn columns(&self, name: &str) -> Option<&[f32]> {
        self.columns.get(name).map(|&i| &*self.scales[i])
    }

    /// The same without the scales that no matrix of `coded` would gain from: what is kept as it was published stays exactly that.
    pub(crate) fn only(&self, coded: &dyn Fn(&str) -> bool) -> Survey {
        let About { costs, text, .. } = self.about.clone();
        let mut some = Survey { about: About { costs, text, ..About::default() }, ..Survey::default() };
        let mut kept = self.about.groups.iter().zip(&self.scales);
        for (group, scale) in kept.by_ref().filter(|(group, _)| group.readers.iter().any(|reader| coded(reader))) {
            some.about.groups.push(group.clone());
            some.scales.push(scale.clone());
        }
        some.named()
    }

    /// The same scales, and text of the model's own, with what errors cost on it, as `seen`, and the part of that which feedback leaves.
    pub(crate) fn refined(&self, seen: &Survey, left: BTreeMap<String, f64>, text: Vec<Vec<u32>>) -> Survey {
        let mut refined = self.clone();
        refined.about = About { groups: self.about.groups.clone(), text, left, ..seen.about.clone() };
        refined
    }

    /// The part of what errors in a matrix cost that feedback for the text leaves.
    pub(crate) fn left(&self, name: &str) -> f64 {
        self.about.left.get(name).copied().unwrap_or(1.0)
    }

    /// What an error in an embedding that is the head too costs where rows are looked up, in parts of what it costs in the head; `u` is
    /// what it costs altogether.
    pub(crate) fn looked_up(&self, name: &str, u: f64) -> f64 {
        self.cost(name).filter(|cost| *cost < u).map_or(0.0, |cost| cost / (u - cost))
    }

    /// Sequences of tokens that matrices are coded with error feedback for; none where they are coded without.
    pub fn text(&self) -> Option<&[Vec<u32>]> {
        Some(self.about.text.as_slice()).filter(|text| !text.is_empty())
    }

    /// Scales rows of a matrix (rows, cols), or the weights of a norm, from number `first` on; says whether the tensor has a scale.
    pub(crate) fn apply(&self, name: &str, first: usize, values: &mut [f32], cols: usize) -> bool {
        let [columns, rows] = [&self.columns, &self.rows].map(|by_name| by_name.get(name).map(|&i| &self.scales[i]));
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
fn scale(seen: &Channels) -> Vec<f32> {
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

/// Costs by matrix. What an expert of few tokens costs is drawn to what the others of its layer and kind do,
/// as is how often it is chosen: random tokens choose others than text does.
fn nats(costs: Vec<Cost>, description: &Description, specs: &[TensorSpec], by_kind: fn(Kind) -> f64) -> BTreeMap<String, f64> {
    let layers = description.layers.len();
    let mut all: BTreeMap<_, Together> = BTreeMap::new();
    for c in costs.iter().filter(|c| c.matrix.expert.is_some()) {
        let all = all.entry((c.matrix.layer, c.matrix.kind)).or_default();
        (all.tokens, all.of) = (all.tokens + c.tokens as f64, c.of);
        if let Some(spread) = c.spread {
            (all.spread, all.seen) = (all.spread + spread, all.seen + c.tokens as f64);
        }
    }
    let ratio = LAYERS / layers as f64;
    // To the power of 3 / 4, by square roots: they are the same on every machine.
    let behind = (SPREAD * ratio.sqrt() * ratio.sqrt().sqrt()).min(LAST);
    let mut found: BTreeMap<String, f64> = BTreeMap::new();
    let mut note = |matrix: &TensorSpec, spread: f64| {
        let left = match matrix.kind {
            Kind::Embedding => EMBEDDING,
            _ if matrix.layer.is_some_and(|layer| layer + 1 == layers) => LAST,
            _ => behind,
        };
        found.insert(matrix.name.clone(), spread * left * by_kind(matrix.kind));
    };
    let own: BTreeMap<&str, &Cost> = costs.iter().map(|c| (c.matrix.name.as_str(), c)).collect();
    costs.iter().filter(|c| c.matrix.expert.is_none()).for_each(|c| note(&c.matrix, c.spread.unwrap_or(0.0) / c.of as f64));
    for spec in specs.iter().filter(|spec| spec.expert.is_some()) {
        let Some(all) = all.get(&(spec.layer, spec.kind)).filter(|all| all.seen > 0.0) else { continue };
        let experts = spec.layer.and_then(|layer| description.mixture(layer)).map_or(1, |m| m.num_experts);
        let (tokens, usual) = (own.get(spec.name.as_str()).map_or(0.0, |c| c.tokens as f64), all.tokens / experts as f64);
        let each = match own.get(spec.name.as_str()).and_then(|c| c.spread) {
            Some(spread) => (spread + PRIOR * all.spread / all.seen) / (tokens + PRIOR),
            None => all.spread / all.seen,
        };
        note(spec, each * (tokens + usual) / 2.0 / all.of as f64);
    }
    found
}

/// What is known of the experts of a layer, in one of their matrices.
#[derive(Default)]
struct Together {
    spread: f64,
    /// Tokens that saw it.
    seen: f64,
    /// All that took an expert.
    tokens: f64,
    /// Of how many those are a part.
    of: usize,
}

/// What an error costs on text, where it costs 1 on random tokens: found on a model of 30 layers by coding all matrices of a kind in two and
/// in four bits instead of three. That makes its plans 5 to 9 % better, and those of three models of 4 and 6 layers neither better nor
/// worse.
fn of_random(kind: Kind) -> f64 {
    match kind {
        Kind::Query | Kind::Key => 0.9,
        Kind::Value | Kind::Output => 0.75,
        Kind::Down | Kind::SharedDown => 1.3,
        _ => 1.0,
    }
}

/// The same of a few sequences of the model's own text, where queries have less to find: nothing else makes plans better.
fn of_text(kind: Kind) -> f64 {
    if matches!(kind, Kind::Query | Kind::Key) { 1.5 } else { 1.0 }
}

/// Tokens from all of the vocabulary, the same every time. Frequent ones more often, by their
/// numbers, makes costs a little better (their logarithm's standard deviation from costs on text 0.54 instead of 0.60) and scales worse:
/// KL of the real model 0.81 instead of 0.71 at 3 bits.
pub(crate) fn random_tokens(vocab_size: usize, sequences: usize, length: usize) -> Vec<Vec<u32>> {
    let mut state = 0u64;
    let mut token = || ((u128::from(split_mix(&mut state)) * vocab_size as u128) >> 64) as u32;
    (0..sequences).map(|_| (0..length).map(|_| token()).collect()).collect()
}

/// A checkpoint's dense tensors, each read as it is asked for.
struct Read<'a> {
    checkpoint: &'a Checkpoint,
    done: &'a (dyn Fn(usize) + Sync),
    /// Memory of matrices that were read. Where none is left of one it is used again: what the system gives, it has to clear, which takes as
    /// long as reading.
    arenas: Mutex<Vec<Arc<Arena>>>,
}

impl Read<'_> {
    /// Room for `len` bytes, of which nothing is known.
    fn arena(&self, len: usize) -> Result<Arc<Arena>, Error> {
        let mut all = self.arenas.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |arena: &Arc<Arena>| Arc::strong_count(arena) == 1;
        let fitting = all.iter().enumerate().filter(|(_, arena)| free(arena) && arena.bytes().len() >= len);
        if let Some((i, _)) = fitting.min_by_key(|(_, arena)| arena.bytes().len()) {
            return Ok(all.swap_remove(i));
        }
        all.retain(|arena| !free(arena));
        let arena = Arena::new(len).map_err(|source| Error::Io { path: self.checkpoint.folder().into(), source })?;
        Ok(Arc::new(arena))
    }
}

/// Bytes that one thread reads and looks at together.
const PIECE: usize = 1 << 20;

impl Weights for Read<'_> {
    type Error = Error;

    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Error> {
        let (rows, cols, name) = (spec.shape[0], spec.shape[1], &spec.name);
        let format = self.checkpoint.own_format(name);
        let row = cols * format.bits() / 8;
        let len = rows * row;
        let mut arena = self.arena(len)?;
        let to = Arc::get_mut(&mut arena).map_or(&mut [][..], |arena| &mut arena.bytes_mut()[..len]);
        // Of whole rows.
        let piece = (PIECE / row).max(1);
        let buffers = || (Vec::new(), Vec::new());
        to.par_chunks_mut(piece * row).enumerate().try_for_each_init(buffers, |(bytes, floats), (i, out)| {
            if stored(self.checkpoint, name, [i * piece, cols], out)? {
                return Ok(());
            }
            floats.resize(out.len() / row * cols, 0.0);
            numbers(self.checkpoint, None, name, [i * piece, cols], bytes, floats)?;
            quantize(format, Effort::Fast, floats, cols, out);
            Ok::<(), Error>(())
        })?;
        (self.done)(rows * cols);
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner).push(arena.clone());
        Ok(Matrix::new(arena, 0, format, rows, cols))
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
