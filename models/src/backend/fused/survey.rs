//! A pass over weights that stay where they are until an operation needs them, and that tells what their inputs were and what an error in
//! them costs: the same operations, one matrix or one expert in memory at a time.
use super::{
    Fused, Packed, Scratch,
    noise::{Lens, SQUARED, add_noise, noisy},
};
use crate::{
    backend::{Ending, Glu, Mixer, MlpNorms, Mlps, Norm, Pass, Tensors},
    description::Router,
    forward_error::Fault,
    tensors::TensorSpec,
    weights::Published,
};
use ram_kernels::{Experts, Matrix, Team, dequantize_row, isa::Level};
use std::sync::Arc;

/// Tensors that are not read yet; norms and biases are, and have their names.
#[derive(Debug)]
pub struct Unread;

/// A norm's weights or a bias, and which.
pub(super) type Named = (TensorSpec, Vec<f32>);

impl Tensors for Unread {
    type Matrix = TensorSpec;
    type Vector = Named;
    type Experts = Mlps<TensorSpec, Named>;

    fn experts(of: Self::Experts) -> Self::Experts {
        of
    }

    fn taps((spec, values): Named, kernel: usize) -> Named {
        (spec, Packed::taps(values, kernel))
    }
}

/// Who is told what a survey finds.
pub trait Observer {
    /// Of inputs. Says what their readers' columns are multiplied with before they are coded.
    fn channels(&mut self, seen: Channels) -> Arc<[f32]>;

    /// Of an error.
    fn cost(&mut self, seen: Cost);
}

/// The inputs that some matrices share, channel by channel.
#[derive(Debug)]
pub struct Channels {
    /// What makes the channels, linearly: the weights of a norm, or the rows of an up projection.
    pub makers: Vec<TensorSpec>,
    /// All matrices that take them.
    pub readers: Vec<TensorSpec>,
    /// How many tokens were looked at.
    pub tokens: usize,
    /// Mean square of every channel.
    pub squares: Vec<f64>,
    /// Of every channel the squares of its weights, as parts of a reader's sum, in all readers but routers.
    pub columns: Vec<f64>,
}

/// What noise in a matrix does that is like what coding leaves of it.
#[derive(Debug)]
pub struct Cost {
    /// Of which matrix.
    pub matrix: TensorSpec,
    /// Tokens that were multiplied with it.
    pub tokens: usize,
    /// Of how many tokens those are a part.
    pub of: usize,
    /// Half the variance over the vocabulary of what a unit of squared relative error adds to the logits that the stream would have behind
    /// this matrix' layer; summed over the tokens. None of an expert that no noise was added to, as that was to many others of its layer.
    pub spread: Option<f64>,
}

/// A pass by a team of threads.
pub struct Survey<'a, W: Published> {
    fused: Fused<'a>,
    weights: &'a W,
    lens: Lens,
    /// Of the tokens, so many see noise in the MLPs.
    noisy: usize,
    see: &'a mut dyn Observer,
    /// Why weights could not be read.
    failed: &'a mut Option<W::Error>,
    routers: Vec<TensorSpec>,
}

/// An expert, and the tokens that take it with their weights.
pub(super) struct Taking<'a> {
    pub specs: &'a [TensorSpec; 3],
    /// With the biases of it alone.
    glu: Glu<&'a Named>,
    weigh_inputs: bool,
    pub taken: Vec<(u32, f32)>,
}

