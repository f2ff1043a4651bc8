//! Coded matrices one after the other in a file: of each its name's length, its bytes' number and their checksum, the name, the bytes.
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};
use xxhash_rust::xxh3::xxh3_64;

/// Where a record's bytes are, how many, and their checksum.
#[derive(Clone, Copy)]
pub struct Place {
    at: u64,
    len: usize,
    sum: u64,
}

/// Where records are, by name.
pub type Places = HashMap<String, Place>;

/// Writes a record; gives its length.
pub fn write(to: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<u64> {
    let head = [name.len() as u64, bytes.len() as u64, xxh3_64(bytes)].map(u64::to_le_bytes);
    to.write_all(head.as_flattened())?;
    to.write_all(name.as_bytes())?;
    to.write_all(bytes)?;
    Ok((24 + name.len() + bytes.len()) as u64)
}

/// Finds the records from byte `start` on that are whole, by their lengths, and where the last one ends.
pub fn find(file: &File, start: u64) -> io::Result<(Places, u64)> {
    let (len, mut places, mut end) = (file.metadata()?.len(), Places::new(), start);
    let mut from = BufReader::new(file);
    from.seek(SeekFrom::Start(start))?;
    let mut head = [[0; 8]; 3];
    while from.read_exact(head.as_flattened_mut()).is_ok() {
        let [name, bytes, sum] = head.map(u64::from_le_bytes);
        let Some(at) = end.checked_add(24).and_then(|at| at.checked_add(name)) else { break };
        let Some(next) = at.checked_add(bytes).filter(|next| *next <= len) else { break };
        let mut text = vec![0; name as usize];
        let read = from.read_exact(&mut text).is_ok() && from.seek(SeekFrom::Start(next)).is_ok();
        let Some(text) = String::from_utf8(text).ok().filter(|_| read) else { break };
        places.insert(text, Place { at, len: bytes as usize, sum });
        end = next;
    }
    Ok((places, end))
}

impl Place {
    /// Reads the record's bytes; whether they are as many as there is room for, and as they were written.
    pub fn read(self, file: &File, to: &mut [u8]) -> bool {
        self.len == to.len() && file.read_exact_at(to, self.at).is_ok() && xxh3_64(to) == self.sum
    }
}
