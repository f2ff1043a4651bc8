//! Packed weights of a part of a checkpoint as a file, coded wherever its weights are, and all parts put together by the tensors' names.
//!
//! A file is a line of JSON, [`Header`], then records.
use super::{
    loader::{Buffers, Loaded, Piece, pieces_of, places, room},
    packed,
    records::{self, Place},
};
use crate::{
    Checkpoint, Error, PartOf,
    checkpoint::read_vector,
    files,
    planner::{Entry, Plan},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "ram-run packed part")]
    version: u32,
    number: usize,
    of: usize,
    /// The checkpoint, wherever it lies, and the plan.
    content: String,
    plan: String,
}

/// Bytes that are coded before they are written; single matrices may have more.
const BATCH: u64 = 64 << 20;

/// Reads and codes the tensors of a part, and writes them as they lie in memory. The weights may be at the hub. `done` is told the number of
/// weights that each piece had.
///
/// # Errors
/// As for [`load`](super::load()), [`Error::Mismatch`] for a plan with error feedback, which needs all of a model, and where the file cannot be
/// written; nothing is left behind.
pub fn pack_part(checkpoint: &Checkpoint, plan: &Plan, part: PartOf, path: &Path, done: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
    plan.belongs_to(checkpoint)?;
    if plan.survey.text().is_some() {
        return Err(Error::Mismatch("error feedback needs the model from its first layer on: it is not packed in parts".into()));
    }
    let own = part.tensors(checkpoint, &|spec| spec.shape.iter().product::<usize>() as u64);
    let entries: Vec<&Entry> = plan.entries.iter().filter(|e| own.contains(e.spec.name.as_str())).collect();
    let content = checkpoint.content_anywhere()?;
    let header = Header { version: packed::VERSION, number: part.number(), of: part.of(), content, plan: plan.fingerprint.clone() };
    let mut failed = None;
    let written = files::write_whole(path, |file| {
        let mut to = BufWriter::new(file);
        writeln!(to, "{}", serde_json::to_string(&header)?)?;
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let fitting = rest.iter().scan(0, |bytes, e| {
                *bytes += e.bytes;
                Some(*bytes)
            });
            let (batch, after) = rest.split_at(fitting.take_while(|bytes| *bytes <= BATCH).count().max(1));
            rest = after;
            let coded = coded(checkpoint, plan, batch, done).map_err(|e| {
                failed = Some(e);
                io::Error::other("not coded")
            })?;
            for (e, bytes) in batch.iter().zip(&coded) {
                records::write(&mut to, &e.spec.name, bytes)?;
            }
        }
        to.flush()
    });
    failed.map_or(written, Err)
}

