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
    /// Weight of an RMS norm.
    Norm,
    /// Bias of a projection.
    Bias,
}

impl Kind {
    /// Whether tensors of this kind are matrices: everything but norms and biases.
    pub const fn is_matrix(self) -> bool {
        !matches!(self, Kind::Norm | Kind::Bias)
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
            Kind::Router => "router",
            Kind::Gate => "gate",
            Kind::Up => "up",
            Kind::Down => "down",
            Kind::SharedGate => "shared_gate",
            Kind::SharedUp => "shared_up",
            Kind::SharedDown => "shared_down",
            Kind::SharedRouter => "shared_router",
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
    /// (out, in) of a matrix, (n,) of a norm or bias.
    pub shape: Vec<usize>,
    /// Its role.
    pub kind: Kind,
    /// The layer it belongs to; none for the embedding, the head and the final norm.
    pub layer: Option<usize>,
    /// The routed expert it belongs to.
    pub expert: Option<usize>,
}
