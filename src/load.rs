//! The quantizing loader: weights are read once, in pieces, quantized by the thread that read them, straight into place.
use crate::{
    Checkpoint, Error, Plan,
    hub::{Fetched, Progress},
    quantized::{self, Quantized},
    source::Source,
};
use half::{bf16, f16};
use ram_kernels::{Arena, Effort, Format, Matrix, dequantize_row, quantize};
use ram_models::{Backend, Description, TensorSpec, Transformer, Weights};
use rayon::prelude::*;
use safetensors::Dtype;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, mpsc},
};

/// Rows per piece: one tile for wide matrices, more for narrow ones so that a read is worth its call.
fn piece_rows(cols: usize) -> usize {
    (65536 / cols.max(1)).next_multiple_of(16).clamp(16, 256)
}

/// The same for matrices that are quantized already: those of GPTQ lie by columns, and of each a piece reads 4 bytes per row
/// at a time.
fn quantized_rows(cols: usize) -> usize {
    ((1 << 21) / cols.max(1)).next_multiple_of(16).clamp(16, 4096)
}

/// Bytes of buffers that one thread needs to load the widest matrix: what is read (at most 4 bytes a weight), its f32 form,
/// and the encoder's transposed tile and decisions; or packed codes, and codes of a byte, with their scales.
/// `own` is the format in which a matrix is published.
pub fn buffer_bytes(specs: &[TensorSpec], own: &dyn Fn(&TensorSpec) -> Format) -> u64 {
    let each = specs.iter().filter(|s| s.kind.is_matrix()).map(|s| {
        let (rows, cols) = (s.shape[0], s.shape[1]);
        if own(s).is_dense() { (piece_rows(cols) * 8 + 16 * 16) * cols } else { (quantized_rows(cols).min(rows) * 9 / 4 + 32) * cols }
    });
    each.max().unwrap_or(0) as u64
}

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

/// Reads and quantizes every tensor of the plan. `done` is told the number of weights that each piece had, from the
/// threads that do the work.
///
/// # Errors
/// Where the checkpoint cannot be read, a weight is not finite (the tensor is named), or the plan is another checkpoint's.
pub fn load(checkpoint: &Checkpoint, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    plan.belongs_to(checkpoint)?;
    let mut arena = room(checkpoint, plan)?;
    quantize_all(checkpoint, None, pieces(checkpoint, plan, &mut arena), done)?;
    let vectors = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).map(|e| read_vector(checkpoint, &e.spec.name));
    let vectors = vectors.collect::<Result<_, _>>()?;
    Ok(Loaded::new(plan, arena, vectors))
}

/// The same for a checkpoint whose weights are at the hub: files are quantized while the next one comes. Where they are
/// not kept, each that came is deleted once it is quantized, so that two of them are on disk at the most.
///
/// # Errors
/// As for [`load`], and [`Error::Hub`] with what the hub says.
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
                quantize_all(checkpoint, Some(&source), by_file.remove(&file).unwrap_or_default(), done)?;
                for name in names.iter().filter(|n| checkpoint.info(n).file == file) {
                    read.insert(*name, vector_from(checkpoint, Some(&source), name)?);
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

fn room(checkpoint: &Checkpoint, plan: &Plan) -> Result<Arena, Error> {
    Arena::new(places(plan).1).map_err(|source| Error::Io { path: checkpoint.folder().into(), source })
}

/// All matrices in pieces, each with its place in the arena.
fn pieces<'a>(checkpoint: &Checkpoint, plan: &'a Plan, arena: &'a mut Arena) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut rest = &mut arena.bytes_mut()[..places(plan).1];
    for e in plan.entries.iter().filter(|e| e.spec.kind.is_matrix()) {
        let (mut own, after) = rest.split_at_mut((e.bytes as usize).next_multiple_of(ram_kernels::ALIGN));
        rest = after;
        let (rows, cols) = (e.spec.shape[0], e.spec.shape[1]);
        let step = if checkpoint.quantized(&e.spec.name).is_some() { quantized_rows(cols) } else { piece_rows(cols) };
        for first in (0..rows).step_by(step) {
            let n = step.min(rows - first);
            // The order of the inputs, where there is one, is the last piece's.
            let last = if first + n == rows { e.format.order_bytes(cols) } else { 0 };
            let (out, after) = own.split_at_mut(e.format.row_bytes(n, cols) + last);
            own = after;
            pieces.push(Piece { name: &e.spec.name, format: e.format, effort: plan.effort, first, rows: n, cols, out });
        }
    }
    pieces
}

