//! The numbers and flags of an architecture, in `config.json`'s words, and the only place that knows architectures.
pub use crate::json::ConfigError;
use crate::{
    json::Keys,
    quantization::{self, Quantization},
};
use serde::{Serialize, Serializer};

/// What a checkpoint is. Serializes as config.json has it, all that counts and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// As in config.json: `mixtral`, `qwen2_moe` or `qwen3_moe`. For display only.
    pub model_type: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Positions the model was trained for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the embedding is the head too.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    #[serde(rename = "attention_bias")]
    pub output_bias: bool,
    /// Whether every head of q and k is RMS-normalised.
    #[serde(rename = "use_qk_norm")]
    pub qk_norm: bool,
    /// Routed experts of a sparse layer.
    pub num_experts: usize,
    /// Experts that a token takes.
    pub num_experts_per_tok: usize,
    /// Whether the weights of the chosen experts are scaled to sum to 1.
    pub norm_topk_prob: bool,
    /// Width of a routed expert.
    pub moe_intermediate_size: usize,
    /// Width of the shared expert, where there is one.
    pub shared_expert_intermediate_size: Option<usize>,
    /// Width of the MLP of a dense layer.
    pub intermediate_size: usize,
    /// Per layer: whether its MLP is a mixture of experts.
    #[serde(rename = "mlp_only_layers", serialize_with = "dense_layers")]
    pub sparse: Vec<bool>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_id: Vec<u32>,
    /// How the weights are quantized already, where they are.
    #[serde(rename = "quantization_config")]
    pub quantization: Option<Quantization>,
    #[serde(skip)]
    pub(crate) names: Names,
}

/// The words of a layer's tensor names that differ between architectures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Names {
    /// What the router and the experts are under.
    pub moe: &'static str,
    /// An expert's gate, up and down.
    pub expert: [&'static str; 3],
}

const MIXTRAL: Names = Names { moe: "block_sparse_moe", expert: ["w1", "w3", "w2"] };
const COMMON: Names = Names { moe: "mlp", expert: ["gate_proj", "up_proj", "down_proj"] };

#[derive(Clone, Copy, PartialEq)]
enum Architecture {
    Mixtral,
    Qwen2Moe,
    Qwen3Moe,
}
use Architecture::{Mixtral, Qwen2Moe, Qwen3Moe};

/// Keys that do not change what a model computes, whatever their value: training, bookkeeping, and what the tensors themselves say.
const HARMLESS: [&str; 37] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "experts_implementation",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "label2id",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// Keys that change what a model computes unless they are null, false, 0 or empty.
const OFF: [&str; 8] = [
    "add_cross_attention",
    "cross_attention_hidden_size",
    "is_encoder_decoder",
    "mlp_bias",
    "pruned_heads",
    "rope_interleaved",
    "tie_encoder_decoder",
    "use_sliding_window",
];

/// Most of anything that is counted: beyond it a number is a mistake, and products of two of them fit 64 bits.
const MOST: usize = 1 << 24;

impl Config {
    /// Reads the text of a config.json.
    ///
    /// # Errors
    /// Names the key that is missing, senseless, not supported or not known.
    pub fn from_json(text: &str) -> Result<Config, ConfigError> {
        let object = Keys::parse(text)?;
        let mut keys = Keys::new(&object);
        let model_type = keys.need("model_type", Keys::text)?;
        let architecture = match model_type.as_str() {
            "mixtral" => Mixtral,
            "qwen2_moe" => Qwen2Moe,
            "qwen3_moe" => Qwen3Moe,
            _ => return Err(ConfigError::UnknownModelType { found: model_type }),
        };
        let size = |keys: &mut Keys, key: &str| keys.size(key, 1, MOST);

        let hidden_size = keys.need("hidden_size", size)?;
        let num_hidden_layers = keys.need("num_hidden_layers", |k, key| k.size(key, 1, 4096))?;
        let num_attention_heads = keys.need("num_attention_heads", size)?;
        let num_key_value_heads = keys.need("num_key_value_heads", size)?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(keys.invalid("num_key_value_heads", &format!("a divisor of num_attention_heads, {num_attention_heads}")));
        }
        let head_dim = match size(&mut keys, "head_dim")? {
            Some(n) if n % 2 == 0 => n,
            Some(_) => return Err(keys.invalid("head_dim", "an even number: rotary positions turn pairs")),
            None if hidden_size.is_multiple_of(2 * num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                return Err(keys.invalid(
                    "hidden_size",
                    &format!("an even multiple of num_attention_heads, {num_attention_heads}, where head_dim is not given"),
                ));
            }
        };
        let max_position_embeddings = keys.need("max_position_embeddings", |k, key| k.size(key, 1, 1 << 30))?;
        let intermediate_size = size(&mut keys, "intermediate_size")?;

