//! What a model computes, in words that all families share. Data only: `arch/` writes it, `parts/` compute it.
pub use crate::json::ConfigError;
use crate::{Quantization, rope::Rope};
pub use ram_kernels::DeltaShape;

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// As in config.json, for display only.
    pub model_type: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Positions that the model can tell apart.
    pub max_position_embeddings: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// How the residual stream is normalised.
    pub norm: StreamNorm,
    /// What the embedding's rows are multiplied with.
    pub embedding_multiplier: f64,
    /// What logits are divided by.
    pub logits_scaling: f64,
    /// What logits come near and never reach, where there is something: they are that times the tangent of their part of it.
    pub logits_cap: Option<f64>,
    /// A number of every layer that all of the stream is multiplied with behind it, where there is one: a tensor.
    pub(crate) layer_scalar: Option<&'static str>,
    /// Whether the embedding is the head too.
    pub tie_word_embeddings: bool,
    /// Whether something is added to logits: the head's bias.
    pub head_bias: bool,
    /// Whether files have the weights of norms less 1, but those behind a delta net.
    pub norms_less_one: bool,
    /// What the names of tensors begin with.
    pub(crate) names: Names,
    /// What they may begin with as well.
    pub(crate) also: &'static [Names],
    /// In order of computation.
    pub layers: Vec<Layer>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_id: Vec<u32>,
    /// How the weights are quantized already, where they are.
    pub quantization: Option<Quantization>,
    /// Tensors that a checkpoint may have and that are not read, because the model's texts do not depend on them.
    pub left_out: Vec<LeftOut>,
}

/// How a row of the residual stream is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamNorm {
    /// By the root of its mean square.
    Rms,
    /// The same around its mean, with something added where it has a bias: layer norm.
    Layer {
        /// Whether it has one.
        bias: bool,
    },
}

/// Tensors that are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What their names begin with.
    pub prefix: String,
    /// What they are.
    pub what: &'static str,
}

/// What the names of a model's tensors begin with, and are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Begins all but the head's.
    pub model: &'static str,
    pub head: &'static str,
    pub embedding: &'static str,
    pub layers: &'static str,
    pub norm: &'static str,
    /// Of a layer, what its mixer and what its MLP read the stream through.
    pub norms: [&'static str; 2],
    /// What their results are normalised by before they are added, where they are.
    pub after: Option<[&'static str; 2]>,
}

/// As most families have them.
pub(crate) const NAMES: Names = Names {
    model: "model",
    head: "lm_head",
    embedding: "embed_tokens",
    layers: "layers",
    norm: "norm",
    norms: ["input_layernorm", "post_attention_layernorm"],
    after: None,
};

/// A layer adds what its mixer, then what its MLP gives to the residual stream; both read it through a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Who looks at whom.
    pub mixer: Mixer,
    /// What is made of that.
    pub mlp: Mlp,
}

/// How tokens learn of those before them.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// They look at them.
    Attention(Box<Attention>),
    /// They look at what is kept of them for all heads together.
    Latent(Box<Latent>),
    /// They read what was made of them.
    DeltaNet(DeltaNet),
}

impl Mixer {
    /// The attention, where it is one, to be changed.
    pub fn attention_mut(&mut self) -> Option<&mut Attention> {
        match self {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Latent(_) | Mixer::DeltaNet(_) => None,
        }
    }

    /// Heads whose keys are kept.
    pub fn key_value_heads(&self) -> usize {
        match self {
            Mixer::Attention(attention) => attention.num_key_value_heads,
            Mixer::Latent(_) => 1,
            Mixer::DeltaNet(_) => 0,
        }
    }

    /// How positions turn what it makes, where they do.
    pub fn rope(&self) -> Option<&Rope> {
        match self {
            Mixer::Attention(attention) => Some(&attention.rope),
            Mixer::Latent(latent) => Some(&latent.rope),
            Mixer::DeltaNet(_) => None,
        }
    }

    /// The attention, where it is one.
    pub fn attention(&self) -> Option<&Attention> {
        match self {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Latent(_) | Mixer::DeltaNet(_) => None,
        }
    }
}

/// Multi-head latent attention (DeepSeek-AI, arXiv 2405.04434): keys and values of all heads are products of one vector of a token, the
/// latent, beside which every key has the same few numbers that tell positions. The latent and those are kept. Queries are multiplied with what makes
/// keys of latents, and the latents that they find with what makes values, so that no token's keys and values are ever made.
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// Numbers that the queries of a token are made of, where it is not the stream.
    pub q_lora_rank: Option<usize>,
    /// Numbers of a latent.
    pub kv_lora_rank: usize,
    /// Numbers of a query or a key that do not tell positions.
    pub qk_nope_head_dim: usize,
    /// Those that do, behind them.
    pub qk_rope_head_dim: usize,
    /// Numbers of a value.
    pub v_head_dim: usize,
    /// How positions turn them.
    pub rope: Rope,
    /// What the products of queries and keys are multiplied with.
    pub scale: f64,
    /// Added to the mean square in the norms of latents, and of what queries are made of.
    pub eps: f64,
}

