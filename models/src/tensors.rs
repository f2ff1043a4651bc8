//! Every tensor of a checkpoint: its name, role and shape, derived from the [`Config`] alone.
use crate::Config;
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

/// The tensors outside the layers.
pub(crate) struct EndSpecs {
    pub embedding: TensorSpec,
    pub norm: TensorSpec,
    /// None where the embedding is the head.
    pub head: Option<TensorSpec>,
}

/// The tensors of one layer.
pub(crate) struct LayerSpecs {
    pub input_norm: TensorSpec,
    pub qkv: [TensorSpec; 3],
    pub qkv_bias: Option<[TensorSpec; 3]>,
    pub qk_norm: Option<[TensorSpec; 2]>,
    pub output: TensorSpec,
    pub output_bias: Option<TensorSpec>,
    pub post_norm: TensorSpec,
    /// None in a dense layer.
    pub router: Option<TensorSpec>,
    /// Gate, up and down of every expert; one expert in a dense layer.
    pub experts: Vec<[TensorSpec; 3]>,
    pub shared: Option<SharedSpecs>,
}

/// The tensors of a shared expert.
pub(crate) struct SharedSpecs {
    pub router: TensorSpec,
    /// Gate, up and down.
    pub expert: [TensorSpec; 3],
}

impl Config {
    /// Every tensor of the checkpoint, in order of computation.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let ends = self.ends();
        let mut all = vec![ends.embedding];
        for layer in 0..self.num_hidden_layers {
            let l = self.layer(layer);
            all.push(l.input_norm);
            all.extend(l.qkv);
            all.extend(l.qkv_bias.into_iter().flatten());
            all.extend(l.qk_norm.into_iter().flatten());
            all.push(l.output);
            all.extend(l.output_bias);
            all.push(l.post_norm);
            all.extend(l.router);
            all.extend(l.experts.into_iter().flatten());
            if let Some(shared) = l.shared {
                all.push(shared.router);
                all.extend(shared.expert);
            }
        }
        all.push(ends.norm);
        all.extend(ends.head);
        all
    }

    /// The module, of all experts of a layer, in which MLX keeps a tensor of one.
    pub fn stacked(&self, spec: &TensorSpec) -> Option<String> {
        let name = match spec.kind {
            Kind::Gate => "gate_proj",
            Kind::Up => "up_proj",
            Kind::Down => "down_proj",
            _ => return None,
        };
        spec.expert.and(spec.layer).map(|layer| format!("model.layers.{layer}.{}.switch_mlp.{name}", self.names.moe))
    }

    pub(crate) fn ends(&self) -> EndSpecs {
        let spec = |name: &str, shape: Vec<usize>, kind| TensorSpec { name: format!("{name}.weight"), shape, kind, layer: None, expert: None };
        let table = vec![self.vocab_size, self.hidden_size];
        EndSpecs {
            embedding: spec("model.embed_tokens", table.clone(), Kind::Embedding),
            norm: spec("model.norm", vec![self.hidden_size], Kind::Norm),
            head: (!self.tie_word_embeddings).then(|| spec("lm_head", table, Kind::Head)),
        }
    }

    pub(crate) fn layer(&self, layer: usize) -> LayerSpecs {
        let (hidden, names) = (self.hidden_size, &self.names);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let spec = |name: String, shape: Vec<usize>, kind| TensorSpec {
            name: format!("model.layers.{layer}.{name}"),
            shape,
            kind,
            layer: Some(layer),
            expert: None,
        };
        let norm = |name: &str, n| spec(format!("{name}.weight"), vec![n], Kind::Norm);
        let project = |name: &str, n, kind| spec(format!("self_attn.{name}_proj.weight"), vec![n, hidden], kind);
        let bias = |name: &str, n| spec(format!("self_attn.{name}_proj.bias"), vec![n], Kind::Bias);
        let gated = |prefix: String, [gate, up, down]: [&str; 3], width, kinds: [Kind; 3]| {
            [
                spec(format!("{prefix}.{gate}.weight"), vec![width, hidden], kinds[0]),
                spec(format!("{prefix}.{up}.weight"), vec![width, hidden], kinds[1]),
                spec(format!("{prefix}.{down}.weight"), vec![hidden, width], kinds[2]),
            ]
        };
        const ROUTED: [Kind; 3] = [Kind::Gate, Kind::Up, Kind::Down];
        const SHARED: [Kind; 3] = [Kind::SharedGate, Kind::SharedUp, Kind::SharedDown];
        const PLAIN: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
        let sparse = self.sparse[layer];
        let moe = names.moe;
        let experts = if sparse {
            let expert = |e: usize| {
                gated(format!("{moe}.experts.{e}"), names.expert, self.moe_intermediate_size, ROUTED).map(|s| TensorSpec { expert: Some(e), ..s })
            };
            (0..self.num_experts).map(expert).collect()
        } else {
            vec![gated("mlp".to_string(), PLAIN, self.intermediate_size, ROUTED)]
        };
        let shared = self.shared_expert_intermediate_size.filter(|_| sparse).map(|width| SharedSpecs {
            router: spec(format!("{moe}.shared_expert_gate.weight"), vec![1, hidden], Kind::SharedRouter),
            expert: gated(format!("{moe}.shared_expert"), PLAIN, width, SHARED),
        });
        LayerSpecs {
            input_norm: norm("input_layernorm", hidden),
            qkv: [project("q", q, Kind::Query), project("k", kv, Kind::Key), project("v", kv, Kind::Value)],
            qkv_bias: self.qkv_bias.then(|| [bias("q", q), bias("k", kv), bias("v", kv)]),
            qk_norm: self.qk_norm.then(|| [norm("self_attn.q_norm", self.head_dim), norm("self_attn.k_norm", self.head_dim)]),
            output: spec("self_attn.o_proj.weight".to_string(), vec![hidden, q], Kind::Output),
            output_bias: self.output_bias.then(|| bias("o", hidden)),
            post_norm: norm("post_attention_layernorm", hidden),
            router: sparse.then(|| spec(format!("{moe}.gate.weight"), vec![self.num_experts, hidden], Kind::Router)),
            experts,
            shared,
        }
    }
}
