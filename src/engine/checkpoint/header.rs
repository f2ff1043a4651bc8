//! The header of a safetensors file, read as if it were hostile: every length and offset is checked before it is used.
use super::Source;
use crate::Error;
use safetensors::Dtype;
use serde::{Deserialize, de};
use std::fmt;

/// Where a tensor lies in its file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As in the header.
    pub name: String,
    /// As in the header.
    pub dtype: Dtype,
    /// As in the header.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Headers of real checkpoints stay below 10 MB; the format's reference reader stops at 100 MB.
const LONGEST: u64 = 100 << 20;

#[derive(Deserialize)]
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The header's entries in order; a name that stands twice is an error.
struct Entries(Vec<(String, Raw)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Entries, D::Error> {
        struct Visit;
        impl<'de> de::Visitor<'de> for Visit {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut entries, mut names) = (Vec::new(), std::collections::HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("'{name}' stands twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(Visit)
    }
}

/// The tensors of a file, by rising offset.
///
/// # Errors
/// [`Error::File`] where the header or its offsets are not those of a whole safetensors file.
pub fn read(source: &Source) -> Result<Vec<Stored>, Error> {
    let bad = |reason: String| Error::File { path: source.path(), reason: format!("{reason}: it is no whole safetensors file, fetch it again") };
    let size = source.size()?;
    let mut length = [0; 8];
    if size < 8 {
        return Err(bad(format!("has {size} bytes")));
    }
    source.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST || length > size - 8 {
        return Err(bad(format!("claims a header of {length} bytes in a file of {size}")));
    }
    let mut text = vec![0; length as usize];
    source.read_exact_at(&mut text, 8)?;
    let Entries(entries) = serde_json::from_slice(&text).map_err(|e| bad(format!("has a header that cannot be read ({e})")))?;
    let mut stored = Vec::with_capacity(entries.len());
    for (name, raw) in entries {
        let (from, to) = raw.data_offsets;
        let numbers = raw.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let need = numbers.and_then(|n| n.checked_mul(raw.dtype.bitsize() as u64)).map(|bits| bits / 8);
        if from > to || need != Some(to - from) {
            return Err(bad(format!("gives tensor '{name}' bytes {from} to {to}, which its shape {:?} does not fill", raw.shape)));
        }
        if to > size - 8 - length {
            return Err(bad(format!("ends before tensor '{name}' does")));
        }
        stored.push(Stored { name, dtype: raw.dtype, shape: raw.shape, offset: 8 + length + from, len: to - from });
    }
    stored.sort_by_key(|s| (s.offset, s.len));
    let mut end = 8 + length;
    for s in &stored {
        if s.offset != end {
            return Err(bad(format!("has tensor '{}' at byte {}, where {end} comes next", s.name, s.offset)));
        }
        end += s.len;
    }
    if end != size {
        return Err(bad(format!("has {} bytes behind its last tensor", size - end)));
    }
    Ok(stored)
}
