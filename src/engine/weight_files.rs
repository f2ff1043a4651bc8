//! The weight files of a checkpoint's folder, by its index where they are several.
use crate::{Error, files};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};

/// The index of a checkpoint in several files, and the one file of another.
pub const INDEX: &str = "model.safetensors.index.json";
pub const SINGLE: &str = "model.safetensors";

/// Weight files at most: the largest checkpoints have some hundreds.
const MOST_FILES: usize = 10_000;

/// A weight file's name, and the tensors that an index says it holds.
type Shard = (String, Option<Vec<String>>);

/// The weight files of a folder.
pub(crate) fn shards(folder: &Path) -> Result<Vec<Shard>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    let Some(text) = files::text_if_there(&path, files::LONGEST)? else { return Ok(vec![(SINGLE.into(), None)]) };
    let index: Index =
        serde_json::from_str(&text).map_err(|e| Error::File { path: path.clone(), reason: format!("is no index of tensors ({e})") })?;
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        if file.contains(['/', '\\']) || file.contains(char::is_control) || file.starts_with('.') {
            return Err(Error::File { path, reason: format!("names a file outside the folder ({file:?})") });
        }
        by_file.entry(file).or_default().push(tensor);
    }
    if by_file.len() > MOST_FILES {
        return Err(Error::File { path, reason: format!("names {} files, more than the {MOST_FILES} that any checkpoint has", by_file.len()) });
    }
    Ok(by_file.into_iter().map(|(file, tensors)| (file, Some(tensors))).collect())
}