impl Latent {
    /// Numbers that are kept of a token: its latent, and what its keys tell positions by.
    pub fn kept(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Numbers of a query.
    pub fn query(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }
}

/// A gated delta net (Yang, Kautz and Hatamizadeh, arXiv 2412.06464): a convolution, a memory per head, a gated norm.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNet {
    /// Its sizes.
    pub shape: DeltaShape,
    /// Whether queries, keys, values and gates are of one matrix, and what betas and decays come from of another, both by key head; else they
    /// are of four.
    pub packed: bool,
}

/// Causal attention with grouped queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Whether queries have a gate each: numbers whose sigmoid the result is multiplied with, in the same matrix behind each head.
    pub gated: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub output_bias: bool,
    /// Between which numbers q, k and v are kept before they are normalised: it and less than nothing by as much.
    pub clip: Option<f64>,
    /// How q and k are RMS-normalised, where they are.
    pub qk_norm: Option<QkNorm>,
    /// How positions turn q and k.
    pub rope: Rope,
    /// How many tokens a query looks at, up to its own; without it all.
    pub window: Option<usize>,
    /// Texts are pieces of so many tokens, and a query looks at its own piece alone.
    pub chunk: Option<usize>,
    /// What is added to the mean square where queries and keys are RMS-normalised after they are turned, without weights.
    pub unit_heads: Option<f64>,
    /// Whether values are what keys are before these are normalised.
    pub tied_values: bool,
    /// What is added to the mean square where values are RMS-normalised, without weights.
    pub unit_values: Option<f64>,
    /// What queries are multiplied with by their positions.
    pub temperature: Option<Temperature>,
    /// Whether every head has a score that takes weight and has no value.
    pub sinks: bool,
    /// What the products of q and k are multiplied with, where it is not `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    /// What its result is multiplied with before it is added.
    pub multiplier: f64,
    pub(crate) names: AttentionNames,
}

/// Tensor names of an [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionNames {
    pub module: &'static str,
    pub output: &'static str,
    /// Queries, keys and values where files have them in one matrix, one after the other.
    pub joined: Option<&'static str>,
}

/// Queries are longer the later they come: `1 + scale ln(1 + floor((position + 1) / floor))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Tokens of which all have the same.
    pub floor: f64,
    /// How much longer.
    pub scale: f64,
}

impl Temperature {
    /// What a query at a position is multiplied with.
    pub fn at(self, position: usize) -> f64 {
        1.0 + self.scale * ((position as f64 + 1.0) / self.floor).floor().ln_1p()
    }
}

impl Attention {
    /// One of so many heads that has nothing special.
    pub(crate) fn plain([num_attention_heads, num_key_value_heads, head_dim]: [usize; 3], rope: Rope) -> Attention {
        Attention {
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            gated: false,
            qkv_bias: false,
            output_bias: false,
            clip: None,
            qk_norm: None,
            rope,
            window: None,
            chunk: None,
            unit_heads: None,
            tied_values: false,
            unit_values: None,
            temperature: None,
            sinks: false,
            scale: None,
            multiplier: 1.0,
            names: AttentionNames { module: "self_attn", output: "o_proj", joined: None },
        }
    }

    /// How many tokens are held at the least for what queries look at, where that is not all.
    pub(crate) fn held(&self) -> Option<usize> {
        self.window.into_iter().chain(self.chunk).min()
    }
}

/// RMS norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// What is normalised, and when.
    pub of: Normed,
    /// The modules of both.
    pub(crate) names: [&'static str; 2],
}

/// What an RMS norm of queries and keys takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normed {
    /// Each head, before it is turned.
    Heads,
    /// Each head, after it is turned.
    TurnedHeads,
    /// All heads as one, before they are turned.
    All,
}

/// The MLP of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Mlp {
    /// One that every token takes.
    Dense(Gated),
    /// A mixture of experts.
    Sparse(Box<Mixture>),
}

/// `down (silu(gate x) * (up x))`, or what its activation says.
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// Numbers between up and down.
    pub width: usize,
    /// What is made of the products of gate and up.
    pub activation: Activation,
    /// The module it is in, and its gate, up and down.
    pub(crate) names: GatedNames,
}

impl Gated {
    /// With silu.
    pub(crate) fn new(width: usize, names: GatedNames) -> Gated {
        Gated { width, activation: Activation::Silu, names }
    }
}

