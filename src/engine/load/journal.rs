//! Matrices that are coded already, on disk: what a process that was stopped leaves for the next one. A line of JSON, then records.
use super::records::{self, Places};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

#[derive(PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    plan: String,
}

/// A file that one process adds to.
pub struct Journal {
    file: File,
    places: Places,
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
        let mut journal = Journal { file, places: Places::new(), end: 0 };
        if journal.read(&own).is_none() {
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

    /// Finds the matrices that are whole; none where the file is not this plan's.
    fn read(&mut self, own: &Header) -> Option<()> {
        let mut line = Vec::new();
        BufReader::new(io::Read::take(&self.file, 1 << 10)).read_until(b'\n', &mut line).ok()?;
        if serde_json::from_slice::<Header>(&line).ok()? != *own {
            return None;
        }
        (self.places, self.end) = records::find(&self.file, line.len() as u64).ok()?;
        Some(())
    }

    /// Reads a matrix into its place; whether it is there, as it was written.
    pub fn get(&self, name: &str, to: &mut [u8]) -> bool {
        self.places.get(name).is_some_and(|place| place.read(&self.file, to))
    }

    /// Adds a matrix.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        self.end += records::write(&mut self.file, name, bytes)?;
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
