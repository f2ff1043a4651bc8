//! Packed weights on disk, so that the next start quantizes nothing: one file per checkpoint, plan and format version.
//!
//! A file is a line of JSON, zeros up to a page, the arena as it lies in memory, then norms and biases as f32. It is
//! written under another name and renamed when it is whole, so that a reader never sees half of one; blocks carry
//! checksums, so that a damaged one is found while it is read. A file that is being written is locked: one that is not was
//! left by a process that is gone.
use super::loader::{Loaded, places};
use crate::{
    Checkpoint, Error,
    files::{self, UNFINISHED},
    planner::Plan,
    survey::{self, Survey},
};
use ram_kernels::Arena;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::SystemTime,
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Of the packed layout and of this file's: another number, another name, and old files are only good for [`gc`].
pub const VERSION: u32 = 4;

/// Bytes that share a checksum; read and checked by one thread.
const BLOCK: usize = 8 << 20;
const PAGE: u64 = 4096;
const SUFFIX: &str = "packed";

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    model: String,
    plan: String,
    bits_per_weight: f64,
    arena: u64,
    /// Lengths of norms and biases.
    vectors: Vec<usize>,
    /// Of the blocks of the arena, then of all vectors.
    checksums: Vec<u64>,
}

/// One file of the cache.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Where it lies.
    pub path: PathBuf,
    /// The folder of the checkpoint that it was made from; empty where the file cannot be read as one of this version.
    pub model: String,
    /// What it is.
    pub kept: Kept,
    /// Size of the file.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// What a file of the cache holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Kept {
    /// Packed weights, of a plan with this fingerprint.
    Packed {
        /// The plan's fingerprint.
        plan: String,
        /// The plan's bits per weight.
        bits_per_weight: f64,
    },
    /// A [`Survey`].
    Survey,
    /// Nothing that this version reads.
    Unknown,
}

/// What was found where packed weights may lie.
pub enum Found {
    /// The weights.
    Whole(Loaded),
    /// No file.
    Nothing,
    /// A file that is not what was written, and why.
    Damaged(String),
}

/// The default folder: `RAM_RUN_CACHE`, else `ram-run` in `XDG_CACHE_HOME` or `~/.cache`.
pub fn folder() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("RAM_RUN_CACHE").or_else(|| Some(from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")))?.join("ram-run")))
}

/// Where the packed weights of a plan lie in `folder`.
///
/// # Errors
/// If the checkpoint cannot be read.
pub fn path(folder: &Path, checkpoint: &Checkpoint, plan: &Plan) -> Result<PathBuf, Error> {
    let key = Sha256::digest(format!("{VERSION} {} {}", checkpoint.content()?, plan.fingerprint));
    Ok(folder.join(format!("{}.{SUFFIX}", hex::encode(&key[..12]))))
}

/// Where what is coded with error feedback lies while that is not all of it, given where packed weights will: for
/// [`load_resuming`](crate::load_resuming).
pub fn journal(path: &Path) -> PathBuf {
    path.with_extension(format!("refining{UNFINISHED}"))
}

/// Reads packed weights, in parallel, each block checked; `done` is told the bytes of each.
///
/// # Errors
/// If there is not enough memory.
pub fn read(path: &Path, plan: &Plan, done: &(dyn Fn(usize) + Sync)) -> Result<Found, Error> {
    let file = match open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Ok(Found::Damaged(e.to_string())),
    };
    let damaged = |why: &str| Ok(Found::Damaged(why.to_string()));
    let Some((header, start)) = header(&file) else { return damaged("it has no header of this version") };
    let len = places(plan).1;
    let vectors: Vec<usize> = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).map(|e| e.spec.shape.iter().product()).collect();
    if header.plan != plan.fingerprint || header.arena != len as u64 || header.vectors != vectors {
        return damaged("it holds another plan");
    }
    let mut rest = vec![0; 4 * vectors.iter().sum::<usize>()];
    let size = start + (len + rest.len()) as u64;
    if file.metadata().map_or(0, |m| m.len()) != size {
        return damaged("it is not as long as it says");
    }
    let mut arena = Arena::new(len).map_err(|source| Error::Io { path: path.into(), source })?;
    let blocks = arena.bytes_mut()[..len].par_chunks_mut(BLOCK).enumerate();
    let whole = |bytes: &mut [u8], at: u64, sum: Option<&u64>| file.read_exact_at(bytes, at).is_ok() && sum == Some(&xxh3_64(bytes));
    let good = blocks.all(|(i, block)| {
        done(block.len());
        whole(block, start + (i * BLOCK) as u64, header.checksums.get(i))
    });
    if !good || !whole(&mut rest, start + len as u64, header.checksums.get(len.div_ceil(BLOCK))) {
        return damaged("a checksum is wrong");
    }
    // So that the least recently used entries are known.
    let _ = file.set_modified(SystemTime::now());
    let mut floats = rest.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
    let vectors = vectors.iter().map(|&n| floats.by_ref().take(n).collect()).collect();
    Ok(Found::Whole(Loaded::new(plan, arena, vectors)))
}