/// Reads from `source`, or from where the checkpoint's files are, and quantizes.
fn quantize_all(checkpoint: &Checkpoint, source: Option<&Source>, pieces: Vec<Piece>, done: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
    pieces.into_par_iter().try_for_each_init(Buffers::default, |buffers, piece| {
        let weights = piece.rows * piece.cols;
        piece.quantize(checkpoint, source, buffers)?;
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
struct Buffers {
    bytes: Vec<u8>,
    floats: Vec<f32>,
}

/// Consecutive rows of one matrix, on their way into their place.
struct Piece<'a> {
    name: &'a str,
    format: Format,
    effort: Effort,
    first: usize,
    rows: usize,
    cols: usize,
    out: &'a mut [u8],
}

impl Piece<'_> {
    fn quantize(self, checkpoint: &Checkpoint, source: Option<&Source>, b: &mut Buffers) -> Result<(), Error> {
        if let Some(q) = checkpoint.quantized(self.name) {
            return quantized::read(checkpoint, source, q, [self.first, self.rows], self.cols, self.out);
        }
        let dtype = checkpoint.info(self.name).dtype;
        let row_bytes = self.cols * size(dtype);
        b.bytes.resize(self.rows * row_bytes, 0);
        checkpoint.read_from(source, self.name, (self.first * row_bytes) as u64, &mut b.bytes)?;
        b.floats.resize(self.rows * self.cols, 0.0);
        widen(self.name, dtype, &b.bytes, &mut b.floats)?;
        if self.format == checkpoint.own_format(self.name) {
            self.out.copy_from_slice(&b.bytes);
        } else {
            quantize(self.format, self.effort, &b.floats, self.cols, self.out);
        }
        Ok(())
    }
}

/// Rows of a matrix to look at: about `count`, in runs of `run` that are evenly spaced, so that a file far away is asked for
/// few parts.
pub fn sampled_rows(rows: usize, count: usize, run: usize) -> Vec<usize> {
    if rows <= count {
        return (0..rows).collect();
    }
    let runs = (count / run).max(2);
    (0..runs).flat_map(|i| (0..run).map(move |j| i * (rows - run) / (runs - 1) + j)).collect()
}

/// The given rows of a matrix, as (rows, cols) f32.
///
/// # Errors
/// Where they cannot be read or hold a number that is not finite.
pub fn read_rows(checkpoint: &Checkpoint, name: &str, cols: usize, rows: &[usize]) -> Result<Vec<f32>, Error> {
    if let Some(q) = checkpoint.quantized(name) {
        return quantized_sample(checkpoint, q, cols, rows);
    }
    let dtype = checkpoint.info(name).dtype;
    let row_bytes = cols * size(dtype);
    let mut bytes = vec![0; rows.len() * row_bytes];
    checkpoint.read_rows(name, row_bytes, rows, &mut bytes)?;
    let mut out = vec![0.0; rows.len() * cols];
    widen(name, dtype, &bytes, &mut out)?;
    Ok(out)
}

/// Rows of a matrix that is quantized already, tile by tile.
fn quantized_sample(checkpoint: &Checkpoint, q: &Quantized, cols: usize, rows: &[usize]) -> Result<Vec<f32>, Error> {
    let (mut out, mut tile) = (vec![0.0; rows.len() * cols], Vec::new());
    let mut read = None;
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(cols)) {
        let first = row / 16 * 16;
        let n = 16.min(q.rows - first);
        if read != Some(first) {
            tile.resize(q.format.bytes(n, cols), 0);
            quantized::read(checkpoint, None, q, [first, n], cols, &mut tile)?;
            read = Some(first);
        }
        dequantize_row(q.format, n, cols, &tile, row - first, out);
    }
    Ok(out)
}

/// A norm's or a bias' weights.
///
/// # Errors
/// Where they cannot be read or hold a number that is not finite.
pub fn read_vector(checkpoint: &Checkpoint, name: &str) -> Result<Vec<f32>, Error> {
    vector_from(checkpoint, None, name)
}

fn vector_from(checkpoint: &Checkpoint, source: Option<&Source>, name: &str) -> Result<Vec<f32>, Error> {
    let info = checkpoint.info(name);
    let len: usize = info.shape.iter().product();
    let mut bytes = vec![0; len * size(info.dtype)];
    checkpoint.read_from(source, name, 0, &mut bytes)?;
    let mut out = vec![0.0; len];
    widen(name, info.dtype, &bytes, &mut out)?;
    Ok(out)
}

fn size(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// Stored numbers as f32; every one must be finite.
fn widen(name: &str, dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match dtype {
        Dtype::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = f32::from_le_bytes(*b)),
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = f16::from_le_bytes(*b).to_f32()),
        _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = bf16::from_le_bytes(*b).to_f32()),
    }
    // A sum that is not finite marks a bad number without a branch per weight; finite weights cannot overflow it in f64.
    if out.iter().map(|&v| f64::from(v)).sum::<f64>().is_finite() {
        return Ok(());
    }
    let bad = out.iter().find(|v| !v.is_finite()).copied().unwrap_or(f32::NAN);
    Err(Error::Tensor { name: name.to_string(), reason: format!("holds {bad}, so the checkpoint is damaged: fetch it again") })
}
