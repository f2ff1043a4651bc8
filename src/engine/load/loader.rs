//! The quantizing loader: weights are read once, in pieces, quantized by the thread that read them, straight into place.
use crate::{
    Error,
    checkpoint::{COLUMNS, Checkpoint, Source, coded_rows, numbers, piece_rows, read_coded, read_mxfp4, read_vector, vector_from},
    hub::{Fetched, Progress},
    planner::{Entry, Plan},
    survey::Survey,
};
use ram_kernels::{Arena, Effort, Feedback, Format, Matrix, isa::Level, quantize, quantize_with};
use ram_models::{Backend, Description, PackedLinear, TensorSpec, Transformer, Weights};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, mpsc},
};

/// A checkpoint's weights in memory, as its plan says.
pub struct Loaded {
    /// All packed matrices, placed by [`places`].
    pub(crate) arena: Arc<Arena>,
    /// Norms and biases, in the plan's order.
    pub(crate) vectors: Vec<Vec<f32>>,
    matrices: HashMap<String, Matrix>,
    by_name: HashMap<String, usize>,
}

/// Where each of the plan's matrices starts in the arena, in the plan's order, and the arena's size.
pub fn places(plan: &Plan) -> (Vec<usize>, usize) {
    let mut len = 0;
    let starts = plan.entries.iter().filter(|e| e.spec.kind.is_matrix()).map(|e| {
        let start = len;
        len += (e.bytes as usize).next_multiple_of(ram_kernels::ALIGN);
        start
    });
    (starts.collect(), len)
}

/// Reads and quantizes every tensor of the plan, for no inputs in particular.
///
/// # Errors
/// As for [`load`](super::load()).
pub fn quantized(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    let mut arena = room(checkpoint, plan)?;
    quantize_all(checkpoint, None, pieces(checkpoint, plan, &mut arena), &plan.survey, done)?;
    let vectors = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).map(|e| {
        let mut values = read_vector(checkpoint, &e.spec.name)?;
        plan.survey.apply(&e.spec.name, 0, &mut values, 1);
        Ok::<_, Error>(values)
    });
    let vectors = vectors.collect::<Result<_, _>>()?;
    Ok(Loaded::new(plan, arena, vectors))
}

/// The same for a checkpoint whose weights are at the hub: files are quantized while the next one comes. Where they are
/// not kept, each that came is deleted once it is quantized, so that two of them are on disk at the most.
///
/// # Errors
/// As for [`load`](super::load()), and [`Error::Hub`] with what the hub says.
pub fn load_arriving(checkpoint: &Checkpoint, plan: &Plan, keep: bool, progress: Progress, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    plan.belongs_to(checkpoint)?;
    let mut arena = room(checkpoint, plan)?;
    let mut by_file: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
    for piece in pieces(checkpoint, plan, &mut arena) {
        by_file.entry(checkpoint.file_of(piece.name)?).or_default().push(piece);
    }
    let vectors: Vec<&str> = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).map(|e| e.spec.name.as_str()).collect();
    let names = &vectors;
    let mut read: HashMap<&str, Vec<f32>> = std::thread::scope(|scope| {
        // Without room in it: one file is quantized, one is there or on its way.
        let (send, receive) = mpsc::sync_channel::<(usize, Source, Option<Fetched>)>(0);
        let worker = scope.spawn(move || {
            let mut read = HashMap::new();
            while let Ok((file, source, fetched)) = receive.recv() {
                quantize_all(checkpoint, Some(&source), by_file.remove(&file).unwrap_or_default(), &plan.survey, done)?;
                for name in names.iter().filter(|n| checkpoint.info(n).file == file) {
                    let mut values = vector_from(checkpoint, Some(&source), name)?;
                    plan.survey.apply(name, 0, &mut values, 1);
                    read.insert(*name, values);
                }
                if let (false, Some(fetched)) = (keep, fetched) {
                    fetched.forget();
                }
            }
            Ok::<_, Error>(read)
        });
        for (file, source) in checkpoint.sources().iter().enumerate() {
            let arrived = match source {
                Source::Remote(remote) => {
                    let fetched = remote.fetch(progress)?;
                    (file, Source::open(fetched.path())?, Some(fetched))
                }
                Source::File(path, _) => (file, Source::open(path)?, None),
            };
            // A worker that failed listens no more, and says why.
            if send.send(arrived).is_err() {
                break;
            }
        }
        drop(send);
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if keep && let Some(Source::Remote(remote)) = checkpoint.sources().first() {
        remote.keep()?;
    }
    let vectors = vectors.iter().map(|name| read.remove(name).ok_or_else(|| Error::MissingTensor((*name).into())));
    let vectors = vectors.collect::<Result<_, _>>()?;
    Ok(Loaded::new(plan, arena, vectors))
}

pub fn room(checkpoint: &Checkpoint, plan: &Plan) -> Result<Arena, Error> {
    Arena::new(places(plan).1).map_err(|source| Error::Io { path: checkpoint.folder().into(), source })
}

/// All matrices in pieces, each with its place in the arena.
fn pieces<'a>(checkpoint: &Checkpoint, plan: &'a Plan, arena: &'a mut Arena) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut rest = &mut arena.bytes_mut()[..places(plan).1];
    for e in plan.entries.iter().filter(|e| e.spec.kind.is_matrix()) {
        let (own, after) = rest.split_at_mut((e.bytes as usize).next_multiple_of(ram_kernels::ALIGN));
        rest = after;
        pieces.extend(pieces_of(checkpoint, e, plan.effort, own));
    }
    pieces
}

