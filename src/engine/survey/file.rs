//! Surveys that are kept for the next start: safetensors, all but the scales in the metadata.
use super::{About, Survey};
use crate::{Checkpoint, Error, files};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use xxhash_rust::xxh3::Xxh3;

/// Of what a survey looks at and says: another number, and old files are only good for the cache's `gc`.
pub const VERSION: u32 = 5;
/// How files of surveys end.
pub const SUFFIX: &str = "survey";
/// The only key of the metadata (several would be written in any order): a checksum of all the rest, a space, and [`About`] as JSON.
const ABOUT: &str = "about";

fn checksum(about: &str, scales: &[Arc<[f32]>]) -> String {
    let mut hash = Xxh3::new();
    hash.update(about.as_bytes());
    scales.iter().flat_map(|scale| scale.iter()).for_each(|s| hash.update(&s.to_le_bytes()));
    hash.digest().to_string()
}

/// Where a survey of a checkpoint lies in `folder`; `what` tells it from others of the same.
///
/// # Errors
/// If the checkpoint cannot be read.
pub fn path(folder: &Path, checkpoint: &Checkpoint, what: &str) -> Result<PathBuf, Error> {
    let key = Sha256::digest(format!("{what} {VERSION} {}", checkpoint.content()?));
    Ok(folder.join(format!("{}.{SUFFIX}", hex::encode(&key[..12]))))
}

impl Survey {
    /// Where the survey of a checkpoint lies in `folder`.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    pub fn path(folder: &Path, checkpoint: &Checkpoint) -> Result<PathBuf, Error> {
        path(folder, checkpoint, "survey")
    }

    /// A survey that was written there, if it is whole.
    pub fn read(path: &Path) -> Option<Survey> {
        let mut bytes = Vec::new();
        files::open(path).ok()?.read_to_end(&mut bytes).ok()?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        let (sum, text) = metadata.metadata().as_ref()?.get(ABOUT)?.split_once(' ')?;
        let about: About = serde_json::from_str(text).ok().filter(|about: &About| about.version == VERSION)?;
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let scale = |i: usize| {
            let view = tensors.tensor(&i.to_string()).ok().filter(|view| view.dtype() == Dtype::F32)?;
            Some(view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let scales = (0..about.groups.len()).map(scale).collect::<Option<Vec<_>>>()?;
        (sum == checksum(text, &scales)).then(|| Survey { about, scales, ..Survey::default() }.named())
    }

    /// Tells it from others, wherever the checkpoint lay.
    pub(crate) fn checksum(&self) -> String {
        let about = About { model: String::new(), ..self.about.clone() };
        checksum(&serde_json::to_string(&about).expect("texts and numbers are JSON"), &self.scales)
    }

    /// The folder of the checkpoint that a kept survey was made of.
    pub fn model(&self) -> &str {
        &self.about.model
    }

    /// Writes it: to a temporary name in the same folder, then renamed.
    ///
    /// # Errors
    /// Where the file cannot be written; nothing is left behind.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        files::keep(path, |to| {
            let bytes: Vec<Vec<u8>> = self.scales.iter().map(|scale| scale.iter().flat_map(|s| s.to_le_bytes()).collect()).collect();
            let views = self.scales.iter().zip(&bytes).enumerate().map(|(i, (scale, bytes))| {
                let view = TensorView::new(Dtype::F32, vec![scale.len()], bytes).map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>((i.to_string(), view))
            });
            let views = views.collect::<Result<Vec<_>, _>>()?;
            let about = serde_json::to_string(&self.about)?;
            let metadata = HashMap::from([(ABOUT.to_string(), format!("{} {about}", checksum(&about, &self.scales)))]);
            let file = safetensors::serialize(views, Some(metadata)).map_err(std::io::Error::other)?;
            to.write_all(&file)
        })
    }
}
