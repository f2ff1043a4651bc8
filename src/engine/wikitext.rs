//! WikiText-2's test split from the hub: one column of rows, from which the published raw file is made again.
use crate::{
    Error, files,
    hub::{Hub, Progress, Repository, Snapshot},
    panics,
};
use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::RowAccessor,
};
use sha2::{Digest, Sha256};
use std::path::Path;

/// sha256 of the published wiki.test.raw.
const RAW: &str = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08";
const FILE: &str = "wikitext-2-raw-v1/test-00000-of-00001.parquet";

/// How rows were made one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The published file, byte for byte.
    Raw,
    /// Rows with two newlines between them, as transformers' perplexity guide does, because they do not give the published file.
    Guide,
}

impl Joined {
    /// The name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Joined::Raw => "wiki.test.raw",
            Joined::Guide => "rows joined by two newlines",
        }
    }
}

/// The text, from the cache or from the hub.
///
/// # Errors
/// [`Error::Hub`] where it cannot be had, [`Error::File`] where it is not what it should be.
pub fn test_split(hub: &Hub, progress: Progress) -> Result<(String, Joined), Error> {
    let repository = Repository { id: "Salesforce/wikitext".into(), revision: "main".into(), dataset: true };
    let snapshot = Snapshot::find(hub, &repository, FILE)?;
    let path = snapshot.file(FILE, progress)?;
    snapshot.keep()?;
    Ok(join(&rows(&path)?))
}

/// The rows of a parquet file's `text` column.
///
/// # Errors
/// [`Error::File`] where it is no such file.
pub fn rows(path: &Path) -> Result<Vec<String>, Error> {
    // The reader panics at some damaged tables.
    let bad = |panic| Error::File { path: path.into(), reason: format!("is no table with a column of texts ({panic})") };
    panics::caught(|| read(path)).map_err(bad)?
}

fn read(path: &Path) -> Result<Vec<String>, Error> {
    let bad = |e: ParquetError| Error::File { path: path.into(), reason: format!("is no table with a column of texts ({e})") };
    let file = files::open(path)?;
    let reader = SerializedFileReader::new(file).map_err(bad)?;
    let names: Vec<&str> = reader.metadata().file_metadata().schema_descr().columns().iter().map(|c| c.name()).collect();
    if names != ["text"] {
        return Err(Error::File { path: path.into(), reason: format!("has columns {names:?}, not the one column text") });
    }
    let rows = reader.get_row_iter(None).map_err(bad)?;
    rows.map(|row| row.and_then(|row| row.get_string(0).cloned()).map_err(bad)).collect()
}

/// The rows as one text. A row is a line of the published file, but for lines of one space, which are empty rows.
pub fn join(rows: &[String]) -> (String, Joined) {
    let raw: String = rows.iter().map(|row| if row.is_empty() { " \n" } else { row }).collect();
    let hash = hex::encode(Sha256::digest(&raw));
    if hash == RAW { (raw, Joined::Raw) } else { (rows.join("\n\n"), Joined::Guide) }
}
