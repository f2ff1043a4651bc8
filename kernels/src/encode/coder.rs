//! Tiles of rotated rows, coded one after the other.
use super::{
    coding::Coding,
    effort::Effort,
    feedback::{Feedback, Survivors},
    plain,
    search::Search,
    trellis,
};
use crate::{Format, decode::levels, isa::Isa, ops::rotate};

/// Codes tile after tile.
pub struct Coder {
    format: Format,
    effort: Effort,
    cols: usize,
    /// None for plain codes.
    pub search: Option<Search>,
    pub x: Vec<[f32; 16]>,
    pub coding: Coding,
    survivors: Option<Survivors>,
}

impl Coder {
    pub fn new(format: Format, effort: Effort, cols: usize) -> Coder {
        let levels = levels(format);
        let search = if levels.is_empty() { None } else { Some(Search::new(levels)) };
        Coder { format, effort, cols, search, x: vec![[0.0; 16]; cols.next_multiple_of(16)], coding: Coding::default(), survivors: None }
    }

    #[inline(always)]
    pub fn code<I: Isa>(&mut self, isa: I, rows: &[f32], feedback: Option<&Feedback>) {
        transpose_rotated(isa, rows, self.cols, &mut self.x);
        let (x, coding) = (&self.x, &mut self.coding);
        let Some(search) = &self.search else { return plain::round(isa, self.format, self.effort.plain(), x, coding) };
        trellis::encode(isa, self.format, self.effort.searches(), search, x, coding);
        match feedback {
            Some(feedback) => self.survivors.get_or_insert_default().run(isa, search, feedback, self.format.group(), x, coding),
            None => trellis::unbias(isa, x, coding),
        }
    }
}

/// Up to 16 rows, rotated, as (padded inputs) of 16 rows; zeros where there is no row or input.
#[inline(always)]
pub fn transpose_rotated<I: Isa>(isa: I, rows: &[f32], cols: usize, x: &mut [[f32; 16]]) {
    let block = rotate::block(x.len());
    if rows.len() < 16 * cols {
        x.fill([0.0; 16]);
    }
    let mut values = [[0.0f32; 16]; 8];
    for (r, row) in rows.chunks_exact(cols).enumerate() {
        for (b, x) in x.chunks_exact_mut(block).enumerate() {
            let from = &row[(b * block).min(cols)..((b + 1) * block).min(cols)];
            let v = &mut values[..block / 16];
            v.as_flattened_mut().fill(0.0);
            v.as_flattened_mut()[..from.len()].copy_from_slice(from);
            rotate::rotate_block(isa, b * block, v);
            x.iter_mut().zip(v.as_flattened()).for_each(|(x, v)| x[r] = *v);
        }
    }
}