/// What is made of the products of gate and up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, of the form with a tangent.
    Gelu,
    /// gpt-oss'; all three projections have biases then.
    Clamped(Clamped),
}

/// Tensor names of a [`Gated`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GatedNames {
    pub module: &'static str,
    pub projections: [&'static str; 3],
}

/// Routed experts, and one that every token takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Routed experts.
    pub num_experts: usize,
    /// How a token chooses among them.
    pub router: Router,
    /// Each of them; its module has one below it for each expert, by number.
    pub expert: Gated,
    /// The one that every token takes.
    pub shared: Option<Gated>,
    /// Whether that is weighted by the sigmoid of a product with a row of its own.
    pub shared_gate: bool,
    /// What the experts and their names would be under as well.
    pub(crate) also: Option<MixtureNames>,
    /// Norms of its own.
    pub(crate) norms: Option<MixtureNorms>,
    /// Whether a token's weights multiply what routed experts take, not what they give.
    pub weigh_inputs: bool,
    /// The module of the router.
    pub(crate) router_module: &'static str,
    /// Tensors of all experts, where files have them so.
    pub(crate) fused: Option<Fused>,
}

/// `(up + 1) gate sigmoid(alpha gate)` of gates up to `limit` and ups within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamped {
    /// The largest gate and up.
    pub limit: f64,
    /// What gates are multiplied with in the sigmoid.
    pub alpha: f64,
}

/// Tensors in which files have those of all experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fused {
    pub matrices: FusedMatrices,
    /// What they end with, and what each is of an expert.
    pub ends: &'static [(&'static str, &'static str)],
    /// What they end with where their inputs come first.
    pub turned: Option<&'static str>,
}

/// Which tensors those are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FusedMatrices {
    /// `gate_up` (experts, 2 width, in) and `down` (experts, out, width).
    Two {
        gate_up: &'static str,
        down: &'static str,
        /// Whether rows of gate and up take turns; else all of the gate's come first.
        turns: bool,
    },
    /// Gate and up (experts width, in), and down with its inputs first (experts width, out).
    Flat([&'static str; 3]),
}

impl Fused {
    /// Gate and up in one tensor, one after the other.
    pub(crate) fn two(gate_up: &'static str, down: &'static str, ends: &'static [(&'static str, &'static str)]) -> Fused {
        Fused { matrices: FusedMatrices::Two { gate_up, down, turns: false }, ends, turned: None }
    }
}

/// Where tensors of one expert lie in some of all.
pub struct Stacked {
    /// The tensors of all, but for what they end with.
    pub name: String,
    /// Of those rows that are the expert's, which part, of how many.
    pub part: [usize; 2],
    /// Whether rows of the parts take turns.
    pub turns: bool,
    /// What they end with, and what the expert's own do.
    pub ends: &'static [(&'static str, &'static str)],
    /// What the one of weights ends with where their inputs come first.
    pub turned: Option<&'static str>,
    /// Whether the first dimension is experts and rows at once.
    pub flat: bool,
}

/// Where the rows of a matrix lie that is one of several, which take turns by head in a stored one.
#[derive(Clone, Debug)]
pub struct ByHead {
    /// The stored one.
    pub name: String,
    /// Heads.
    pub heads: usize,
    /// Rows that a head has there.
    pub rows: usize,
    /// Their length.
    pub stored: usize,
    /// Which of those are this matrix'.
    pub own: std::ops::Range<usize>,
    /// Whether the matrix has of every head their columns as rows.
    pub transposed: bool,
}

/// Norms of a mixture whose router, routed experts and shared one read the stream each through another, and whose results are normalised
/// each before they are summed. What the layer's MLP reads the stream through is the shared one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MixtureNorms {
    /// The weights of the router's, which are divided by the root of their number.
    pub router: &'static str,
    /// What the routed experts read the stream through.
    pub routed: &'static str,
    /// Of the results of the routed ones, and of the shared one.
    pub after: [&'static str; 2],
}

/// Tensor names of a [`Mixture`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MixtureNames {
    pub router: &'static str,
    pub expert: GatedNames,
}

/// The `num_experts_per_tok` largest scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Experts that a token takes.
    pub num_experts_per_tok: usize,
    /// What logits become.
    pub score: Score,
    /// What is added to logits: a tensor of the layer.
    pub(crate) bias: Option<&'static str>,
    /// What is added to scores while experts are chosen, and not to the weights of the chosen ones: a tensor of the layer, and its shape.
    pub correction: Option<Correction>,
    /// Experts lie in groups, of some of which a token takes its experts.
    pub groups: Groups,
    /// Whether weights are divided by their sum, or by this if it is larger.
    pub norm_topk_prob: Option<f64>,
    /// What weights are multiplied with then.
    pub scaling: f64,
    /// What they are multiplied with besides, by expert: a tensor of the layer.
    pub(crate) expert_scale: Option<&'static str>,
}

