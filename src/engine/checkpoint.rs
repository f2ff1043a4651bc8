//! A model folder as its authors published it: configuration, and where every tensor lies; nothing is read ahead.
mod coded;
mod columns;
mod fp8;
mod head_rows;
mod header;
mod mxfp4;
mod pieces;
mod reads;
mod source;
mod widen;

pub use pieces::{COLUMNS, buffer_bytes, coded_rows, piece_rows};
pub use reads::{numbers, read_rows, read_vector, sampled_rows, stored, vector_from};
pub(crate) use {coded::read as read_coded, mxfp4::read as read_mxfp4, source::Source};

use crate::{
    Error, files,
    hub::{self, Snapshot},
    weight_files::{INDEX, SINGLE, shards},
};
use coded::Coded;
use columns::Columns;
use header::Stored;
use ram_kernels::Format;
use ram_models::{
    Description, Kind, TensorSpec,
    description::{ByHead, Stacked},
};
use rayon::prelude::*;
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

/// Where one tensor lies.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// BF16, F16, F32, or F8_E4M3 with scales beside it.
    pub dtype: Dtype,
    /// As the configuration asks.
    pub shape: Vec<usize>,
    pub(crate) file: usize,
    offset: u64,
    len: u64,
    /// Where rows of several tensors take turns: bytes of a row, which of them this one's are, of how many.
    turns: Option<[u64; 3]>,
    /// Where its rows lie in another tensor, head by head.
    by_head: Option<ByHead>,
    /// Where its rows are columns of what is stored.
    columns: Option<Columns>,
    /// Whether its numbers are stored less 1.
    pub(crate) less_one: bool,
}

/// An opened checkpoint; every tensor that its configuration asks for is there, and no other.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    /// As it is written.
    config: String,
    description: Description,
    specs: Vec<TensorSpec>,
    files: Vec<Source>,
    tensors: HashMap<String, TensorInfo>,
    /// Matrices that are quantized already.
    coded: HashMap<String, Coded>,
    fingerprint: String,
}

impl Checkpoint {
    /// Opens a folder; reads config.json and the files' headers.
    ///
    /// # Errors
    /// Whatever is missing, unknown or damaged, by name.
    pub fn open(folder: &Path) -> Result<Checkpoint, Error> {
        Checkpoint::over(folder, |name| {
            let missing = |reason: String| Error::File { path: folder.into(), reason };
            Source::open(&folder.join(name)).map_err(|e| match e {
                Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => missing(if name == SINGLE {
                    format!("has neither {SINGLE} nor {INDEX}")
                } else {
                    format!("has no {name}, which its index names: fetch it")
                }),
                other => other,
            })
        })
    }

    /// Opens a checkpoint whose weights stay at the hub and are read in parts; the other files are fetched.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and [`Error::Hub`] with what the hub says.
    pub fn open_remote(snapshot: &Snapshot, progress: hub::Progress) -> Result<Checkpoint, Error> {
        let (folder, _) = snapshot.texts(progress)?;
        Checkpoint::over(&folder, |name| Ok(Source::Remote(Box::new(snapshot.remote(name)?))))
    }

    fn over(folder: &Path, open: impl Fn(&str) -> Result<Source, Error> + Sync) -> Result<Checkpoint, Error> {
        let path = folder.join("config.json");
        let text = if folder.is_dir() { files::text_if_there(&path, files::LONGEST)? } else { None };
        let text = text.ok_or_else(|| Error::File { path: folder.into(), reason: no_checkpoint(folder).into() })?;
        let mut description = Description::from_json(&text).map_err(|source| Error::Config { path, source })?;
        let (mut files, mut stored) = (Vec::new(), Vec::<(usize, Stored)>::new());
        let shards = shards(folder)?;
        let each = shards.into_par_iter().map(|(name, listed)| {
            let source = open(&name)?;
            Ok((header::read(&source)?, source, listed))
        });
        for (held, source, listed) in each.collect::<Result<Vec<_>, Error>>()? {
            if let Some(listed) = listed {
                let names: BTreeSet<&str> = held.iter().map(|s| s.name.as_str()).collect();
                let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
                if let Some(off) = names.symmetric_difference(&listed).next() {
                    let reason = format!("and {INDEX} disagree about tensor {off}: fetch both again");
                    return Err(Error::File { path: source.path(), reason });
                }
            }
            stored.extend(held.into_iter().map(|s| (files.len(), s)));
            files.push(source);
        }
        description.adopt_names(stored.iter().map(|(_, s)| s.name.as_str()));
        let specs = description.tensors();
        let mut hash = Sha256::new();
        hash.update(&text);
        let mut tensors = HashMap::new();
        stored.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        for (file, s) in stored {
            hash.update(format!("{} {:?} {:?}\n", s.name, s.dtype, s.shape));
            if tensors.contains_key(&s.name) {
                return Err(Error::Tensor { name: s.name, reason: "is in two files of the checkpoint: remove one".into() });
            }
            let Stored { dtype, shape, offset, len, .. } = s;
            tensors.insert(s.name, TensorInfo { dtype, shape, file, offset, len, turns: None, by_head: None, columns: None, less_one: false });
        }
        let fingerprint = hex::encode(hash.finalize());
        let mut checkpoint =
            Checkpoint { folder: folder.into(), config: text, description, specs, files, tensors, coded: HashMap::new(), fingerprint };
        checkpoint.unstack();
        head_rows::part(&mut checkpoint)?;
        checkpoint.complete_norms();
        checkpoint.coded = coded::find(&checkpoint)?;
        checkpoint.validate()?;
        Ok(checkpoint)
    }

