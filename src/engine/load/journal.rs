//! Matrices that are coded already, on disk: what a process that was stopped leaves for the next one. A line of JSON, then of each matrix
//! its name's length, its bytes' number and their checksum, the name, the bytes.
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};
use xxhash_rust::xxh3::xxh3_64;

#[derive(PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    plan: String,
}

/// Where a matrix' bytes are, how many, and their checksum.
type Place = (u64, usize, u64);

/// A file that one process adds to.
pub struct Journal {
    file: File,
    places: HashMap<String, Place>,
    end: u64,
}

impl Journal {
    /// Opens the journal of a plan, with what is whole in it; one of another plan begins anew.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or another process writes it.
    pub fn open(path: &Path, version: u32, plan: &str) -> io::Result<Journal> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock()?;
        let own = Header { version, plan: plan.into() };
        let mut journal = Journal { file, places: HashMap::new(), end: 0 };
        if journal.read(&own).is_none() {
            journal.places.clear();
            let mut line = serde_json::to_vec(&own)?;
            line.push(b'\n');
            journal.file.set_len(0)?;
            journal.file.write_all_at(&line, 0)?;
            journal.end = line.len() as u64;
        }
        // What was half written is written over.
        journal.file.set_len(journal.end)?;
        Ok(journal)
    }

    /// Finds the matrices that are whole, by their lengths; none where the file is not this plan's.
    fn read(&mut self, own: &Header) -> Option<()> {
        let len = self.file.metadata().ok()?.len();
        let (mut from, mut line) = (BufReader::new(&self.file), Vec::new());
        from.by_ref().take(1 << 10).read_until(b'\n', &mut line).ok()?;
        if serde_json::from_slice::<Header>(&line).ok()? != *own {
            return None;
        }
        self.end = line.len() as u64;
        let mut head = [[0; 8]; 3];
        while from.read_exact(head.as_flattened_mut()).is_ok() {
            let [name, bytes, sum] = head.map(u64::from_le_bytes);
            let Some(start) = self.end.checked_add(24).and_then(|at| at.checked_add(name)) else { break };
            let Some(end) = start.checked_add(bytes).filter(|end| *end <= len) else { break };
            let mut text = vec![0; name as usize];
            let read = from.read_exact(&mut text).is_ok() && from.seek(SeekFrom::Start(end)).is_ok();
            let Some(text) = String::from_utf8(text).ok().filter(|_| read) else { break };
            self.places.insert(text, (start, bytes as usize, sum));
            self.end = end;
        }
        Some(())
    }

    /// Reads a matrix into its place; whether it is there, as it was written.
    pub fn get(&self, name: &str, to: &mut [u8]) -> bool {
        let Some(&(at, len, sum)) = self.places.get(name) else { return false };
        len == to.len() && self.file.read_exact_at(to, at).is_ok() && xxh3_64(to) == sum
    }

    /// Adds a matrix.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let head = [name.len() as u64, bytes.len() as u64, xxh3_64(bytes)].map(u64::to_le_bytes);
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(head.as_flattened())?;
        self.file.write_all(name.as_bytes())?;
        self.file.write_all(bytes)?;
        self.end += (24 + name.len() + bytes.len()) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_whole_is_there_again() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("deeper/x.tmp");
        let mut journal = Journal::open(&path, 1, "a")?;
        journal.add("first", &[1; 100])?;
        journal.add("second", &[2; 50])?;
        assert!(Journal::open(&path, 1, "a").is_err(), "another writes it");
        drop(journal);
        let len = path.metadata()?.len();
        OpenOptions::new().write(true).open(&path)?.set_len(len - 1)?;
        let mut journal = Journal::open(&path, 1, "a")?;
        let (mut first, mut second) = ([0; 100], [0; 50]);
        assert!(journal.get("first", &mut first) && first == [1; 100]);
        assert!(!journal.get("second", &mut second) && !journal.get("first", &mut second));
        journal.add("second", &[3; 50])?;
        drop(journal);
        assert_eq!(path.metadata()?.len(), len);
        let journal = Journal::open(&path, 1, "a")?;
        assert!(journal.get("second", &mut second) && second == [3; 50]);
        drop(journal);
        // A byte that is not what was written.
        OpenOptions::new().write(true).open(&path)?.write_all_at(&[9], len - 2)?;
        let journal = Journal::open(&path, 1, "a")?;
        assert!(!journal.get("second", &mut second) && journal.get("first", &mut first));
        drop(journal);
        assert!(!Journal::open(&path, 1, "b")?.get("first", &mut first), "another plan's");
        std::fs::write(&path, "no journal")?;
        assert!(!Journal::open(&path, 1, "a")?.get("first", &mut first));
        Ok(())
    }
}
