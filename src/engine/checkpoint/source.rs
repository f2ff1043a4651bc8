//! Where the bytes of a weight file are: on disk, or at the hub.
use crate::{Error, files, hub::Remote};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
};

/// A weight file.
#[derive(Debug)]
pub enum Source {
    /// On disk.
    File(PathBuf, File),
    /// At the hub.
    Remote(Box<Remote>),
}

impl Source {
    /// A file on disk.
    pub fn open(path: &Path) -> Result<Source, Error> {
        files::open(path).map(|file| Source::File(path.into(), file))
    }

    /// What tells this content from others: the sha256 that the hub knows it by, also for a file in the hub's cache; else size, 64 blocks of
    /// it and, if asked for, time of change: a copy on another machine has another one.
    pub fn identity(&self, time: bool) -> Result<String, Error> {
        let (path, file) = match self {
            Source::Remote(remote) => return Ok(format!("{}\n", remote.etag())),
            Source::File(path, file) => (path, file),
        };
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let blob = real.parent().and_then(Path::file_name).is_some_and(|name| name == "blobs");
        if let Some(name) = real.file_name().and_then(|n| n.to_str()).filter(|n| blob && n.len() == 64) {
            return Ok(format!("{name}\n"));
        }
        let io = |source| Error::Io { path: path.clone(), source };
        let about = file.metadata().map_err(io)?;
        let (mut hash, mut block) = (Sha256::new(), [0; 4096]);
        for i in 0..64 {
            let n = file.read_at(&mut block, about.len() / 64 * i).map_err(io)?;
            hash.update(&block[..n]);
        }
        let hash = hex::encode(hash.finalize());
        let changed = if time { format!("{} {} ", about.mtime(), about.mtime_nsec()) } else { String::new() };
        Ok(format!("{} {changed}{hash}\n", about.len()))
    }

    /// What to call it in a sentence.
    pub fn path(&self) -> PathBuf {
        match self {
            Source::File(path, _) => path.clone(),
            Source::Remote(remote) => remote.file().into(),
        }
    }

    /// Its bytes.
    pub fn size(&self) -> Result<u64, Error> {
        match self {
            Source::File(path, file) => file.metadata().map(|m| m.len()).map_err(|source| Error::Io { path: path.clone(), source }),
            Source::Remote(remote) => Ok(remote.size()),
        }
    }

    /// Fills `buffer` from byte `at`.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<(), Error> {
        match self {
            Source::File(path, file) => file.read_exact_at(buffer, at).map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::File { path: path.clone(), reason: "was cut short since it was opened: fetch it again".into() }
                }
                _ => Error::Io { path: path.clone(), source },
            }),
            Source::Remote(remote) => remote.read_exact_at(buffer, at),
        }
    }
}

/// Bytes between two rows that are read with them: the headers of another question are about as many.
const GAP: usize = 512;
/// Questions of one matrix at a time: an answer's way is long, and its bytes are few.
const AT_ONCE: usize = 8;

/// Fills a buffer from a place.
type Read<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), Error> + Sync + 'a;

/// Rows at rising places, with few reads of which several run at a time; `read` is given a place and a buffer.
pub fn read_rows(row_bytes: usize, rows: &[usize], buffer: &mut [u8], read: &Read<'_>) -> Result<(), Error> {
    let near = |a: &usize, b: &usize| b > a && (b - a - 1) * row_bytes <= GAP;
    let mut runs = Vec::new();
    let mut rest = buffer;
    for run in rows.chunk_by(near) {
        let (own, after) = rest.split_at_mut(run.len() * row_bytes);
        rest = after;
        runs.push((run, own));
    }
    let share = runs.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        let threads =
            runs.chunks_mut(share).map(|runs| scope.spawn(move || runs.iter_mut().try_for_each(|(run, out)| read_run(row_bytes, run, out, read))));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Rows that are near to each other, with one read.
fn read_run(row_bytes: usize, run: &[usize], out: &mut [u8], read: &Read<'_>) -> Result<(), Error> {
    let (first, last) = (run[0], run[run.len() - 1]);
    let from = (first * row_bytes) as u64;
    if last - first + 1 == run.len() {
        return read(from, out);
    }
    let mut all = vec![0; (last - first + 1) * row_bytes];
    read(from, &mut all)?;
    for (row, out) in run.iter().zip(out.chunks_exact_mut(row_bytes)) {
        out.copy_from_slice(&all[(row - first) * row_bytes..][..row_bytes]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn rows_near_each_other_come_with_one_read() {
        let file: Vec<u8> = (0..20_000u32).map(|i| (i * 31 + (i >> 3)) as u8).collect();
        for (rows, reads) in
            [(vec![0, 1, 2, 3], 1), (vec![0, 3, 50, 51, 90], 3), (vec![7], 1), (vec![5, 4, 4], 3), ((0..80).step_by(4).collect(), 20)]
        {
            let count = Mutex::new(0);
            let mut out = vec![0; rows.len() * 200];
            let read = |at: u64, out: &mut [u8]| {
                *count.lock().unwrap() += 1;
                out.copy_from_slice(&file[at as usize..][..out.len()]);
                Ok(())
            };
            read_rows(200, &rows, &mut out, &read).unwrap();
            let expected: Vec<u8> = rows.iter().flat_map(|r| &file[r * 200..][..200]).copied().collect();
            assert_eq!(out, expected, "{rows:?}");
            assert_eq!(*count.lock().unwrap(), reads, "{rows:?}");
        }
    }
}
