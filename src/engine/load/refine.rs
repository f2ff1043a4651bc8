//! The refining loader: layer by layer, every matrix is quantized with error feedback for the inputs that the quantized ones before it give
//! for some text.
use super::{
    journal::Journal,
    loader::{Buffers, Loaded, pieces_of, places, room},
};
use crate::{
    Error,
    checkpoint::{Checkpoint, read_vector},
    planner::{Entry, Plan, refining::SPAN},
};
use ram_kernels::{Arena, Feedback, Matrix, Moments, Team, dequantize_row};
use ram_models::{Coder, Kind, TensorSpec};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Reads and quantizes every tensor of the plan with feedback for `text`, sequences of tokens; what a journal has is coded already. `done`
/// is told the number of weights that each matrix had.
///
/// # Errors
/// As for [`load`](super::load()), and where a number that comes up is not finite.
pub fn refine(
    checkpoint: &Checkpoint,
    plan: &Plan,
    text: &[Vec<u32>],
    journal: Option<Journal>,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Loaded, Error> {
    let matrices = plan.entries.iter().filter(|e| e.spec.kind.is_matrix());
    let places = matrices.zip(places(plan).0).map(|(e, at)| (e.spec.name.as_str(), (e, at))).collect();
    let mut coding = Coding { checkpoint, plan, places, arena: room(checkpoint, plan)?, vectors: HashMap::new(), journal, done };
    ram_models::refine(checkpoint.description(), text, &mut coding)?;
    let Coding { arena, mut vectors, .. } = coding;
    let vectors = plan.entries.iter().filter(|e| !e.spec.kind.is_matrix()).map(|e| {
        let name = &e.spec.name;
        vectors.remove(name).ok_or_else(|| Error::MissingTensor(name.clone()))
    });
    let vectors = vectors.collect::<Result<_, _>>()?;
    Ok(Loaded::new(plan, arena, vectors))
}

/// Weights on their way into their places.
struct Coding<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    /// By name: what it gets, and where in the arena.
    places: HashMap<&'a str, (&'a Entry, usize)>,
    arena: Arena,
    vectors: HashMap<String, Vec<f32>>,
    journal: Option<Journal>,
    done: &'a (dyn Fn(usize) + Sync),
}

impl<'a> Coding<'a> {
    fn place(&self, spec: &TensorSpec) -> Result<(&'a Entry, usize), Error> {
        self.places.get(spec.name.as_str()).copied().ok_or_else(|| Error::MissingTensor(spec.name.clone()))
    }

    /// Quantizes a matrix into its place, which it gives.
    fn quantize(&mut self, team: &Team, spec: &TensorSpec, feedback: Option<&Feedback>) -> Result<&[u8], Error> {
        let (e, at) = self.place(spec)?;
        let own = &mut self.arena.bytes_mut()[at..at + e.bytes as usize];
        let mut pieces = pieces_of(self.checkpoint, e, self.plan.effort, own);
        let failed = Mutex::new(None);
        team.chunks(&mut pieces, 1, |_, piece| {
            if let Err(e) = piece[0].quantize(self.checkpoint, None, &self.plan.survey, feedback, &mut Buffers::default()) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(&self.arena.bytes()[at..at + e.bytes as usize]),
        }
    }

    /// The same matrix by itself.
    fn alone(&self, spec: &TensorSpec) -> Result<Matrix, Error> {
        let (e, at) = self.place(spec)?;
        let bytes = e.bytes as usize;
        let mut arena = Arena::new(bytes).map_err(|source| Error::Io { path: self.checkpoint.folder().into(), source })?;
        arena.bytes_mut()[..bytes].copy_from_slice(&self.arena.bytes()[at..at + bytes]);
        Ok(Matrix::new(Arc::new(arena), 0, e.format, spec.shape[0], spec.shape[1]))
    }
}

impl Coder for Coding<'_> {
    type Error = Error;

    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        let mut values = read_vector(self.checkpoint, &spec.name)?;
        self.plan.survey.apply(&spec.name, 0, &mut values, 1);
        self.vectors.insert(spec.name.clone(), values.clone());
        Ok(values)
    }

    fn table(&mut self, team: &Team, spec: &TensorSpec, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let (rows, cols, format) = (spec.shape[0], spec.shape[1], self.place(spec)?.0.format);
        let bytes = self.quantize(team, spec, None)?;
        let mut found = vec![0.0; tokens.len() * cols];
        team.chunks(&mut found, cols, |i, to| dequantize_row(format, rows, cols, bytes, tokens[i] as usize, to));
        (self.done)(rows * cols);
        Ok(found)
    }

    fn coded(&mut self, specs: &[&TensorSpec]) -> Result<Option<Vec<Matrix>>, Error> {
        for spec in specs {
            let (e, at) = self.place(spec)?;
            let to = &mut self.arena.bytes_mut()[at..at + e.bytes as usize];
            if !self.journal.as_ref().is_some_and(|journal| journal.get(&spec.name, to)) {
                return Ok(None);
            }
        }
        specs.iter().for_each(|spec| (self.done)(spec.shape.iter().product()));
        specs.iter().map(|spec| self.alone(spec)).collect::<Result<_, _>>().map(Some)
    }

    fn code(&mut self, team: &Team, specs: &[&TensorSpec], inputs: &Moments) -> Result<Vec<Matrix>, Error> {
        let mut feedbacks: [Option<Feedback>; 2] = [None, None];
        let each = specs.iter().map(|spec| {
            let (e, at) = self.place(spec)?;
            let slot = &mut feedbacks[usize::from(e.format.scheme().is_rotated())];
            let feedback = (!e.format.is_dense()).then(|| &*slot.get_or_insert_with(|| Feedback::new(team, inputs, e.format)));
            self.quantize(team, spec, feedback)?;
            (self.done)(spec.shape.iter().product());
            let own = &self.arena.bytes()[at..at + e.bytes as usize];
            // Without a journal there is nothing for a next time, and all is well.
            if self.journal.as_mut().is_some_and(|journal| journal.add(&spec.name, own).is_err()) {
                self.journal = None;
            }
            self.alone(spec)
        });
        each.collect()
    }

    fn head(&mut self, team: &Team, spec: &TensorSpec, mut inputs: Moments) -> Result<(), Error> {
        let e = self.place(spec)?.0;
        let own = spec.kind == Kind::Head;
        if !own {
            inputs.add_alike(self.plan.survey.looked_up(&spec.name, e.u));
        }
        let feedback = (!e.format.is_dense()).then(|| Feedback::new(team, &inputs, e.format));
        drop(inputs);
        self.quantize(team, spec, feedback.as_ref())?;
        (self.done)(if own { spec.shape.iter().product() } else { 0 });
        Ok(())
    }

    fn span(&self) -> usize {
        SPAN
    }
}
