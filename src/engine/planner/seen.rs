//! What is looked at of the weights before a plan: nothing of one matrix asks for another's, so that any part of them may be looked at alone.
use super::{
    rd_curve::{Curve, Look, Point, curve},
    sensitivity,
};
use crate::{
    Error,
    checkpoint::{self, Checkpoint},
    survey::Survey,
};
use ram_kernels::{Effort, Format};
use ram_models::{Kind, TensorSpec};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// What was seen of a checkpoint, or of a part of it.
#[derive(Default)]
pub struct Seen {
    /// u of the head, where it is among what was looked at.
    pub head: Option<f64>,
    /// ||r||^2 of every row of a layer's router.
    pub routers: BTreeMap<usize, Vec<f64>>,
    /// By matrix.
    pub curves: HashMap<String, Curve>,
}

impl Seen {
    /// The points of a menu of one matrix; `own` is the format that keeps it.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where one was not looked at.
    pub fn curve(&self, spec: &TensorSpec, menu: &[Format], own: Format) -> Result<Curve, Error> {
        if let Some(kept) = kept(spec, menu, own) {
            return Ok(kept);
        }
        let curve = self.curves.get(&spec.name);
        let point = |format: &Format| {
            let seen = curve.and_then(|curve| curve.points.iter().find(|point| point.format == *format));
            let missing =
                || format!("{} was not measured in {format}: give `measure` and `plan` the same --objective, --uniform and --pin", spec.name);
            seen.copied().ok_or_else(|| Error::Mismatch(missing()))
        };
        Ok(Curve { points: menu.iter().map(point).collect::<Result<_, _>>()?, square: curve.and_then(|curve| curve.square) })
    }
}

/// What is to be said of a matrix that stays what it is without looking.
fn kept(spec: &TensorSpec, menu: &[Format], own: Format) -> Option<Curve> {
    let point = Point { format: own, bytes: own.bytes(spec.shape[0], spec.shape[1]) as u64, error: 0.0 };
    (*menu == [own]).then(|| Curve { points: vec![point], square: None })
}

/// The matrix that makes logits.
pub fn is_head(checkpoint: &Checkpoint, spec: &TensorSpec) -> bool {
    spec.kind == if checkpoint.description().tie_word_embeddings { Kind::Embedding } else { Kind::Head }
}

/// Looks at those tensors that are `own`, in parallel, each matrix over its menu (`menus` are of all), with the encoder's `effort`, of weights
/// scaled by a survey. `done` is told the number of weights of each matrix.
///
/// # Errors
/// Where the checkpoint cannot be read, or a weight that is looked at is not finite.
pub fn look(
    checkpoint: &Checkpoint,
    menus: &[Vec<Format>],
    effort: Effort,
    survey: Option<&Survey>,
    own: &(dyn Fn(&TensorSpec) -> bool + Sync),
    done: &(dyn Fn(usize) + Sync),
) -> Result<Seen, Error> {
    let matrices: Vec<&TensorSpec> = checkpoint.specs().iter().filter(|s| s.kind.is_matrix()).collect();
    // By all matrices, also where few are looked at: all parts do it alike.
    let how = Look::new(&matrices, menus, effort);
    let head = matrices.iter().find(|spec| is_head(checkpoint, spec) && own(spec)).map(|head| sensitivity::head(checkpoint, head)).transpose()?;
    let curves = matrices.par_iter().zip(menus).filter(|(spec, _)| own(spec)).map(|(spec, menu)| {
        let seen = match kept(spec, menu, checkpoint.own_format(&spec.name)) {
            Some(kept) => kept,
            None => curve(checkpoint, spec, menu, survey, &how)?,
        };
        done(spec.shape.iter().product());
        Ok::<_, Error>((spec.name.clone(), seen))
    });
    let curves = curves.collect::<Result<_, _>>()?;
    Ok(Seen { head, routers: routers(checkpoint, own)?, curves })
}

/// ||r||^2 of every row of the routers that are `own`, by layer.
///
/// # Errors
/// As for [`look`].
pub fn routers(checkpoint: &Checkpoint, own: &dyn Fn(&TensorSpec) -> bool) -> Result<BTreeMap<usize, Vec<f64>>, Error> {
    let mut routers = BTreeMap::new();
    for (spec, layer) in checkpoint.specs().iter().filter(|spec| spec.kind == Kind::Router && own(spec)).filter_map(|spec| Some((spec, spec.layer?)))
    {
        let [rows, cols] = [spec.shape[0], spec.shape[1]];
        let weights = checkpoint::read_rows(checkpoint, &spec.name, cols, &(0..rows).collect::<Vec<_>>())?;
        routers.insert(layer, weights.chunks_exact(cols).map(|row| row.iter().map(|w| f64::from(*w).powi(2)).sum()).collect());
    }
    Ok(routers)
}
