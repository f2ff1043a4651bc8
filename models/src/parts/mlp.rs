//! The MLP of a layer: one that every token takes, or a mixture of experts.
use super::{At, MatrixOf, Supply, VectorOf};
use crate::{
    backend::{Mlps, Needs, Norm, Pass, Tensors},
    description::{self, Gated},
    forward_error::Fault,
    tensors::{Kind, TensorSpec},
};
use ram_kernels::Taken;

const ROUTED: [Kind; 3] = [Kind::Gate, Kind::Up, Kind::Down];
const SHARED: [Kind; 3] = [Kind::SharedGate, Kind::SharedUp, Kind::SharedDown];

/// Its tensors.
#[derive(Debug)]
pub struct Mlp<T: Tensors> {
    norm: Norm<T::Vector>,
    kind: Of<T>,
}

#[derive(Debug)]
enum Of<T: Tensors> {
    /// One expert that every token takes.
    Dense(T::Experts),
    Sparse {
        router: description::Router,
        /// What is added to logits, and to scores.
        more: [Option<T::Vector>; 2],
        /// That of the experts, and that of the shared one where it has one.
        routers: Vec<T::Matrix>,
        experts: T::Experts,
        shared: Option<T::Experts>,
    },
}

impl Gated {
    /// Gate, up and down; of an expert with a number where there are several in the module.
    fn build<S: Supply>(&self, kinds: [Kind; 3], expert: Option<usize>, at: At, from: &mut S) -> Result<[MatrixOf<S>; 3], S::Error> {
        let module = expert.map_or(self.names.module.to_string(), |e| format!("{}.{e}", self.names.module));
        let mut matrix = |i: usize, shape| {
            let spec = at.spec(&format!("{module}.{}.weight", self.names.projections[i]), shape, kinds[i]);
            from.matrix(TensorSpec { expert, ..spec })
        };
        let (wide, narrow) = (vec![self.width, at.hidden_size], vec![at.hidden_size, self.width]);
        Ok([matrix(0, wide.clone())?, matrix(1, wide)?, matrix(2, narrow)?])
    }

    /// The biases of an expert's gate, up and down.
    fn biases<S: Supply>(&self, expert: usize, at: At, from: &mut S) -> Result<[VectorOf<S>; 3], S::Error> {
        let mut vector = |i: usize, len| {
            let spec = at.spec(&format!("{}.{expert}.{}.bias", self.names.module, self.names.projections[i]), vec![len], Kind::Bias);
            from.vector(TensorSpec { expert: Some(expert), ..spec })
        };
        Ok([vector(0, self.width)?, vector(1, self.width)?, vector(2, at.hidden_size)?])
    }
}

/// One MLP with silu.
fn one<M, V>(mlp: [M; 3]) -> Mlps<M, V> {
    Mlps { each: vec![mlp], clamped: None, weigh_inputs: false }
}

impl description::Mlp {
    pub(crate) fn needs(&self, hidden_size: usize) -> Needs {
        match self {
            description::Mlp::Dense(mlp) => Needs { mlps: vec![vec![Taken { experts: 1, per_token: 1, width: mlp.width }]], ..Needs::default() },
            description::Mlp::Sparse(m) => {
                let taken = m.router.num_experts_per_tok;
                let shared = m.shared.iter().map(|s| Taken { experts: 1, per_token: 1, width: s.width });
                let routed = Taken { experts: m.num_experts, per_token: taken, width: m.expert.width };
                let mlps = vec![[routed].into_iter().chain(shared).collect()];
                // The shared one's router is a product of its own.
                Needs { inputs: hidden_size, products: m.num_experts + 16, experts: m.num_experts, taken, mlps, ..Needs::default() }
            }
        }
    }
}

impl<T: Tensors> Mlp<T> {
    pub(super) fn build<S: Supply<Tensors = T>>(mlp: &description::Mlp, at: At, from: &mut S) -> Result<Mlp<T>, S::Error> {
        let norm = at.stream_norm(1, from)?;
        let kind = match mlp {
            description::Mlp::Dense(mlp) => Of::Dense(T::experts(one(mlp.build(ROUTED, None, at, from)?))),
            description::Mlp::Sparse(m) => {
                let row = |name: &str, rows, kind| at.spec(&format!("{name}.weight"), vec![rows, at.hidden_size], kind);
                let mut routers = vec![from.matrix(row(m.router_module, m.num_experts, Kind::Router))?];
                let mut more = [None, None];
                if let Some(name) = m.router.bias {
                    more[0] = Some(from.vector(at.spec(name, vec![m.num_experts], Kind::Bias))?);
                }
                if let Some(description::Correction { name, shape }) = &m.router.correction {
                    more[1] = Some(from.vector(at.spec(name, shape.clone(), Kind::Bias))?);
                }
                let each = (0..m.num_experts).map(|e| m.expert.build(ROUTED, Some(e), at, from));
                let each = each.collect::<Result<_, _>>()?;
                let mut clamped = None;
                if let Some(gate) = m.clamped {
                    let biases = (0..m.num_experts).map(|e| m.expert.biases(e, at, from));
                    clamped = Some((gate, biases.collect::<Result<_, _>>()?));
                }
                let experts = T::experts(Mlps { each, clamped, weigh_inputs: m.weigh_inputs });
                let mut shared = None;
                if let Some(mlp) = &m.shared {
                    if m.shared_gate {
                        routers.push(from.matrix(row(&format!("{}_gate", mlp.names.module), 1, Kind::SharedRouter))?);
                    }
                    shared = Some(T::experts(one(mlp.build(SHARED, None, at, from)?)));
                }
                Of::Sparse { router: m.router.clone(), more, routers, experts, shared }
            }
        };
        Ok(Mlp { norm, kind })
    }

    /// Adds the MLP of its norm to the residual stream.
    pub(super) fn forward<P: Pass<Tensors = T>>(&self, pass: &mut P) -> Result<(), Fault> {
        match &self.kind {
            Of::Dense(mlp) => pass.add_mlp(&self.norm, mlp),
            Of::Sparse { router, more, routers, experts, shared } => {
                pass.route(&self.norm, routers, more.each_ref().map(Option::as_ref), router)?;
                pass.add_experts(&self.norm, experts, shared.as_ref())
            }
        }
    }
}