        let num_experts = match (keys.size("num_experts", 1, 65_536)?, keys.size("num_local_experts", 1, 65_536)?) {
            (Some(a), Some(b)) if a != b => return Err(keys.invalid("num_local_experts", &format!("the same as num_experts, {a}"))),
            (Some(n), _) | (None, Some(n)) => n,
            // All families have both names, by the version of the tool that wrote the file.
            (None, None) => return Err(ConfigError::Missing { key: "num_experts or num_local_experts".to_string() }),
        };
        let num_experts_per_tok = keys.need("num_experts_per_tok", size)?;
        if num_experts_per_tok > num_experts {
            return Err(keys.invalid("num_experts_per_tok", &format!("at most the number of experts, {num_experts}")));
        }

        let (moe_intermediate_size, norm_topk_prob, sparse) = match architecture {
            Mixtral => (keys.present("intermediate_size", intermediate_size)?, true, vec![true; num_hidden_layers]),
            Qwen2Moe | Qwen3Moe => {
                (keys.need("moe_intermediate_size", size)?, keys.need("norm_topk_prob", Keys::flag)?, sparse_layers(&mut keys, num_hidden_layers)?)
            }
        };
        let shared_expert_intermediate_size = match architecture {
            Qwen2Moe => Some(keys.need("shared_expert_intermediate_size", size)?),
            Mixtral | Qwen3Moe => keys.off("shared_expert_intermediate_size").map(|()| None)?,
        };
        // Qwen2-MoE calls it `qkv_bias`, Qwen3-MoE `attention_bias`, which then is on the output too.
        let output_bias = architecture == Qwen3Moe && keys.flag("attention_bias")?.unwrap_or(false);
        let qkv_bias = if architecture == Qwen2Moe { keys.flag("qkv_bias")?.unwrap_or(true) } else { output_bias };
        keys.only("qkv_bias", qkv_bias)?;
        keys.only("attention_bias", output_bias)?;
        let qk_norm = architecture == Qwen3Moe;
        keys.only("use_qk_norm", qk_norm)?;

        let window = keys.size("sliding_window", 0, usize::MAX)?.unwrap_or(0);
        // The Qwen families have a switch besides, `use_sliding_window`, which must be off; then this number means nothing.
        if architecture == Mixtral && window > 0 && window < max_position_embeddings {
            return Err(keys.unsupported("sliding_window", "attention over the whole context (null, or at least max_position_embeddings)"));
        }
        keys.every("layer_types", num_hidden_layers, "full_attention")?;
        for (key, only) in [("hidden_act", "silu"), ("position_embedding_type", "rotary")] {
            if keys.text(key)?.is_some_and(|found| found != only) {
                return Err(keys.unsupported(key, &format!("'{only}'")));
            }
        }
        for key in ["dtype", "torch_dtype"] {
            if keys.text(key)?.is_some_and(|found| !["bfloat16", "float16", "float32"].contains(&found.as_str())) {
                return Err(keys.unsupported(key, "bfloat16, float16 and float32"));
            }
        }

