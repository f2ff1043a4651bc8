//! The refining loader: layer by layer, every matrix is quantized with error feedback for the inputs that the quantized ones before it give
//! for some text.
use super::loader::{Buffers, Loaded, pieces_of, places, room};
use crate::{
    Error,
    checkpoint::{Checkpoint, read_vector},
    planner::Plan,
};
use ram_kernels::{Arena, Feedback, Matrix, Moments, Team};
use ram_models::{Coder, TensorSpec};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Inputs further apart than this do not make up for each other's errors.
pub const SPAN: usize = 2048;

/// Reads and quantizes every tensor of the plan with feedback for `text`, sequences of tokens. `done` is told the number of weights that each
/// matrix had.
///
/// # Errors
/// As for [`load`](super::load()), and where a number that comes up is not finite.
pub fn refine(checkpoint: &Checkpoint, plan: &Plan, text: &[Vec<u32>], done: &(dyn Fn(usize) + Sync)) -> Result<Loaded, Error> {
    let matrices = plan.entries.iter().enumerate().filter(|(_, e)| e.spec.kind.is_matrix());
    let places = matrices.zip(places(plan).0).map(|((i, e), at)| (e.spec.name.as_str(), (i, at))).collect();
    let mut coding = Coding { checkpoint, plan, places, arena: room(checkpoint, plan)?, vectors: HashMap::new(), done };
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
    /// By name: which entry, and where in the arena.
    places: HashMap<&'a str, (usize, usize)>,
    arena: Arena,
    vectors: HashMap<String, Vec<f32>>,
    done: &'a (dyn Fn(usize) + Sync),
}

impl Coder for Coding<'_> {
    type Error = Error;

    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        let mut values = read_vector(self.checkpoint, &spec.name)?;
        self.plan.survey.apply(&spec.name, 0, &mut values, 1);
        self.vectors.insert(spec.name.clone(), values.clone());
        Ok(values)
    }

    fn code(&mut self, team: &Team, specs: &[&TensorSpec], inputs: Option<&Moments>) -> Result<Vec<Matrix>, Error> {
        let mut feedbacks: [Option<Feedback>; 2] = [None, None];
        let each = specs.iter().map(|spec| {
            let &(i, at) = self.places.get(spec.name.as_str()).ok_or_else(|| Error::MissingTensor(spec.name.clone()))?;
            let e = &self.plan.entries[i];
            let feedback = inputs.filter(|_| !e.format.is_dense()).map(|inputs| {
                let slot = &mut feedbacks[usize::from(e.format.scheme().is_rotated())];
                &*slot.get_or_insert_with(|| Feedback::new(team, inputs, e.format))
            });
            let bytes = e.bytes as usize;
            let mut arena = Arena::new(bytes).map_err(|source| Error::Io { path: self.checkpoint.folder().into(), source })?;
            let mut pieces = pieces_of(self.checkpoint, e, self.plan.effort, &mut arena.bytes_mut()[..bytes]);
            let failed = Mutex::new(None);
            team.chunks(&mut pieces, 1, |_, piece| {
                if let Err(e) = piece[0].quantize(self.checkpoint, None, &self.plan.survey, feedback, &mut Buffers::default()) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                }
            });
            if let Some(e) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Err(e);
            }
            self.arena.bytes_mut()[at..at + bytes].copy_from_slice(&arena.bytes()[..bytes]);
            (self.done)(spec.shape.iter().product());
            Ok(Matrix::new(Arc::new(arena), 0, e.format, spec.shape[0], spec.shape[1]))
        });
        each.collect()
    }

    fn span(&self) -> usize {
        SPAN
    }
}