    /// Tensors of all experts of a layer, cut into one per expert.
    fn unstack(&mut self) {
        let mut cut = BTreeSet::new();
        for spec in &self.specs {
            let (Some(expert), Some(experts)) = (spec.expert, spec.layer.and_then(|l| self.description.mixture(l)).map(|m| m.num_experts)) else {
                continue;
            };
            let Some(module) = spec.name.strip_suffix(".weight") else { continue };
            for Stacked { name, part: [part, parts], turns, ends, turned, flat } in self.description.stacks(spec) {
                if let Some(end) = turned
                    && let Some(own) = self
                        .tensors
                        .get(&format!("{name}{end}"))
                        .and_then(|all| columns::cut(&by_expert(all, experts, flat), expert, experts, [part, parts], turns))
                {
                    self.tensors.insert(spec.name.clone(), own);
                    cut.insert(format!("{name}{end}"));
                }
                for (end, own) in ends {
                    let stacked = format!("{name}{end}");
                    // Experts, their rows, what a row has.
                    let fits = |t: &TensorInfo| t.shape.len() > 1 && t.shape[0] == experts && t.shape[1] > 0 && t.shape[1].is_multiple_of(parts);
                    let Some(all) = self.tensors.get(&stacked).map(|all| by_expert(all, experts, flat)).filter(fits) else { continue };
                    let (mut shape, len) = (all.shape[1..].to_vec(), all.len / (experts * parts) as u64);
                    shape[0] /= parts;
                    let first = if turns { expert * parts } else { expert * parts + part };
                    let row = len / shape[0] as u64;
                    let turns = (turns && parts > 1).then_some([row, part as u64, parts as u64]);
                    let info = TensorInfo { shape, offset: all.offset + first as u64 * len, len, turns, ..all };
                    self.tensors.insert(format!("{module}{own}"), info);
                    cut.insert(stacked);
                }
            }
        }
        self.tensors.retain(|name, _| !cut.contains(name));
    }

    /// Notes which norms' weights are stored less 1. MLX stores them whole, and the taps of convolutions in another order of dimensions, of
    /// which one is 1: what lies there is the same.
    fn complete_norms(&mut self) {
        let mut whole = false;
        for spec in self.specs.iter().filter(|spec| spec.kind == Kind::Recurrence) {
            let Some(info) = self.tensors.get_mut(&spec.name) else { continue };
            if let ([channels, 1, kernel], true) = (&spec.shape[..], info.shape != spec.shape)
                && info.shape == [*channels, *kernel, 1]
            {
                info.shape.clone_from(&spec.shape);
                whole = true;
            }
        }
        for spec in self.specs.iter().filter(|spec| spec.kind == Kind::Norm && self.description.norms_less_one) {
            if let Some(info) = self.tensors.get_mut(&spec.name) {
                info.less_one = !whole;
            }
        }
    }

    /// Every tensor there with its shape and a type that is known, and none besides.
    fn validate(&self) -> Result<(), Error> {
        let mut asked = BTreeSet::new();
        let parts: Vec<String> = self.coded.values().flat_map(|q| q.parts(self)).collect();
        asked.extend(parts.iter().map(String::as_str));
        let mut scales = Vec::new();
        for spec in self.specs.iter().filter(|s| !self.coded.contains_key(&s.name)) {
            let info = self.tensors.get(&spec.name).ok_or_else(|| Error::MissingTensor(spec.name.clone()))?;
            let wrong = |reason: String| Error::Tensor { name: self.origin(&spec.name).into(), reason };
            let stored = mxfp4::shape(self, &spec.name)?;
            if stored.as_ref().map_or(&info.shape[..], |shape| shape) != spec.shape {
                return Err(wrong(format!("has shape {:?}, and config.json asks for {:?}", info.shape, spec.shape)));
            }
            let blocks = if spec.kind.is_matrix() { fp8::block(self, &spec.name)? } else { None };
            if blocks.is_none() && stored.is_none() && !matches!(info.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
                return Err(wrong(format!("holds {:?}: only BF16, F16, F32 and, of matrices, F8_E4M3 with scales are read", info.dtype)));
            }
            if blocks.is_some() || stored.is_some() {
                scales.extend(self.scales_of(&spec.name));
            }
            asked.extend([spec.name.as_str(), self.origin(&spec.name)]);
        }
        asked.extend(scales.iter().map(String::as_str));
        let harmless = |name: &str| {
            let tied = self.description.tie_word_embeddings && ["lm_head.weight", "language_model.lm_head.weight"].contains(&name);
            tied || name.ends_with(".rotary_emb.inv_freq") || self.description.left_out.iter().any(|left| name.starts_with(&left.prefix))
        };
        let extra: BTreeMap<&String, ()> = self.tensors.keys().filter(|n| !asked.contains(n.as_str()) && !harmless(n)).map(|n| (n, ())).collect();
        extra.into_keys().find(|name| !self.is_no_bias(name)).map_or(Ok(()), |name| Err(Error::UnexpectedTensor(name.clone())))
    }