impl<'a> Taking<'a> {
    /// One of several.
    pub fn of(mlps: &'a Mlps<TensorSpec, Named>, i: usize, taken: Vec<(u32, f32)>) -> Taking<'a> {
        let glu = match &mlps.glu {
            Glu::Silu => Glu::Silu,
            Glu::Gelu => Glu::Gelu,
            Glu::Clamped(gate, biases) => Glu::Clamped(*gate, vec![biases[i].each_ref()]),
        };
        Taking { specs: &mlps.each[i], glu, weigh_inputs: mlps.weigh_inputs, taken }
    }

    /// It alone, of these matrices.
    pub fn alone(&self, matrices: [Matrix; 3]) -> Experts {
        let glu = self.glu.map(|(_, values)| values.clone());
        Packed::experts(Mlps { each: vec![matrices], glu, weigh_inputs: self.weigh_inputs })
    }

    /// Whether every token takes it.
    pub fn is_shared(&self) -> bool {
        self.specs[0].expert.is_none()
    }
}

/// Of one matrix: tokens, and what noise in it does to each.
type Spreads = (TensorSpec, Vec<(u32, f64)>);

/// Of one matrix: tokens, and what noise in it does to what is added to each's part of the stream, before that is normalised where it is.
struct Change {
    matrix: TensorSpec,
    tokens: Vec<u32>,
    rows: Vec<f32>,
}

/// Rows that tell the columns of all gates and ups of a layer, at least: all of them would be read twice.
const SAMPLED: usize = 2048;

/// Experts of a layer that get noise, at the most, and the shared one: of hundreds each takes a few of the tokens, so that what is known of one is
/// for the most part what is known of all.
const EXPERTS: usize = 64;

/// Rows whose squares one task sums.
const ROWS: usize = 64;

/// Adds a matrix' squares by column, as parts of their sum; in an order that does not depend on the threads.
fn add_columns(team: &Team, matrix: &Matrix, to: &mut Vec<f64>) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut sums = vec![0.0f32; rows.div_ceil(ROWS) * cols];
    team.chunks(&mut sums, cols, |i, sums| {
        let (first, mut own) = (i * ROWS, vec![0.0; cols]);
        for row in first..rows.min(first + ROWS) {
            dequantize_row(matrix.format(), rows, cols, matrix.bytes(), row, &mut own);
            sums.iter_mut().zip(&own).for_each(|(sum, w)| *sum += w * w);
        }
    });
    let mut columns = vec![0.0; cols];
    for sums in sums.chunks_exact(cols) {
        columns.iter_mut().zip(sums).for_each(|(column, sum)| *column += f64::from(*sum));
    }
    let all = columns.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    to.resize(cols, 0.0);
    to.iter_mut().zip(columns).for_each(|(to, column)| *to += column / all);
}

/// What makes the numbers of a norm's result.
fn makers(norm: &Norm<Named>) -> Vec<TensorSpec> {
    let tensors = [Some(&norm.weight), norm.bias.as_ref()];
    tensors.into_iter().flatten().map(|(spec, _)| spec.clone()).collect()
}

pub(super) fn plain(norm: &Norm<Named>) -> Norm<Vec<f32>> {
    norm.map(|(_, weight)| weight.clone())
}

/// Who takes which of a layer's experts, and its shared one.
pub(super) fn taking<'a>(
    routes: &[(u32, f32)],
    shared_routes: &[(u32, f32)],
    tokens: usize,
    experts: &'a Mlps<TensorSpec, Named>,
    shared: Option<&'a Mlps<TensorSpec, Named>>,
) -> Vec<Taking<'a>> {
    let per_token = routes.len() / tokens;
    let mut each: Vec<Taking> = (0..experts.each.len()).map(|e| Taking::of(experts, e, Vec::new())).collect();
    for (i, (expert, weight)) in routes.iter().enumerate() {
        each[*expert as usize].taken.push(((i / per_token) as u32, *weight));
    }
    let all = || shared_routes.iter().zip(0..).map(|((_, weight), token)| (token, *weight)).collect();
    each.extend(shared.map(|shared| Taking::of(shared, 0, all())));
    each
}

