//! A pass over weights that stay where they are until an operation needs them, and that tells what their inputs were: the same
//! operations, one matrix or one expert in memory at a time.
use super::Fused;
use crate::{
    backend::{Norm, Pass, Tensors},
    description::{Attention, Router},
    forward_error::Fault,
    tensors::TensorSpec,
    weights::Published,
};
use ram_kernels::{Experts, KvLayer, Matrix, Routed, Team, dequantize_row, normed};

/// Tensors that are not read yet; norms and biases are, and have their names.
#[derive(Debug)]
pub struct Unread;

/// A norm's weights or a bias, and which.
type Named = (TensorSpec, Vec<f32>);

impl Tensors for Unread {
    type Matrix = TensorSpec;
    type Vector = Named;
    type Experts = Vec<[TensorSpec; 3]>;

    fn experts(each: Vec<[TensorSpec; 3]>) -> Self::Experts {
        each
    }
}

/// The inputs that some matrices share, channel by channel.
#[derive(Debug)]
pub struct Seen {
    /// What makes the channels, linearly: the weights of a norm, or the rows of an up projection.
    pub maker: TensorSpec,
    /// All matrices that take them.
    pub readers: Vec<TensorSpec>,
    /// How many tokens were looked at.
    pub tokens: usize,
    /// Mean square of every channel.
    pub squares: Vec<f64>,
    /// Of every channel the squares of its weights, as parts of a reader's sum, in all readers that a token was multiplied with but
    /// routers.
    pub columns: Vec<f64>,
}

/// A pass by a team of threads.
pub struct Survey<'a, W: Published> {
    fused: Fused<'a>,
    weights: &'a W,
    see: &'a mut dyn FnMut(Seen),
    /// Why weights could not be read.
    failed: &'a mut Option<W::Error>,
    routers: Vec<TensorSpec>,
}

/// An expert's tensors, and the tokens that take it with their weights.
type Taking<'a> = (&'a [TensorSpec; 3], Vec<(u32, f32)>);

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

fn plain(norm: &Norm<Named>) -> Norm<Vec<f32>> {
    Norm { weight: norm.weight.1.clone(), eps: norm.eps }
}

impl<'a, W: Published> Survey<'a, W> {
    /// The pass `fused` over `weights`; `see` is told of inputs, and where weights cannot be read the reason is left in `failed`.
    pub fn new(fused: Fused<'a>, weights: &'a W, see: &'a mut dyn FnMut(Seen), failed: &'a mut Option<W::Error>) -> Survey<'a, W> {
        Survey { fused, weights, see, failed, routers: Vec::new() }
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

    /// Mean squares of the normed stream.
    fn normed_squares(&self, norm: &Norm<Vec<f32>>) -> Vec<f64> {
        let Fused { s, hidden_size, team, .. } = &self.fused;
        let mut squares = vec![0.0; *hidden_size];
        for row in s.hidden.chunks_exact(*hidden_size) {
            let scale = normed(team.level(), row, &norm.weight, norm.eps as f32).scale;
            for ((square, x), weight) in squares.iter_mut().zip(row).zip(&norm.weight) {
                *square += (f64::from(*x) * f64::from(scale) * f64::from(*weight)).powi(2);
            }
        }
        squares.iter_mut().for_each(|square| *square /= s.tokens.len() as f64);
        squares
    }

    /// Adds the weighted results of one expert to `sum`, and gate's and up's columns to `columns`.
    fn expert(&mut self, (specs, taken): &Taking, norm: &Norm<Vec<f32>>, sum: &mut [f32], columns: &mut Vec<f64>) -> Result<(), Fault> {
        let [gate, up, down] = [self.matrix(&specs[0])?, self.matrix(&specs[1])?, self.matrix(&specs[2])?];
        let Fused { s, team, hidden_size, .. } = &mut self.fused;
        let (size, level, mut own) = (*hidden_size, team.level(), Vec::new());
        add_columns(team, &gate, columns);
        add_columns(team, &up, columns);
        add_columns(team, &down, &mut own);
        let mut squares = vec![0.0; down.cols()];
        let experts = Experts { gate: vec![gate], up: vec![up], down: vec![down] };
        let routes: Vec<(u32, f32)> = taken.iter().map(|(_, weight)| (0, *weight)).collect();
        let parts = [Routed { experts: &experts, routes: &routes, per_token: 1 }];
        let row = |i: usize| &s.hidden[taken[i].0 as usize * size..][..size];
        s.mixture.gate(team, &parts, taken.len(), |i| normed(level, row(i), &norm.weight, norm.eps as f32))?;
        for i in 0..taken.len() {
            squares.iter_mut().zip(s.mixture.middle(0).dense(i)).for_each(|(square, x)| *square += f64::from(x).powi(2));
        }
        squares.iter_mut().for_each(|square| *square /= taken.len() as f64);
        let mut out = vec![0.0; taken.len() * size];
        s.mixture.add_to(team, &parts, &mut out);
        for ((token, _), out) in taken.iter().zip(out.chunks_exact(size)) {
            sum[*token as usize * size..][..size].iter_mut().zip(out).for_each(|(sum, y)| *sum += y);
        }
        let [_, maker, reader] = (*specs).clone();
        (self.see)(Seen { maker, readers: vec![reader], tokens: taken.len(), squares, columns: own });
        Ok(())
    }

