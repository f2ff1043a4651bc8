//! The MLP of a layer: one that every token takes, or a mixture of experts.
use super::{At, MatrixOf, Supply, VectorOf};
use crate::{
    backend::{Apart, Glu, MlpNorms, Mlps, Needs, Norm, Pass, Tensors},
    description::{self, Activation, Gated, MixtureNorms},
    forward_error::Fault,
    tensors::{Kind, TensorSpec},
};
use ram_kernels::Taken;

const ROUTED: [Kind; 3] = [Kind::Gate, Kind::Up, Kind::Down];
const SHARED: [Kind; 3] = [Kind::SharedGate, Kind::SharedUp, Kind::SharedDown];

/// Its tensors.
#[derive(Debug)]
pub struct Mlp<T: Tensors> {
    norms: MlpNorms<T::Vector>,
    kind: Of<T>,
}

#[derive(Debug)]
enum Of<T: Tensors> {
    /// One expert that every token takes.
    Dense(T::Experts),
    Sparse {
        router: description::Router,
        /// What it reads the stream through, where that is not what experts do.
        norm: Option<Norm<T::Vector>>,
        /// What is added to logits and to scores, and what weights are multiplied with.
        more: [Option<T::Vector>; 3],
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

/// One MLP.
fn one<M, V>(of: &Gated, mlp: [M; 3]) -> Mlps<M, V> {
    let glu = if of.activation == Activation::Gelu { Glu::Gelu } else { Glu::Silu };
    Mlps { each: vec![mlp], glu, weigh_inputs: false }
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
                let results = if m.norms.is_some() { 2 } else { 0 };
                Needs { inputs: hidden_size, products: m.num_experts + 16, results, experts: m.num_experts, taken, mlps, ..Needs::default() }
            }
        }
    }
}

impl<T: Tensors> Mlp<T> {
    pub(super) fn build<S: Supply<Tensors = T>>(mlp: &description::Mlp, at: At, from: &mut S) -> Result<Mlp<T>, S::Error> {
        let before = at.stream_norm(1, from)?;
        let (mut apart, after) = (None, at.norm_after(1, from)?);
        let kind = match mlp {
            description::Mlp::Dense(mlp) => Of::Dense(T::experts(one(mlp, mlp.build(ROUTED, None, at, from)?))),
            description::Mlp::Sparse(m) => {
                let mut norm = None;
                if let Some(MixtureNorms { router, routed, after }) = m.norms {
                    let weight = from.vector(at.spec(router, vec![at.hidden_size], Kind::Norm))?;
                    let times = 1.0 / (at.hidden_size as f32).sqrt();
                    norm = Some(Norm { times, ..Norm::rms(weight, at.eps) });
                    let mut of = |name| at.norm(name, at.hidden_size, from);
                    apart = Some(Apart { routed: of(routed)?, after: [of(after[0])?, of(after[1])?] });
                }
                let row = |name: &str, rows, kind| at.spec(&format!("{name}.weight"), vec![rows, at.hidden_size], kind);
                let mut routers = vec![from.matrix(row(m.router_module, m.num_experts, Kind::Router))?];
                let correction = m.router.correction.as_ref().map(|c| (c.name, c.shape.clone()));
                let by_expert = |name: Option<&'static str>| name.map(|name| (name, vec![m.num_experts]));
                let more = [by_expert(m.router.bias), correction, by_expert(m.router.expert_scale)];
                let mut read = |(name, shape)| from.vector(at.spec(name, shape, Kind::Bias));
                let [bias, correction, scale] = more.map(|tensor| tensor.map(&mut read));
                let more = [bias.transpose()?, correction.transpose()?, scale.transpose()?];
                let each = (0..m.num_experts).map(|e| m.expert.build(ROUTED, Some(e), at, from));
                let each = each.collect::<Result<_, _>>()?;
                let glu = match m.expert.activation {
                    Activation::Silu => Glu::Silu,
                    Activation::Gelu => Glu::Gelu,
                    Activation::Clamped(clamped) => {
                        let biases = (0..m.num_experts).map(|e| m.expert.biases(e, at, from));
                        Glu::Clamped(clamped, biases.collect::<Result<_, _>>()?)
                    }
                };
                let experts = T::experts(Mlps { each, glu, weigh_inputs: m.weigh_inputs });
                let mut shared = None;
                if let Some(mlp) = &m.shared {
                    if m.shared_gate {
                        routers.push(from.matrix(row(&format!("{}_gate", mlp.names.module), 1, Kind::SharedRouter))?);
                    }
                    shared = Some(T::experts(one(mlp, mlp.build(SHARED, None, at, from)?)));
                }
                Of::Sparse { router: m.router.clone(), norm, more, routers, experts, shared }
            }
        };
        Ok(Mlp { norms: MlpNorms { before, apart, after }, kind })
    }

    /// Adds the MLP of its norm to the residual stream.
    pub(super) fn forward<P: Pass<Tensors = T>>(&self, pass: &mut P) -> Result<(), Fault> {
        match &self.kind {
            Of::Dense(mlp) => pass.add_mlp(&self.norms, mlp),
            Of::Sparse { router, norm, more, routers, experts, shared } => {
                let norm = norm.as_ref().unwrap_or(&self.norms.before);
                pass.route(norm, routers, more.each_ref().map(Option::as_ref), router)?;
                pass.add_experts(&self.norms, experts, shared.as_ref())
            }
        }
    }
}