fn minus(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

impl<'a, W: Published> Survey<'a, W> {
    /// The pass `fused` over `weights`; `see` is told what is found, costs of MLPs from the first `noisy` tokens. Where weights cannot be
    /// read the reason is left in `failed`.
    pub fn new(
        fused: Fused<'a>,
        weights: &'a W,
        lens: Lens,
        noisy: usize,
        see: &'a mut dyn Observer,
        failed: &'a mut Option<W::Error>,
    ) -> Survey<'a, W> {
        Survey { fused, weights, lens, noisy, see, failed, routers: Vec::new() }
    }

    /// What was asked for; where it cannot be had, the reason is kept, and the pass ends.
    fn had<T>(&mut self, read: Result<T, W::Error>) -> Result<T, Fault> {
        read.map_err(|e| {
            *self.failed = Some(e);
            candle_core::Error::Msg("a tensor cannot be read".into()).into()
        })
    }

    fn matrix(&mut self, spec: &TensorSpec) -> Result<Matrix, Fault> {
        let read = self.weights.matrix(spec);
        self.had(read)
    }

    /// Squares by column of some rows of matrices that share their inputs, as parts of each one's sum.
    fn columns(&mut self, specs: &[&TensorSpec]) -> Result<Vec<f64>, Fault> {
        let cols = specs[0].shape[1];
        let mut columns = vec![0.0; cols];
        for spec in specs {
            let n = SAMPLED.div_ceil(specs.len()).clamp(8.min(spec.shape[0]), spec.shape[0]);
            let picks: Vec<u32> = (0..n).map(|i| (i * spec.shape[0] / n) as u32).collect();
            let rows = self.weights.rows(spec, &picks);
            let rows = self.had(rows)?;
            let all = rows.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().max(f64::MIN_POSITIVE);
            for row in rows.chunks_exact(cols) {
                columns.iter_mut().zip(row).for_each(|(column, w)| *column += f64::from(*w).powi(2) / all);
            }
        }
        Ok(columns)
    }

    /// Mean squares of the normed stream.
    fn normed_squares(&self, norm: &Norm<Vec<f32>>) -> Vec<f64> {
        let Fused { s, hidden_size, team, .. } = &self.fused;
        let (mut squares, mut normed) = (vec![0.0; *hidden_size], vec![0.0; *hidden_size]);
        for row in s.hidden.chunks_exact(*hidden_size) {
            norm.of(team.level(), row).write_to(team.level(), &mut normed);
            squares.iter_mut().zip(&normed).for_each(|(square, x)| *square += f64::from(*x).powi(2));
        }
        squares.iter_mut().for_each(|square| *square /= s.tokens.len() as f64);
        squares
    }

    /// Tells what noise costs, now that the stream behind the layer's part is there: the last norm would divide by its size.
    fn tell(&mut self, (matrix, each): Spreads, of: usize) {
        let Fused { s, hidden_size, spans, .. } = &self.fused;
        let square = |t: u32| {
            let row = &s.hidden[t as usize * hidden_size..][..*hidden_size];
            row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / *hidden_size as f64
        };
        // What a sequence's first token looks like is no other's: it is what the others look at where there is nothing to see.
        let first = |t: u32| spans.iter().any(|span| span.tokens.start == t as usize);
        let tokens = each.len();
        let spread = each.iter().filter(|(t, _)| !first(*t)).map(|(t, spread)| spread / square(*t).max(f64::MIN_POSITIVE)).sum::<f64>();
        self.see.cost(Cost { matrix, tokens, of, spread: Some(spread / 2.0 / SQUARED) });
    }

    /// What changes of the stream do.
    fn spreads(&mut self, changes: Vec<Change>) -> Result<Vec<Spreads>, Fault> {
        let mut all = Vec::new();
        for Change { matrix, tokens, rows } in changes {
            let spread = self.lens.spread(self.fused.team, &rows)?;
            all.push((matrix, tokens.into_iter().zip(spread).collect()));
        }
        Ok(all)
    }

    /// Adds the weighted results of one expert to `sum`, and gives what noise in each matrix does, where it is looked at; `scale` is that of
    /// gate and up.
    fn expert(&mut self, own: &Taking, norm: &Norm<Vec<f32>>, scale: &[f32], sum: &mut [f32], looked_at: bool) -> Result<Vec<Change>, Fault> {
        let Taking { specs, taken, .. } = own;
        let each = [self.matrix(&specs[0])?, self.matrix(&specs[1])?, self.matrix(&specs[2])?];
        let (team, mut columns) = (self.fused.team, Vec::new());
        add_columns(team, &each[2], &mut columns);
        let out = self.fused.results(&own.alone(each.clone()), taken, norm)?;
        let mut squares = vec![0.0; each[2].cols()];
        for i in 0..taken.len() {
            squares.iter_mut().zip(self.fused.s.mixture.middle(0).dense(i)).for_each(|(square, x)| *square += f64::from(x).powi(2));
        }
        squares.iter_mut().for_each(|square| *square /= taken.len() as f64);
        self.fused.add_results(taken, &out, sum);
        let [_, maker, reader] = (*specs).clone();
        // What a clamped gate gives is not linear in the up projection's rows: nothing is scaled then.
        let down_scale = (!matches!(own.glu, Glu::Clamped(..))).then(|| {
            let seen = Channels { makers: vec![maker], readers: vec![reader], tokens: taken.len(), squares, columns };
            self.see.channels(seen)
        });
        let some = &taken[..taken.partition_point(|(token, _)| (*token as usize) < self.noisy)];
        let mut changes = Vec::new();
        if !looked_at {
            let of = self.noisy.min(self.fused.s.tokens.len());
            specs.iter().for_each(|spec| self.see.cost(Cost { matrix: spec.clone(), tokens: some.len(), of, spread: None }));
            return Ok(changes);
        }
        for (i, spec) in specs.iter().enumerate().filter(|_| !some.is_empty()) {
            let noisy = noisy(team, &each[i], if i == 2 { down_scale.as_deref() } else { Some(scale) })?;
            let mut other = each.clone();
            other[i] = noisy;
            let other = self.fused.results(&own.alone(other), some, norm)?;
            let tokens = some.iter().map(|(token, _)| *token).collect();
            changes.push(Change { matrix: spec.clone(), tokens, rows: minus(&other, &out) });
        }
        Ok(changes)
    }

    /// All MLPs of a layer; `routers` are what else takes their inputs.
    fn mlps(&mut self, norms: &MlpNorms<Named>, each: &[Taking], routers: Vec<TensorSpec>) -> Result<(), Fault> {
        let (size, tokens, team) = (self.fused.hidden_size, self.fused.s.tokens.len(), self.fused.team);
        let (mut total, mut spreads, mut later) = (vec![0.0; self.fused.s.hidden.len()], Vec::new(), Vec::new());
        // Routers of experts that are apart read the stream through a norm of their own.
        let mut routers = if norms.apart.is_none() { routers } else { Vec::new() };
        for (norm, mlps, after) in norms.groups(each, Taking::is_shared) {
            let own = plain(norm);
            let (mut sum, mut changes, squares) = (vec![0.0; total.len()], Vec::new(), self.normed_squares(&own));
            let pairs: Vec<&TensorSpec> = mlps.iter().flat_map(|own| &own.specs[..2]).collect();
            let readers = std::mem::take(&mut routers).into_iter().chain(pairs.iter().map(|spec| (*spec).clone())).collect();
            let columns = self.columns(&pairs)?;
            let scale = self.see.channels(Channels { makers: makers(norm), readers, tokens, squares, columns });
            let step = mlps.len().div_ceil(EXPERTS);
            for (i, taking) in mlps.iter().enumerate().filter(|(_, own)| !own.taken.is_empty()) {
                // The shared one is the last, and takes all.
                let seen = self.expert(taking, &own, &scale, &mut sum, i.is_multiple_of(step) || taking.is_shared())?;
                if norms.is_plain() {
                    spreads.extend(self.spreads(seen)?);
                } else {
                    changes.extend(seen);
                }
            }
            if let Some(after) = after.map(plain) {
                normalise(&after, size, &sum, &mut changes, team.level());
                after.row().apply(team, &mut sum)?;
            }
            later.extend(changes);
            total.iter_mut().zip(sum).for_each(|(x, y)| *x += y);
        }
        if let Some(after) = norms.after.as_ref().map(plain) {
            normalise(&after, size, &total, &mut later, team.level());
            after.row().apply(team, &mut total)?;
        }
        spreads.extend(self.spreads(later)?);
        self.fused.s.hidden.iter_mut().zip(total).for_each(|(x, y)| *x += y);
        spreads.into_iter().for_each(|each| self.tell(each, self.noisy.min(tokens)));
        Ok(())
    }
}