/// Rows of a matrix that are read and coded together.
pub fn step(checkpoint: &Checkpoint, spec: &TensorSpec) -> usize {
    match checkpoint.coded(&spec.name) {
        Some(_) => coded_rows(spec.shape[1]),
        None if checkpoint.by_columns(&spec.name) => COLUMNS,
        None => piece_rows(spec.shape[1]),
    }
}

/// One matrix in pieces, with its place.
pub fn pieces_of<'a>(checkpoint: &Checkpoint, e: &'a Entry, effort: Effort, mut own: &'a mut [u8]) -> Vec<Piece<'a>> {
    let (rows, cols) = (e.spec.shape[0], e.spec.shape[1]);
    let step = step(checkpoint, &e.spec);
    let pieces = (0..rows).step_by(step).map(|first| {
        let n = step.min(rows - first);
        // The order of the inputs, where there is one, is the last piece's.
        let last = if first + n == rows { e.format.order_bytes(cols) } else { 0 };
        let (out, after) = std::mem::take(&mut own).split_at_mut(e.format.row_bytes(n, cols) + last);
        own = after;
        Piece { name: &e.spec.name, format: e.format, effort, first, rows: n, cols, out }
    });
    pieces.collect()
}

/// Reads from `source`, or from where the checkpoint's files are, scales and quantizes.
fn quantize_all(
    checkpoint: &Checkpoint,
    source: Option<&Source>,
    pieces: Vec<Piece>,
    survey: &Survey,
    done: &(dyn Fn(usize) + Sync),
) -> Result<(), Error> {
    pieces.into_par_iter().try_for_each_init(Buffers::default, |buffers, mut piece| {
        let weights = piece.rows * piece.cols;
        piece.quantize(checkpoint, source, survey, None, buffers)?;
        done(weights);
        Ok::<(), Error>(())
    })
}

impl Loaded {
    /// Weights that lie in `arena` where [`places`] says, and norms and biases in the plan's order.
    pub(crate) fn new(plan: &Plan, arena: Arena, vectors: Vec<Vec<f32>>) -> Loaded {
        let arena = Arc::new(arena);
        let matrices = plan.entries.iter().filter(|e| e.spec.kind.is_matrix()).zip(places(plan).0);
        let matrices = matrices.map(|(e, at)| (e.spec.name.clone(), Matrix::new(arena.clone(), at, e.format, e.spec.shape[0], e.spec.shape[1])));
        let by_name = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).enumerate().map(|(i, e)| (e.spec.name.clone(), i));
        Loaded { matrices: matrices.collect(), by_name: by_name.collect(), arena, vectors }
    }

    /// A matrix' packed bytes.
    ///
    /// # Panics
    /// If there is no such matrix; those of the plan are there.
    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        self.matrices[name].bytes()
    }

    /// One matrix as a layer of candle, by its name in the checkpoint.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] where there is no such matrix.
    pub fn linear(&self, name: &str) -> Result<PackedLinear, Error> {
        self.matrices.get(name).cloned().map(PackedLinear::new).ok_or_else(|| Error::MissingTensor(name.into()))
    }

    /// The model made of these weights.
    ///
    /// # Errors
    /// Where the plan was made for another description.
    pub fn transformer(&self, description: Description, backend: &Backend) -> Result<Transformer, Error> {
        Transformer::new(description, self, backend)
    }
}

impl Weights for Loaded {
    type Error = Error;
    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Error> {
        self.matrices.get(&spec.name).cloned().ok_or_else(|| Error::MissingTensor(spec.name.clone()))
    }
    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        self.by_name.get(&spec.name).map(|&i| self.vectors[i].clone()).ok_or_else(|| Error::MissingTensor(spec.name.clone()))
    }
}

#[derive(Default)]
pub struct Buffers {
    bytes: Vec<u8>,
    floats: Vec<f32>,
}

/// Consecutive rows of one matrix, on their way into their place.
pub struct Piece<'a> {
    pub name: &'a str,
    pub format: Format,
    pub effort: Effort,
    /// The first row.
    pub first: usize,
    pub rows: usize,
    pub cols: usize,
    /// Where they go, packed.
    pub out: &'a mut [u8],
}

impl Piece<'_> {
    /// Reads from `source`, or from where the checkpoint's files are, scales and quantizes.
    pub fn quantize(
        &mut self,
        checkpoint: &Checkpoint,
        source: Option<&Source>,
        survey: &Survey,
        feedback: Option<&Feedback>,
        b: &mut Buffers,
    ) -> Result<(), Error> {
        if let Some(q) = checkpoint.coded(self.name) {
            return read_coded(checkpoint, source, q, [self.first, self.rows], self.cols, self.out);
        }
        if checkpoint.published(self.name) == Some(self.format) {
            return read_mxfp4(checkpoint, source, self.name, [self.first, self.rows], self.cols, self.out);
        }
        b.floats.resize(self.rows * self.cols, 0.0);
        numbers(checkpoint, source, self.name, [self.first, self.cols], &mut b.bytes, &mut b.floats)?;
        let scaled = survey.apply(self.name, self.first, &mut b.floats, self.cols);
        if self.format == checkpoint.own_format(self.name) && !scaled && b.bytes.len() == self.out.len() {
            self.out.copy_from_slice(&b.bytes);
        } else if let Some(feedback) = feedback {
            quantize_with(Level::active(), self.format, self.effort, feedback, &b.floats, self.cols, self.out);
        } else {
            quantize(self.format, self.effort, &b.floats, self.cols, self.out);
        }
        Ok(())
    }
}
