//! A tensor of a checkpoint: its name, role and shape. Which there are, the parts say ([`Description::tensors`](crate::Description::tensors)).
use std::fmt;

/// The role of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Rows per vocabulary entry; also the head where embeddings are tied.
    Embedding,
    /// (vocab_size, hidden_size): hidden state to logits.
    Head,
    /// Query projection of attention.
    Query,
    /// Key projection of attention.
    Key,
    /// Value projection of attention.
    Value,
    /// Output projection of attention.
    Output,
    /// What queries are made of, of an attention over latents.
    QueryDown,
    /// Latents, and what their keys tell positions by.
    LatentDown,
    /// (heads of latent numbers, numbers of a query): queries for latents, of those for keys.
    KeyUp,
    /// (heads of numbers of a value, latent numbers): values of latents.
    ValueUp,
    /// (num_experts, hidden_size): which experts a token takes.
    Router,
    /// Gate projection of an expert, or of a dense layer's MLP (then without an expert number).
    Gate,
    /// Up projection, likewise.
    Up,
    /// Down projection, likewise.
    Down,
    /// Gate projection of the shared expert.
    SharedGate,
    /// Up projection of the shared expert.
    SharedUp,
    /// Down projection of the shared expert.
    SharedDown,
    /// (1, hidden_size): how much a token takes of the shared expert.
    SharedRouter,
    /// Queries, keys and values of a delta net, and its gates where they are in the same matrix.
    DeltaInput,
    /// Gates of a delta net's results.
    DeltaGate,
    /// (value heads, hidden_size), or twice as many: what betas or decays of a delta net come from.
    DeltaRates,
    /// Output projection of a delta net.
    DeltaOutput,
    /// What a delta net has besides: its convolution, how fast heads forget, the norm of its results.
    Recurrence,
    /// Weight of an RMS norm.
    Norm,
    /// Bias of a projection.
    Bias,
}

impl Kind {
    /// Whether tensors of this kind are matrices.
    pub const fn is_matrix(self) -> bool {
        !matches!(self, Kind::Norm | Kind::Bias | Kind::Recurrence)
    }

    /// Whether tensors of this kind are small and decide what large ones do.
    pub const fn steers(self) -> bool {
        matches!(self, Kind::Router | Kind::SharedRouter | Kind::DeltaRates)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Kind::Embedding => "embed",
            Kind::Head => "head",
            Kind::Query => "q",
            Kind::Key => "k",
            Kind::Value => "v",
            Kind::Output => "o",
            Kind::QueryDown => "q_a",
            Kind::LatentDown => "kv_a",
            Kind::KeyUp => "k_up",
            Kind::ValueUp => "v_up",
            Kind::Router => "router",
            Kind::Gate => "gate",
            Kind::Up => "up",
            Kind::Down => "down",
            Kind::SharedGate => "shared_gate",
            Kind::SharedUp => "shared_up",
            Kind::SharedDown => "shared_down",
            Kind::SharedRouter => "shared_router",
            Kind::DeltaInput => "delta_in",
            Kind::DeltaGate => "delta_gate",
            Kind::DeltaRates => "delta_rates",
            Kind::DeltaOutput => "delta_out",
            Kind::Recurrence => "recurrence",
            Kind::Norm => "norm",
            Kind::Bias => "bias",
        })
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// As in the checkpoint.
    pub name: String,
    /// (out, in) of a matrix, as it is stored of others.
    pub shape: Vec<usize>,
    /// Its role.
    pub kind: Kind,
    /// The layer it belongs to; none for the embedding, the head and the final norm.
    pub layer: Option<usize>,
    /// The routed expert it belongs to.
    pub expert: Option<usize>,
}