    /// All MLPs of a layer; `readers` are what else takes their inputs.
    fn mlps(&mut self, norm: &Norm<Named>, each: &[Taking], mut readers: Vec<TensorSpec>) -> Result<(), Fault> {
        let own = plain(norm);
        let squares = self.normed_squares(&own);
        let (mut sum, mut columns) = (vec![0.0; self.fused.s.hidden.len()], Vec::new());
        for taking in each {
            readers.extend_from_slice(&taking.0[..2]);
            if !taking.1.is_empty() {
                self.expert(taking, &own, &mut sum, &mut columns)?;
            }
        }
        let s = &mut *self.fused.s;
        s.hidden.iter_mut().zip(sum).for_each(|(x, y)| *x += y);
        (self.see)(Seen { maker: norm.weight.0.clone(), readers, tokens: s.tokens.len(), squares, columns });
        Ok(())
    }
}

impl<W: Published> Pass for Survey<'_, W> {
    type Tensors = Unread;
    type State = KvLayer;

    fn embed(&mut self, table: &TensorSpec, tokens: &[u32]) -> Result<(), Fault> {
        let rows = self.weights.rows(table, tokens);
        self.fused.s.hidden = self.had(rows)?;
        Ok(())
    }

    fn heads(
        &mut self,
        norm: &Norm<Named>,
        qkv: &[TensorSpec; 3],
        biases: Option<&[Named; 3]>,
        norms: Option<&[Norm<Named>; 2]>,
        shape: &Attention,
    ) -> Result<(), Fault> {
        let (own, mut columns) = (plain(norm), Vec::new());
        let matrices = [self.matrix(&qkv[0])?, self.matrix(&qkv[1])?, self.matrix(&qkv[2])?];
        matrices.iter().for_each(|m| add_columns(self.fused.team, m, &mut columns));
        let (squares, tokens) = (self.normed_squares(&own), self.fused.s.tokens.len());
        (self.see)(Seen { maker: norm.weight.0.clone(), readers: qkv.to_vec(), tokens, squares, columns });
        let biases = biases.map(|b| b.each_ref().map(|(_, values)| values.clone()));
        let norms = norms.map(|n| n.each_ref().map(plain));
        self.fused.heads(&own, &matrices, biases.as_ref(), norms.as_ref(), shape)
    }

    fn attend(&mut self, states: &mut [&mut KvLayer], shape: &Attention) -> Result<(), Fault> {
        self.fused.attend(states, shape)
    }

    fn add_attended(&mut self, output: &TensorSpec, bias: Option<&Named>) -> Result<(), Fault> {
        let output = self.matrix(output)?;
        self.fused.add_attended(&output, bias.map(|(_, values)| values))
    }

    fn route(&mut self, norm: &Norm<Named>, routers: &[TensorSpec], router: &Router) -> Result<(), Fault> {
        let each = routers.iter().map(|spec| self.matrix(spec)).collect::<Result<Vec<_>, _>>()?;
        self.routers = routers.to_vec();
        self.fused.route(&plain(norm), &each, router)
    }

    fn add_experts(&mut self, norm: &Norm<Named>, experts: &Vec<[TensorSpec; 3]>, shared: Option<&Vec<[TensorSpec; 3]>>) -> Result<(), Fault> {
        let s = &*self.fused.s;
        let per_token = s.routes.len() / s.tokens.len();
        let mut each: Vec<Taking> = experts.iter().map(|specs| (specs, Vec::new())).collect();
        for (i, (expert, weight)) in s.routes.iter().enumerate() {
            each[*expert as usize].1.push(((i / per_token) as u32, *weight));
        }
        let all = || s.shared_routes.iter().zip(0..).map(|((_, weight), token)| (token, *weight)).collect();
        each.extend(shared.into_iter().flatten().map(|specs| (specs, all())));
        let routers = std::mem::take(&mut self.routers);
        self.mlps(norm, &each, routers)
    }

    fn add_mlp(&mut self, norm: &Norm<Named>, mlp: &Vec<[TensorSpec; 3]>) -> Result<(), Fault> {
        let all = self.fused.s.tokens.iter().map(|token| (*token, 1.0)).collect();
        self.mlps(norm, &[(&mlp[0], all)], Vec::new())
    }
}
