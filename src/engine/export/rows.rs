//! Rows of matrices, coded and written where they belong.
use super::{
    folder::Begun,
    layout::{Layout, Part, Place, What},
};
use crate::{
    Checkpoint, Error, Loaded,
    checkpoint::read_vector,
    load::{Buffers, Piece, step},
    planner::{Entry, Plan},
};
use half::{bf16, f16};
use ram_kernels::{Format, Lifted, Scheme, dequantize_row, lift};
use rayon::prelude::*;
use safetensors::Dtype;

/// Writes one of the files.
pub fn write(
    checkpoint: &Checkpoint,
    plan: &Plan,
    weights: Option<&Loaded>,
    layout: &Layout,
    number: usize,
    to: &Begun,
    done: &(dyn Fn(usize) + Sync),
) -> Result<(), Error> {
    let own = &layout.files[number];
    let header = own.header.len() as u64;
    to.set_len(header + own.bytes)?;
    to.put(&own.header, 0)?;
    let here = |place: &Place| place.parts.iter().any(|part| part.file == number);
    let mut pieces = Vec::new();
    for (e, place) in plan.entries.iter().zip(&layout.places).filter(|(_, place)| here(place)) {
        if e.spec.kind.is_matrix() {
            let (rows, cols) = (e.spec.shape[0], e.spec.shape[1]);
            let step = step(checkpoint, &e.spec);
            pieces.extend((0..rows).step_by(step).map(|first| (e, place, [first, step.min(rows - first)])));
            for part in place.parts.iter().filter(|part| part.what == What::Shape) {
                to.put([rows as i64, cols as i64].map(i64::to_le_bytes).as_flattened(), part.at)?;
            }
        } else {
            vector(checkpoint, plan, e, layout, &place.parts[0], to)?;
        }
    }
    pieces.into_par_iter().try_for_each_init(Work::default, |work, (e, place, rows)| {
        let format = match weights {
            Some(weights) => work.take(weights, e, rows),
            None => work.code(checkpoint, plan, e, layout, rows)?,
        };
        work.put(format, e, layout, place, rows, to)?;
        done(rows[1] * e.spec.shape[1]);
        Ok(())
    })
}

fn vector(checkpoint: &Checkpoint, plan: &Plan, e: &Entry, layout: &Layout, part: &Part, to: &Begun) -> Result<(), Error> {
    let mut values = read_vector(checkpoint, &e.spec.name)?;
    plan.survey.apply(&e.spec.name, 0, &mut values, 1);
    let bytes: Vec<u8> = match part.what {
        What::Numbers(Dtype::F32) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| layout.style.half.bits(*v).to_le_bytes()).collect(),
    };
    to.put(&bytes, part.at)
}

/// What a thread has of some rows.
#[derive(Default)]
struct Work {
    buffers: Buffers,
    /// As this engine has them.
    packed: Vec<u8>,
    lifted: Lifted,
    bytes: Vec<u8>,
}

impl Work {
    /// Reads and codes them; gives their format.
    fn code(&mut self, checkpoint: &Checkpoint, plan: &Plan, e: &Entry, layout: &Layout, [first, n]: [usize; 2]) -> Result<Format, Error> {
        let (name, cols) = (e.spec.name.as_str(), e.spec.shape[1]);
        let format = if e.format.is_dense() { layout.style.half.format() } else { e.format };
        self.packed.resize(format.row_bytes(n, cols), 0);
        let mut piece = Piece { name, format, effort: plan.effort, first, rows: n, cols, out: &mut self.packed };
        piece.quantize(checkpoint, None, &plan.survey, None, &mut self.buffers)?;
        Ok(format)
    }

    /// Takes them from weights that are loaded; gives their format.
    fn take(&mut self, weights: &Loaded, e: &Entry, [first, n]: [usize; 2]) -> Format {
        let cols = e.spec.shape[1];
        self.packed.clear();
        self.packed.extend_from_slice(&weights.bytes(&e.spec.name)[e.format.row_bytes(first, cols)..e.format.row_bytes(first + n, cols)]);
        e.format
    }

    fn put(&mut self, format: Format, e: &Entry, layout: &Layout, place: &Place, [first, n]: [usize; 2], to: &Begun) -> Result<(), Error> {
        let cols = e.spec.shape[1];
        if !format.is_dense() {
            lift(format, n, cols, &self.packed, &mut self.lifted);
        }
        for part in &place.parts {
            self.bytes.clear();
            match part.what {
                What::Shape => continue,
                What::Numbers(_) if format == layout.style.half.format() => self.bytes.extend_from_slice(&self.packed),
                What::Numbers(_) => {
                    let mut row = vec![0.0; cols];
                    for r in 0..n {
                        dequantize_row(format, n, cols, &self.packed, r, &mut row);
                        self.bytes.extend(row.iter().flat_map(|v| layout.style.half.bits(*v).to_le_bytes()));
                    }
                }
                What::Codes => stream(format.bits(), &self.lifted.codes, &mut self.bytes),
                What::Scales | What::Offsets => self.groups(format, layout, e, part.what),
            }
            to.put(&self.bytes, part.at + first as u64 * part.row)?;
        }
        Ok(())
    }

    /// Scales or offsets of groups, each as often as its group is several there.
    fn groups(&mut self, format: Format, layout: &Layout, e: &Entry, what: What) {
        let (cols, group) = (e.spec.shape[1], layout.style.group(e));
        let per_row = cols.div_ceil(format.group());
        let number = |bits: u16| if format.scheme() == Scheme::AffineBf16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
        for first in (0..self.lifted.scales.len()).step_by(per_row) {
            for at in (0..cols).step_by(group).map(|input| first + input / format.group()) {
                let scale = number(self.lifted.scales[at]);
                let value = match (what, format.scheme()) {
                    (What::Offsets, Scheme::Affine | Scheme::AffineBf16) => number(self.lifted.offsets[at]),
                    (What::Offsets, Scheme::Symmetric) => -scale * f32::from(1u16 << (format.bits() - 1)),
                    (What::Offsets, _) => -scale * f32::from(self.lifted.offsets[at]),
                    _ => scale,
                };
                self.bytes.extend(layout.style.half.bits(value).to_le_bytes());
            }
        }
    }
}

/// Codes of `bits` bits one after the other, low bits first; every 8 fill whole bytes.
fn stream(bits: usize, codes: &[u8], to: &mut Vec<u8>) {
    if bits == 8 {
        return to.extend_from_slice(codes);
    }
    for codes in codes.chunks(8) {
        let word = codes.iter().rev().fold(0u64, |word, code| word << bits | u64::from(*code));
        to.extend(&word.to_le_bytes()[..bits * codes.len() / 8]);
    }
}