/// Groups of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// Of how many a token takes experts: those with the largest sums of scores.
    pub kept: usize,
    /// Of how many scores those are, the largest of each group: one or two.
    pub summed: usize,
}

impl Groups {
    /// All experts as one.
    pub(crate) const ONE: Groups = Groups { count: 1, kept: 1, summed: 1 };
}

/// The correction of a router's scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    pub(crate) name: &'static str,
    pub(crate) shape: Vec<usize>,
}

/// What a router makes of its logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
    /// One expert after the other, each with the softmax over those that are left and whose logits are not further below the largest than
    /// this part of its size, or of their own: the sparse mixer (Liu, Dong, Chen et al., arXiv 2409.12136).
    Mixer(f32),
}

impl Router {
    /// The softmax of all, or of those that are chosen.
    pub(crate) fn softmax(num_experts_per_tok: usize, norm_topk_prob: bool) -> Router {
        let (score, norm_topk_prob) = (Score::Softmax, norm_topk_prob.then_some(LEAST));
        Router { num_experts_per_tok, score, bias: None, correction: None, groups: Groups::ONE, norm_topk_prob, scaling: 1.0, expert_scale: None }
    }
}

/// Sums of weights are not divided by less: what DeepSeek-V3 adds to them.
pub(crate) const LEAST: f64 = 1e-20;

impl Description {
    /// Takes the other names that tensors may have, where a stored one has one of them: of texts beside images, and Mixtral's as transformers 5
    /// has them in memory, and as tools write them that save what is there.
    pub fn adopt_names<'a>(&mut self, stored: impl Iterator<Item = &'a str> + Clone) {
        let has = |names: &Names| {
            let own = format!("{}.{}.", names.model, names.embedding);
            stored.clone().any(|name| name.starts_with(&own))
        };
        if let Some(names) = self.also.iter().find(|names| has(names)) {
            self.names = *names;
        }
        for mixture in self.layers.iter_mut().filter_map(|l| l.mlp.mixture_mut()) {
            let Some(also) = mixture.also else { continue };
            let module = format!(".{}.", also.expert.module);
            if stored.clone().any(|name| name.contains(&module)) {
                (mixture.router_module, mixture.expert.names, mixture.also) = (also.router, also.expert, None);
            }
        }
    }

    /// The mixture of a layer, where it has one.
    pub fn mixture(&self, layer: usize) -> Option<&Mixture> {
        match &self.layers.get(layer)?.mlp {
            Mlp::Sparse(mixture) => Some(mixture),
            Mlp::Dense(_) => None,
        }
    }

    /// A model of more than 2^44 weights, 35 TB, is a mistake in some number, and its sizes could overflow.
    pub(crate) fn check_total(&self) -> Result<(), ConfigError> {
        let hidden = self.hidden_size as f64;
        let layer = |l: &Layer| {
            let mixer = match &l.mixer {
                Mixer::Attention(a) => 2.0 * (a.num_attention_heads + a.num_key_value_heads) as f64 * a.head_dim as f64,
                Mixer::Latent(l) => (l.num_attention_heads * (l.query() + l.v_head_dim)) as f64 + l.kept() as f64,
                Mixer::DeltaNet(d) => (d.shape.inputs() + d.shape.values()) as f64,
            };
            let (width, experts) = match &l.mlp {
                Mlp::Dense(gated) => (gated.width as f64, 0),
                Mlp::Sparse(m) => (m.num_experts as f64 * m.expert.width as f64 + m.shared.as_ref().map_or(0, |s| s.width) as f64, m.num_experts),
            };
            (hidden * (mixer + 3.0 * width), experts)
        };
        let sum = |(weights, experts): (f64, usize), (w, e): (f64, usize)| (weights + w, experts + e);
        // Experts bound the list of tensors too, which is made before any file is looked at: to some 30 MB, at twice those of any known model.
        let (total, experts) = self.layers.iter().map(layer).fold((2.0 * hidden * self.vocab_size as f64, 0), sum);
        if total <= (1u64 << 44) as f64 && experts <= 1 << 16 {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            key: "num_hidden_layers".to_string(),
            found: self.layers.len().to_string(),
            expected: "a number that with the other sizes gives a model of at most 2^44 weights and 2^16 experts".to_string(),
        })
    }
}

impl Mlp {
    fn mixture_mut(&mut self) -> Option<&mut Mixture> {
        match self {
            Mlp::Sparse(mixture) => Some(mixture),
            Mlp::Dense(_) => None,
        }
    }
}
