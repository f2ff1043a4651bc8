//! Memory: one block for all packed weights, the matrices in it, lists that take no more than they need.
use crate::Format;
use memmap2::MmapMut;
use std::{io, ops::Range, sync::Arc};

/// Zeroed pages that become resident only as they are written; large pages where the system has them.
#[derive(Debug)]
pub struct Arena {
    pages: MmapMut,
}

/// Makes `to` as long as `len`, and takes no more memory than that.
pub fn resize<T: Default + Clone>(to: &mut Vec<T>, len: usize) {
    to.reserve_exact(len.saturating_sub(to.len()));
    to.resize(len, T::default());
}

/// Matrices start on cache lines.
pub const ALIGN: usize = 64;

impl Arena {
    /// Room for `len` bytes.
    ///
    /// # Errors
    /// If the system does not give that much address space.
    pub fn new(len: usize) -> io::Result<Arena> {
        let pages = MmapMut::map_anon(len.max(1))?;
        #[cfg(target_os = "linux")]
        if len >= 64 << 20 {
            // Fewer TLB misses while weights stream; only advice, so a refusal is no error. Small arenas stay on
            // small pages: rounding them up to 2 MiB would cost more than it saves.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Ok(Arena { pages })
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.pages
    }

    /// All bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages
    }
}

/// A (rows, cols) matrix in an [`Arena`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Matrix {
    arena: Arc<Arena>,
    at: Range<usize>,
    format: Format,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// The matrix whose [`Format::bytes`] start at `at`.
    ///
    /// # Panics
    /// If they do not all lie in the arena.
    pub fn new(arena: Arc<Arena>, at: usize, format: Format, rows: usize, cols: usize) -> Matrix {
        let end = at.checked_add(format.bytes(rows, cols)).filter(|end| *end <= arena.bytes().len());
        Matrix { arena, at: at..end.expect("a matrix must lie in its arena"), format, rows, cols }
    }

    /// The packed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.arena.bytes()[self.at.clone()]
    }

    /// Which input each column takes, as little-endian u32, where that is not the one of its own number.
    pub fn order(&self) -> Option<&[u8]> {
        let n = self.format.order_bytes(self.cols);
        (n > 0).then(|| &self.bytes()[self.at.len() - n..])
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }
}