        let config = Config {
            vocab_size: keys.need("vocab_size", size)?,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: keys.need("rms_norm_eps", |k, key| k.number(key, 0.0, 1.0))?,
            rope_theta: rope_theta(&mut keys)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias,
            output_bias,
            qk_norm,
            num_experts,
            num_experts_per_tok,
            norm_topk_prob,
            moe_intermediate_size,
            shared_expert_intermediate_size,
            intermediate_size: if sparse.iter().all(|s| *s) {
                intermediate_size.unwrap_or(0)
            } else {
                keys.present("intermediate_size", intermediate_size)?
            },
            sparse,
            bos_token_id: keys.token("bos_token_id")?,
            eos_token_id: keys.tokens("eos_token_id")?,
            quantization: quantization::read(&mut keys, text)?,
            names: if architecture == Mixtral { MIXTRAL } else { COMMON },
            model_type,
        };
        OFF.into_iter().try_for_each(|key| keys.off(key))?;
        keys.all_known(&HARMLESS)?;
        config.check_total()?;
        Ok(config)
    }

    /// Takes a Mixtral's names as transformers 5 has them in memory, and as tools write them that save what is there, where a
    /// tensor has such a name.
    pub fn adopt_names<'a>(&mut self, mut stored: impl Iterator<Item = &'a str>) {
        if self.names == MIXTRAL && stored.any(|name| name.contains(".mlp.experts.")) {
            self.names = COMMON;
        }
    }

    /// A model of more than 2^44 weights, 35 TB, is a mistake in some number, and its sizes could overflow.
    fn check_total(&self) -> Result<(), ConfigError> {
        let (hidden, heads) = (self.hidden_size as f64, (self.num_attention_heads + self.num_key_value_heads) as f64);
        let attention = 2.0 * hidden * heads * self.head_dim as f64;
        let experts = self.num_experts as f64 * self.moe_intermediate_size as f64 + self.shared_expert_intermediate_size.unwrap_or(0) as f64;
        let mlp = 3.0 * hidden * experts.max(self.intermediate_size as f64);
        let total = self.num_hidden_layers as f64 * (attention + mlp) + 2.0 * hidden * self.vocab_size as f64;
        // Also bounds the list of tensors, which is made before any file is looked at: to some 30 MB, at twice the experts of any known model.
        let experts = self.num_hidden_layers * self.num_experts;
        if total <= (1u64 << 44) as f64 && experts <= 1 << 16 {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            key: "num_hidden_layers".to_string(),
            found: self.num_hidden_layers.to_string(),
            expected: "a number that with the other sizes gives a model of at most 2^44 weights and 2^16 experts".to_string(),
        })
    }
}

/// Which layers are mixtures of experts: every `decoder_sparse_step`-th, except `mlp_only_layers`.
fn sparse_layers(keys: &mut Keys, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let step = keys.size("decoder_sparse_step", 1, MOST)?.unwrap_or(1);
    let dense = keys.tokens("mlp_only_layers")?;
    if dense.iter().any(|&l| l as usize >= layers) {
        return Err(keys.invalid("mlp_only_layers", &format!("numbers of layers, below {layers}")));
    }
    Ok((0..layers).map(|l| (l + 1).is_multiple_of(step) && !dense.contains(&(l as u32))).collect())
}

/// Layers that are no mixtures of experts, by number.
fn dense_layers<S: Serializer>(sparse: &[bool], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(sparse.iter().enumerate().filter(|(_, sparse)| !**sparse).map(|(layer, _)| layer))
}

/// The base of the rotary frequencies, from either dialect: `rope_theta`, or `rope_parameters` with it inside.
fn rope_theta(keys: &mut Keys) -> Result<f64, ConfigError> {
    keys.whole("partial_rotary_factor")?;
    let mut theta = keys.number("rope_theta", f64::MIN_POSITIVE, f64::MAX)?;
    for object in ["rope_parameters", "rope_scaling"] {
        let Some(mut inner) = keys.inner(object)? else { continue };
        for key in ["rope_type", "type"] {
            if inner.text(key)?.is_some_and(|found| found != "default") {
                return Err(inner.unsupported(key, "'default'"));
            }
        }
        inner.whole("partial_rotary_factor")?;
        let here = inner.number("rope_theta", f64::MIN_POSITIVE, f64::MAX)?;
        if theta.is_some() && here.is_some() && theta != here {
            return Err(inner.invalid("rope_theta", "the same number in both places"));
        }
        theta = theta.or(here);
        inner.all_known(&[])?;
    }
    theta.ok_or(ConfigError::Missing { key: "rope_theta".to_string() })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