/// Writes packed weights: to a temporary name in the same folder, then renamed.
///
/// # Errors
/// Where the file cannot be written; nothing is left behind.
pub fn write(path: &Path, checkpoint: &Checkpoint, plan: &Plan, weights: &Loaded, done: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
    files::keep(path, |file| {
        let arena = &weights.arena.bytes()[..places(plan).1];
        let vectors: Vec<u8> = weights.vectors.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        let mut checksums: Vec<u64> = arena.par_chunks(BLOCK).map(xxh3_64).collect();
        checksums.push(xxh3_64(&vectors));
        let header = Header {
            version: VERSION,
            model: checkpoint.folder().display().to_string(),
            plan: plan.fingerprint.clone(),
            bits_per_weight: plan.bits_per_weight,
            arena: arena.len() as u64,
            vectors: weights.vectors.iter().map(Vec::len).collect(),
            checksums,
        };
        let mut line = serde_json::to_vec(&header)?;
        line.push(b'\n');
        file.write_all(&line)?;
        let file = &*file;
        let start = (line.len() as u64).next_multiple_of(PAGE);
        arena.par_chunks(BLOCK).enumerate().try_for_each(|(i, block)| {
            done(block.len());
            file.write_all_at(block, start + (i * BLOCK) as u64)
        })?;
        file.write_all_at(&vectors, start + arena.len() as u64)
    })
}

/// The files of a cache, most recently used first.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let ours = |p: &PathBuf| p.extension().is_some_and(|e| e == SUFFIX || e == survey::SUFFIX);
    for path in inside(folder)?.into_iter().filter(ours) {
        let Some(about) = path.metadata().ok().filter(|m| m.is_file()) else { continue };
        let said = if is_survey(&path) {
            Survey::read(&path).map(|s| (plain(s.model()), Kept::Survey))
        } else {
            let header = open(&path).ok().and_then(|f| header(&f)).map(|(h, _)| h);
            header.map(|h| (plain(&h.model), Kept::Packed { plan: plain(&h.plan), bits_per_weight: h.bits_per_weight }))
        };
        let (model, kept) = said.unwrap_or((String::new(), Kept::Unknown));
        let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        entries.push(Entry { path, model, kept, bytes: about.len(), used });
    }
    entries.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
    Ok(entries)
}

/// Whether a file is what was written, by its checksums.
pub fn verify(path: &Path) -> bool {
    if is_survey(path) {
        return Survey::read(path).is_some();
    }
    let Ok(file) = open(path) else { return false };
    let Some((header, start)) = header(&file) else { return false };
    // Lengths are no larger than the file once their sum is its size.
    let vectors = header.vectors.iter().try_fold(0u64, |sum, &n| sum.checked_add((n as u64).checked_mul(4)?));
    let Some(vectors) = vectors else { return false };
    let size = header.arena.checked_add(vectors).and_then(|n| n.checked_add(start));
    if size.is_none() || size != file.metadata().ok().map(|m| m.len()) {
        return false;
    }
    let block = BLOCK as u64;
    let blocks = header.arena.div_ceil(block);
    let good = |i: u64| {
        let (at, len) = if i < blocks { (i * block, block.min(header.arena - i * block)) } else { (header.arena, vectors) };
        checksum(&file, start + at, len).is_ok_and(|sum| header.checksums.get(i as usize) == Some(&sum))
    };
    (0..=blocks).into_par_iter().all(good)
}

/// Of `len` bytes of a file, of which few are in memory at a time.
fn checksum(file: &File, at: u64, len: u64) -> io::Result<u64> {
    let (mut hash, mut piece) = (Xxh3::new(), vec![0; len.min(1 << 20) as usize]);
    for from in (0..len).step_by(1 << 20) {
        let piece = &mut piece[..(len - from).min(1 << 20) as usize];
        file.read_exact_at(piece, at + from)?;
        hash.update(piece);
    }
    Ok(hash.digest())
}

/// Removes what no run will use: files of other versions, what a killed process left half-written, and beyond `keep` bytes
/// the least recently used. Gives the bytes freed.
///
/// # Errors
/// If a file cannot be removed.
pub fn gc(folder: &Path, keep: Option<u64>) -> Result<u64, Error> {
    let mut freed = 0;
    let mut remove = |path: &Path| {
        freed += path.metadata().map_or(0, |m| m.len());
        fs::remove_file(path).map_err(|source| Error::Io { path: path.into(), source })
    };
    for path in inside(folder)?.iter().filter(|p| abandoned(p)) {
        remove(path)?;
    }
    let mut total = 0;
    for e in list(folder)? {
        total += e.bytes;
        if e.kept == Kept::Unknown || keep.is_some_and(|keep| total > keep) {
            remove(&e.path)?;
            total -= e.bytes;
        }
    }
    Ok(freed)
}

/// A temporary file that no process writes any more.
fn abandoned(path: &Path) -> bool {
    let named = path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(UNFINISHED));
    named && open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn is_survey(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == survey::SUFFIX)
}

/// Opens what is a file: a pipe would be waited for.
fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(io::Error::other("it is no regular file")) }
}

/// Text from a file that anyone may have written, for a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn inside(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|e| e.path()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { path: folder.into(), source }),
    }
}

/// A file's header and where its data starts.
fn header(file: &File) -> Option<(Header, u64)> {
    // A checksum is 20 digits for 8 MiB: the line of a 400 GB entry has 1 MB. Norms and biases are some hundreds.
    let longest = (file.metadata().ok()?.len() / 4096).clamp(64 << 10, 16 << 20);
    let mut line = Vec::new();
    BufReader::new(io::Read::take(file, longest)).read_until(b'\n', &mut line).ok()?;
    let header: Header = serde_json::from_slice(&line).ok().filter(|h: &Header| h.version == VERSION)?;
    Some((header, (line.len() as u64).next_multiple_of(PAGE)))
}