    /// Whether a tensor is one of the biases of zeros that AutoGPTQ gives modules which have none.
    fn is_no_bias(&self, name: &str) -> bool {
        let module = name.strip_suffix(".bias").filter(|m| self.tensors.contains_key(&format!("{m}.qweight")));
        let mut bytes = vec![1; module.map_or(0, |_| self.tensors[name].len as usize)];
        module.is_some() && self.read(name, 0, &mut bytes).is_ok() && bytes.iter().all(|b| *b == 0)
    }

    /// Tensors that are there and not read, as what they are and how many.
    pub fn left_out(&self) -> BTreeMap<&'static str, usize> {
        let left = &self.description.left_out;
        let mut all = BTreeMap::new();
        for what in self.tensors.keys().filter_map(|name| left.iter().find(|left| name.starts_with(&left.prefix))) {
            *all.entry(what.what).or_default() += 1;
        }
        all
    }

    /// Where it was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its config.json, as it is written.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// What it computes.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Its tensors, in the model's order.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Where a tensor lies, if there is one of that name.
    pub(crate) fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// How a matrix is quantized already.
    pub(crate) fn coded(&self, name: &str) -> Option<&Coded> {
        self.coded.get(name)
    }

    /// Whether any matrix is quantized already.
    pub fn is_quantized(&self) -> bool {
        !self.coded.is_empty()
    }

    /// The format that keeps a tensor as it is; numbers of 8 bits times their scale are rounded to it.
    pub fn own_format(&self, name: &str) -> Format {
        match self.coded(name) {
            Some(q) => q.format,
            None => match self.info(name).dtype {
                Dtype::F16 => Format::F16,
                Dtype::F32 => Format::F32,
                _ => Format::BF16,
            },
        }
    }

    /// The format of codes that a matrix is published in and that may be kept as they are, or coded again.
    pub fn published(&self, name: &str) -> Option<Format> {
        self.find(name).filter(|info| info.dtype == Dtype::U8).map(|_| Format::MXFP4)
    }

    /// Whether a matrix' rows are columns of what is stored.
    pub fn by_columns(&self, name: &str) -> bool {
        self.find(name).is_some_and(|info| info.columns.is_some())
    }

    /// The tensor that a tensor's numbers lie in.
    fn origin<'a>(&'a self, name: &'a str) -> &'a str {
        self.find(name).and_then(|info| info.by_head.as_ref()).map_or(name, |part| &part.name)
    }

    /// The tensor of scales beside a matrix of numbers of 8 or 4 bits.
    fn scales_of(&self, name: &str) -> Vec<String> {
        let name = self.origin(name);
        [fp8::scales_of(name), mxfp4::scales_of(name)].into_iter().filter(|scales| self.tensors.contains_key(scales)).collect()
    }

    /// What a tensor is published as, and its bytes.
    pub fn stored(&self, spec: &TensorSpec) -> (String, u64) {
        if let Some(q) = self.coded(&spec.name) {
            return (q.format.to_string(), q.format.bytes(spec.shape[0], spec.shape[1]) as u64);
        }
        let info = self.info(&spec.name);
        let scales = self.scales_of(&spec.name).iter().map(|name| self.info(name).len).sum::<u64>();
        let kind = match info.dtype {
            Dtype::F8_E4M3 => "FP8".to_string(),
            Dtype::U8 => "MXFP4".to_string(),
            other => format!("{other:?}"),
        };
        (kind, info.len + scales)
    }

    /// The file in which a tensor lies, all parts of it.
    ///
    /// # Errors
    /// Where they lie in several.
    pub(crate) fn file_of(&self, name: &str) -> Result<usize, Error> {
        let parts = self.coded(name).map_or_else(|| [vec![name.to_string()], self.scales_of(name)].concat(), |q| q.parts(self));
        let mut files: Vec<usize> = parts.iter().map(|part| self.tensors[part].file).collect();
        files.dedup();
        match files[..] {
            [file] => Ok(file),
            _ => Err(Error::Tensor { name: name.into(), reason: "lies in two files: its files must be kept while they are quantized".into() }),
        }
    }

    /// A tensor's file, and where in it the first of its bytes is.
    pub(crate) fn place(&self, name: &str) -> (usize, u64) {
        let first = self.coded(name).and_then(|q| q.parts(self).into_iter().next());
        let info = self.info(first.as_deref().unwrap_or(name));
        (info.file, info.offset)
    }

    /// Where a tensor lies.
    ///
    /// # Panics
    /// If the checkpoint has no such tensor; those of [`Checkpoint::specs`] are there but where they are quantized already.
    pub fn info(&self, name: &str) -> &TensorInfo {
        &self.tensors[name]
    }

    /// Bytes of a tensor from byte `at`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.read_from(None, name, at, buffer)
    }

    /// The same from another place of the file that the tensor lies in.
    pub(crate) fn read_from(&self, source: Option<&Source>, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let info = self.info(name);
        if at + buffer.len() as u64 > info.len {
            return Err(Error::Tensor { name: name.into(), reason: format!("has {} bytes, not {}", info.len, at + buffer.len() as u64) });
        }
        let source = source.unwrap_or(&self.files[info.file]);
        let Some([row, part, parts]) = info.turns.filter(|_| !buffer.is_empty()) else { return source.read_exact_at(buffer, info.offset + at) };
        // From the first row to the last one, with what lies between.
        let (first, end) = (at / row, (at + buffer.len() as u64).div_ceil(row));
        let mut all = vec![0; ((end - first) * row * parts) as usize];
        source.read_exact_at(&mut all, info.offset + first * row * parts)?;
        let rows = all.chunks_exact(row as usize).skip(part as usize).step_by(parts as usize);
        let own: Vec<u8> = rows.flatten().copied().collect();
        buffer.copy_from_slice(&own[(at - first * row) as usize..][..buffer.len()]);
        Ok(())
    }

    /// Rows of `row_bytes` bytes of a tensor, one after the other into `buffer`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read_rows(&self, name: &str, row_bytes: usize, rows: &[usize], buffer: &mut [u8]) -> Result<(), Error> {
        if let Source::File(..) = self.files[self.info(name).file] {
            let each = rows.iter().zip(buffer.chunks_exact_mut(row_bytes));
            return each.into_iter().try_for_each(|(&row, out)| self.read(name, (row * row_bytes) as u64, out));
        }
        source::read_rows(row_bytes, rows, buffer, &|at, out| self.read(name, at, out))
    }

    /// The weight files.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.files
    }

    /// Whether weights are at the hub: [`load_arriving`](crate::load_arriving) fetches them.
    pub fn is_remote(&self) -> bool {
        self.files.iter().any(|f| matches!(f, Source::Remote(_)))
    }

    /// Bytes that were read from the hub, and bytes that the weight files there have; nothing for a folder.
    pub fn fetched(&self) -> Option<(u64, u64)> {
        let remote = self.files.iter().filter_map(|f| if let Source::Remote(r) = f { Some((r.fetched(), r.size())) } else { None });
        remote.reduce(|a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// sha256 over the configuration and what tells each weight file from others (`Source::identity`): knows a checkpoint
    /// without reading it whole.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn content(&self) -> Result<String, Error> {
        self.identity(true)
    }

    /// The same whatever machine a copy lies on: all of the hub and of its cache, or all of folders, are alike.
    pub(crate) fn content_anywhere(&self) -> Result<String, Error> {
        self.identity(false)
    }

    fn identity(&self, time: bool) -> Result<String, Error> {
        let mut hash = Sha256::new();
        hash.update(&self.fingerprint);
        for source in &self.files {
            hash.update(source.identity(time)?);
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// sha256 over config.json and every tensor's name, type and shape.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// What to say of a path that is no folder with a config.json.
fn no_checkpoint(path: &Path) -> &'static str {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if is_gguf(path) || fs::read_dir(path).is_ok_and(|all| all.flatten().any(|e| is_gguf(&e.path()))) {
        return "GGUF is not read yet; give the folder with the original safetensors";
    }
    "is not a checkpoint folder, as it has no config.json: give one that has, or ORG/NAME at the hub"
}

/// A tensor of all experts in three dimensions, where files have the first two as one.
fn by_expert(all: &TensorInfo, experts: usize, flat: bool) -> TensorInfo {
    let mut own = all.clone();
    if let (true, [rows, cols]) = (flat && all.shape[0].is_multiple_of(experts), &all.shape[..]) {
        own.shape = vec![experts, rows / experts, *cols];
    }
    own
}