/// What changes of rows are behind a norm of them: small, and for the most part across the row, they do not change its size.
fn normalise(norm: &Norm<Vec<f32>>, size: usize, rows: &[f32], changes: &mut [Change], level: Level) {
    for Change { tokens, rows: own, .. } in changes {
        for (token, change) in tokens.iter().zip(own.chunks_exact_mut(size)) {
            let scale = norm.of(level, &rows[*token as usize * size..][..size]).scale();
            change.iter_mut().zip(&norm.weight).for_each(|(x, weight)| *x *= scale * weight);
        }
    }
}

impl<W: Published> Pass for Survey<'_, W> {
    type Tensors = Unread;
    type State = ();

    fn embed(&mut self, table: &TensorSpec, tokens: &[u32], times: f32) -> Result<(), Fault> {
        let rows = self.weights.rows(table, tokens);
        let mut rows = self.had(rows)?;
        rows.iter_mut().for_each(|x| *x *= times);
        let mut changes = rows.clone();
        for (row, token) in changes.chunks_exact_mut(self.fused.hidden_size).zip(tokens) {
            add_noise(row, None, u64::from(*token));
        }
        changes.iter_mut().zip(&rows).for_each(|(change, x)| *change -= x);
        let spread = self.lens.spread(self.fused.team, &changes)?;
        self.fused.s.hidden = rows;
        self.tell((table.clone(), (0..).zip(spread).collect()), tokens.len());
        Ok(())
    }

    fn mix(&mut self, mixer: &Mixer<TensorSpec, Named>, _: &mut [&mut ()]) -> Result<(), Fault> {
        let (norm, of, team) = (plain(&mixer.norm), mixer.of.map(|(_, values)| values.clone()), self.fused.team);
        let specs = &mixer.inputs;
        let mut inputs = specs.iter().map(|spec| self.matrix(spec)).collect::<Result<Vec<_>, _>>()?;
        let mut inner = mixer.inner.iter().map(|spec| self.matrix(spec)).collect::<Result<Vec<_>, _>>()?;
        let mut columns = Vec::new();
        inputs.iter().zip(specs).filter(|(_, spec)| !spec.kind.steers()).for_each(|(m, _)| add_columns(team, m, &mut columns));
        let (squares, all) = (self.normed_squares(&norm), self.fused.s.tokens.len());
        let seen = Channels { makers: makers(&mixer.norm), readers: specs.clone(), tokens: all, squares, columns };
        let scale = self.see.channels(seen);
        let before = self.fused.s.hidden.clone();
        self.fused.find_alone(&norm, [&inputs, &inner], &of)?;
        let (output, after) = (self.matrix(&mixer.output)?, mixer.after.as_ref().map(plain));
        let ending = |output| Ending { output, bias: mixer.bias.as_ref().map(|(_, values)| values), after: after.as_ref(), times: mixer.times };
        self.fused.add_found(&of, ending(&output))?;
        let (behind, mut spreads) = (self.fused.s.hidden.clone(), Vec::new());
        self.fused.s.hidden.clone_from(&before);
        let other = noisy(team, &output, None)?;
        self.fused.add_found(&of, ending(&other))?;
        spreads.push((&mixer.output, self.lens.spread(team, &minus(&self.fused.s.hidden, &behind))?));
        let each = specs.iter().enumerate().chain(mixer.inner.iter().enumerate().map(|(i, spec)| (specs.len() + i, spec)));
        for (i, spec) in each.filter(|(_, spec)| !spec.kind.steers()) {
            self.fused.s.hidden.clone_from(&before);
            // Inputs alone have scales.
            let (place, scale) = if i < specs.len() { (&mut inputs[i], Some(&scale[..])) } else { (&mut inner[i - specs.len()], None) };
            let own = std::mem::replace(place, noisy(team, place, scale)?);
            self.fused.find_alone(&norm, [&inputs, &inner], &of)?;
            *(if i < specs.len() { &mut inputs[i] } else { &mut inner[i - specs.len()] }) = own;
            self.fused.add_found(&of, ending(&output))?;
            spreads.push((spec, self.lens.spread(team, &minus(&self.fused.s.hidden, &behind))?));
        }
        self.fused.s.hidden = behind;
        for (spec, spread) in spreads {
            self.tell((spec.clone(), (0..).zip(spread).collect()), all);
        }
        Ok(())
    }

    fn route(&mut self, norm: &Norm<Named>, routers: &[TensorSpec], more: [Option<&Named>; 3], router: &Router) -> Result<(), Fault> {
        let each = routers.iter().map(|spec| self.matrix(spec)).collect::<Result<Vec<_>, _>>()?;
        self.routers = routers.to_vec();
        self.fused.route(&plain(norm), &each, more.map(|more| more.map(|(_, values)| values)), router)
    }

    fn add_experts(
        &mut self,
        norms: &MlpNorms<Named>,
        experts: &Mlps<TensorSpec, Named>,
        shared: Option<&Mlps<TensorSpec, Named>>,
    ) -> Result<(), Fault> {
        let Scratch { routes, shared_routes, tokens, .. } = &*self.fused.s;
        let each = taking(routes, shared_routes, tokens.len(), experts, shared);
        let routers = std::mem::take(&mut self.routers);
        self.mlps(norms, &each, routers)
    }

    fn add_mlp(&mut self, norms: &MlpNorms<Named>, mlp: &Mlps<TensorSpec, Named>) -> Result<(), Fault> {
        let all = self.fused.s.tokens.iter().map(|token| (*token, 1.0)).collect();
        self.mlps(norms, &[Taking::of(mlp, 0, all)], Vec::new())
    }

    fn scale(&mut self, by: &Named) -> Result<(), Fault> {
        self.fused.scale(&by.1)
    }
}
