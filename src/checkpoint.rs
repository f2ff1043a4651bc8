//! A model folder as its authors published it: configuration, and where every tensor lies; nothing is read ahead.
use crate::{
    Error,
    header::{self, Stored},
};
use ram_models::{Config, TensorSpec};
use safetensors::Dtype;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Where one tensor lies.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// BF16, F16 or F32.
    pub dtype: Dtype,
    /// As the configuration asks.
    pub shape: Vec<usize>,
    file: usize,
    offset: u64,
    len: u64,
}

/// An opened checkpoint; every tensor that its configuration asks for is there, and no other.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    specs: Vec<TensorSpec>,
    files: Vec<(PathBuf, File)>,
    tensors: HashMap<String, TensorInfo>,
    fingerprint: String,
}

impl Checkpoint {
    /// Opens a folder; reads config.json and the files' headers.
    ///
    /// # Errors
    /// Whatever is missing, unknown or damaged, by name.
    pub fn open(folder: &Path) -> Result<Checkpoint, Error> {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::File { path: folder.into(), reason: "has no config.json: --model takes the folder of a checkpoint".into() }
            }
            _ => Error::Io { path: path.clone(), source },
        })?;
        let config = Config::from_json(&text).map_err(|source| Error::Config { path, source })?;
        let specs = config.tensors();
        let mut files = Vec::new();
        let mut stored: Vec<(usize, Stored)> = Vec::new();
        for (name, listed) in shards(folder)? {
            let path = folder.join(&name);
            let file = File::open(&path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => {
                    Error::File { path: folder.into(), reason: format!("has no {name}, which its index names: fetch it") }
                }
                _ => Error::Io { path: path.clone(), source },
            })?;
            let held = header::read(&path, &file)?;
            if let Some(listed) = listed {
                let names: BTreeSet<&str> = held.iter().map(|s| s.name.as_str()).collect();
                let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
                if let Some(off) = names.symmetric_difference(&listed).next() {
                    let reason = format!("and model.safetensors.index.json disagree about tensor {off}: fetch both again");
                    return Err(Error::File { path, reason });
                }
            }
            stored.extend(held.into_iter().map(|s| (files.len(), s)));
            files.push((path, file));
        }
        let mut hash = Sha256::new();
        hash.update(&text);
        let mut tensors = HashMap::new();
        stored.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        for (file, s) in stored {
            hash.update(format!("{} {:?} {:?}\n", s.name, s.dtype, s.shape));
            if tensors.contains_key(&s.name) {
                return Err(Error::Tensor { name: s.name, reason: "is in two files of the checkpoint: remove one".into() });
            }
            tensors.insert(s.name, TensorInfo { dtype: s.dtype, shape: s.shape, file, offset: s.offset, len: s.len });
        }
        let fingerprint = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let checkpoint = Checkpoint { folder: folder.into(), config, specs, files, tensors, fingerprint };
        checkpoint.validate()?;
        Ok(checkpoint)
    }

    /// Every tensor there with its shape and a type that is known, and none besides.
    fn validate(&self) -> Result<(), Error> {
        let mut asked = BTreeSet::new();
        for spec in &self.specs {
            let info = self.tensors.get(&spec.name).ok_or_else(|| Error::MissingTensor(spec.name.clone()))?;
            let wrong = |reason: String| Error::Tensor { name: spec.name.clone(), reason };
            if info.shape != spec.shape {
                return Err(wrong(format!("has shape {:?}, and config.json asks for {:?}", info.shape, spec.shape)));
            }
            if !matches!(info.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
                return Err(wrong(format!("holds {:?}: only BF16, F16 and F32 are read", info.dtype)));
            }
            asked.insert(spec.name.as_str());
        }
        let harmless = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (self.config.tie_word_embeddings && name == "lm_head.weight");
        let extra: BTreeMap<&String, ()> = self.tensors.keys().filter(|n| !asked.contains(n.as_str()) && !harmless(n)).map(|n| (n, ())).collect();
        extra.into_keys().next().map_or(Ok(()), |name| Err(Error::UnexpectedTensor(name.clone())))
    }

    /// Where it was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its tensors, in the model's order.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Where a tensor lies.
    ///
    /// # Panics
    /// If the checkpoint has no such tensor; those of [`Checkpoint::specs`] are there.
    pub fn info(&self, name: &str) -> &TensorInfo {
        &self.tensors[name]
    }

    /// Bytes of a tensor from byte `at`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let info = self.info(name);
        let (path, file) = &self.files[info.file];
        if at + buffer.len() as u64 > info.len {
            return Err(Error::Tensor { name: name.into(), reason: format!("has {} bytes, not {}", info.len, at + buffer.len() as u64) });
        }
        file.read_exact_at(buffer, info.offset + at).map_err(|source| Error::Io { path: path.clone(), source })
    }

    /// sha256 over the configuration and each weight file's size, time of change and 64 blocks of its data: tells
    /// checkpoints apart without reading them whole.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn content(&self) -> Result<String, Error> {
        const BLOCK: u64 = 4096;
        let mut hash = Sha256::new();
        hash.update(&self.fingerprint);
        let mut block = [0; BLOCK as usize];
        for (path, file) in &self.files {
            let io = |source| Error::Io { path: path.clone(), source };
            let about = file.metadata().map_err(io)?;
            hash.update(format!("{} {} {}\n", about.len(), about.mtime(), about.mtime_nsec()));
            for i in 0..64 {
                let n = file.read_at(&mut block, about.len() / 64 * i).map_err(io)?;
                hash.update(&block[..n]);
            }
        }
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// sha256 over config.json and every tensor's name, type and shape.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// A weight file's name, and the tensors that an index says it holds.
type Shard = (String, Option<Vec<String>>);

/// The weight files of a folder.
fn shards(folder: &Path) -> Result<Vec<Shard>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join("model.safetensors.index.json");
    if !path.exists() {
        if folder.join("model.safetensors").exists() {
            return Ok(vec![("model.safetensors".into(), None)]);
        }
        return Err(Error::File { path: folder.into(), reason: "has neither model.safetensors nor model.safetensors.index.json".into() });
    }
    let text = fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let index: Index =
        serde_json::from_str(&text).map_err(|e| Error::File { path: path.clone(), reason: format!("is no index of tensors ({e})") })?;
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        if file.contains(['/', '\\']) || file.starts_with('.') {
            return Err(Error::File { path, reason: format!("names a file outside the folder ({file})") });
        }
        by_file.entry(file).or_default().push(tensor);
    }
    Ok(by_file.into_iter().map(|(file, tensors)| (file, Some(tensors))).collect())
}