/// Tensors as they lie in memory.
fn coded(checkpoint: &Checkpoint, plan: &Plan, entries: &[&Entry], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Vec<u8>>, Error> {
    let mut all: Vec<Vec<u8>> = entries.iter().map(|e| vec![0; e.bytes as usize]).collect();
    let (mut pieces, mut vectors): (Vec<Piece>, Vec<_>) = (Vec::new(), Vec::new());
    for (e, out) in entries.iter().zip(&mut all) {
        if e.spec.kind.is_matrix() {
            pieces.extend(pieces_of(checkpoint, e, plan.effort, out));
        } else {
            vectors.push((&e.spec.name, out));
        }
    }
    pieces.into_par_iter().try_for_each_init(Buffers::default, |buffers, mut piece| {
        piece.quantize(checkpoint, None, &plan.survey, None, buffers)?;
        done(piece.rows * piece.cols);
        Ok::<(), Error>(())
    })?;
    for (name, out) in vectors {
        let mut values = read_vector(checkpoint, name)?;
        plan.survey.apply(name, 0, &mut values, 1);
        out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
    }
    Ok(all)
}

/// Puts the files of all parts of a plan together, in any order; `done` is told the bytes of each tensor.
///
/// # Errors
/// Names the file that is damaged, of another checkpoint or plan, or given twice as it were; or the part that is missing.
pub fn assemble(checkpoint: &Checkpoint, plan: &Plan, paths: &[PathBuf], done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    plan.belongs_to(checkpoint)?;
    let content = checkpoint.content_anywhere()?;
    let mut parts: Vec<(&Path, File, Header)> = Vec::new();
    let mut found: HashMap<String, (usize, Place)> = HashMap::new();
    for path in paths {
        let bad = |reason: String| Error::File { path: path.clone(), reason };
        let file = files::open(path)?;
        let (header, start) = header(&file).ok_or_else(|| bad("is no part that this version of `ram-run pack` wrote: write it again".into()))?;
        if header.content != content {
            return Err(bad(format!("is a part of another checkpoint than {}: pack that one", checkpoint.folder().display())));
        }
        if header.plan != plan.fingerprint {
            let reason =
                format!("is a part of the plan {}, not of {}: give the same budget and flags as when it was packed", header.plan, plan.fingerprint);
            return Err(bad(reason));
        }
        let own = PartOf::new(header.number, header.of).ok_or_else(|| damaged(path))?;
        if let Some((other, _, first)) = parts.iter().find(|(.., known)| known.of != header.of) {
            return Err(bad(format!("is part {own}, and {} is one of {}: give the parts of one division", other.display(), first.of)));
        }
        if let Some((other, ..)) = parts.iter().find(|(.., known)| known.number == header.number) {
            return Err(bad(format!("is part {own}, and so is {}: give one of both", other.display())));
        }
        let (places, _) = records::find(&file, start).map_err(|source| Error::Io { path: path.clone(), source })?;
        found.extend(places.into_iter().map(|(name, place)| (name, (parts.len(), place))));
        parts.push((path, file, header));
    }
    let Some((path, _, Header { of, .. })) = parts.first() else { return Err(Error::Mismatch("no parts are given".into())) };
    if let Some(missing) = (1..=*of).find(|number| parts.iter().all(|(.., part)| part.number != *number)) {
        let reason = format!("is one of {of} parts, and part {missing} is not given: write it with `ram-run pack --part {missing}/{of}`");
        return Err(Error::File { path: path.to_path_buf(), reason });
    }
    let read = |e: &Entry, to: &mut [u8]| {
        // One that no part has was at the end of a file that was cut short; which one, nothing says.
        let &(part, place) = found.get(&e.spec.name).ok_or_else(|| cut_short(&e.spec.name))?;
        let (path, file, _) = &parts[part];
        done(to.len());
        if place.read(file, to) { Ok(()) } else { Err(damaged(path)) }
    };
    let mut arena = room(checkpoint, plan)?;
    let (mut rest, mut matrices) = (&mut arena.bytes_mut()[..places(plan).1], Vec::new());
    for e in plan.entries.iter().filter(|e| e.spec.kind.is_matrix()) {
        let (own, after) = rest.split_at_mut((e.bytes as usize).next_multiple_of(ram_kernels::ALIGN));
        rest = after;
        matrices.push((e, &mut own[..e.bytes as usize]));
    }
    matrices.into_par_iter().try_for_each(|(e, to)| read(e, to))?;
    let vectors = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).map(|e| {
        let mut bytes = vec![0; e.bytes as usize];
        read(e, &mut bytes)?;
        Ok::<_, Error>(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    });
    let vectors = vectors.collect::<Result<_, _>>()?;
    Ok(Loaded::new(plan, arena, vectors))
}

fn damaged(path: &Path) -> Error {
    Error::File { path: path.into(), reason: "is damaged: write it again with `ram-run pack --part`".into() }
}

fn cut_short(name: &str) -> Error {
    Error::Tensor {
        name: name.into(),
        reason: "is in none of the parts: one of them is cut short, write them again with `ram-run pack --part`".into(),
    }
}

/// A file's header and where its records start.
fn header(file: &File) -> Option<(Header, u64)> {
    let mut line = Vec::new();
    BufReader::new(io::Read::take(file, 1 << 10)).read_until(b'\n', &mut line).ok()?;
    let header: Header = serde_json::from_slice(&line).ok()?;
    (header.version == packed::VERSION).then_some((header, line.len() as u64))
}
