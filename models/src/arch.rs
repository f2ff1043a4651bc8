//! The families of models: what each one's config.json says, as a [`Description`]. Nothing else knows a family by name.
//!
//! A family is a file with a `describe` and a line in [`FAMILIES`]. The file says which keys it needs and which it must not have; what
//! several of them share is here.
mod dbrx;
mod deepseek;
mod deepseek_v2;
mod deepseek_v3;
mod delta_net;
mod ernie4_5_moe;
mod gemma4;
mod glm4_moe;
mod gpt_oss;
mod granitemoe;
mod hunyuan_v1_moe;
mod images;
mod llama;
mod llama4;
mod minimax_m2;
mod mistral;
mod mixtral;
mod olmoe;
mod phimoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod rope;

use crate::{
    description::{
        Attention, ConfigError, Correction, Description, Gated, GatedNames, Groups, LEAST, Layer, LeftOut, Mixer, Mixture, Mlp, NAMES, Normed,
        QkNorm, Router, Score, StreamNorm,
    },
    json::Keys,
    quantization,
};
use ram_kernels::Pairs;

type Describe = fn(&mut Keys) -> Result<Description, ConfigError>;

/// Families by `model_type`.
const FAMILIES: [(&str, Describe); 29] = [
    ("dbrx", dbrx::describe),
    ("deepseek_v2", deepseek_v2::describe),
    ("deepseek_v3", deepseek_v3::describe),
    ("ernie4_5_moe", ernie4_5_moe::describe),
    ("gemma4", gemma4::describe),
    ("gemma4_text", gemma4::describe_text),
    ("glm4_moe", glm4_moe::describe),
    ("glm4_moe_lite", deepseek_v3::describe),
    ("gpt_oss", gpt_oss::describe),
    ("granitemoe", granitemoe::describe),
    ("hunyuan_v1_moe", hunyuan_v1_moe::describe),
    ("kimi_k2", deepseek_v3::describe),
    ("llama", llama::describe),
    ("llama4", llama4::describe),
    ("llama4_text", llama4::describe_text),
    ("minimax_m2", minimax_m2::describe),
    ("mistral", mistral::describe),
    ("mixtral", mixtral::describe),
    ("olmoe", olmoe::describe),
    ("phimoe", phimoe::describe),
    ("qwen2", qwen2::describe),
    ("qwen2_moe", qwen2_moe::describe),
    ("qwen3", qwen3::describe),
    ("qwen3_5", qwen3_5::describe),
    ("qwen3_5_moe", qwen3_5_moe::describe),
    ("qwen3_5_moe_text", qwen3_5_moe::describe_text),
    ("qwen3_5_text", qwen3_5::describe_text),
    ("qwen3_moe", qwen3_moe::describe),
    ("qwen3_next", qwen3_next::describe),
];

/// Keys that do not change what a model computes, whatever their value: training, bookkeeping, and what the tensors themselves say.
const HARMLESS: [&str; 39] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "experts_implementation",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_llama_config",
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
const OFF: [&str; 9] = [
    "add_cross_attention",
    "cross_attention_hidden_size",
    "is_encoder_decoder",
    "mlp_bias",
    "pruned_heads",
    "rope_interleaved",
    "tie_encoder_decoder",
    "use_mrope",
    "use_sliding_window",
];

/// Most of anything that is counted: beyond it a number is a mistake, and products of two of them fit 64 bits.
const MOST: usize = 1 << 24;

impl Description {
    /// Reads the text of a config.json.
    ///
    /// # Errors
    /// Names the key that is missing, senseless, not supported or not known.
    pub fn from_json(text: &str) -> Result<Description, ConfigError> {
        let object = Keys::parse(text)?;
        let mut keys = Keys::new(&object);
        let model_type = keys.need("model_type", Keys::text)?;
        let Some((_, describe)) = FAMILIES.iter().find(|(name, _)| *name == model_type) else {
            let supported = FAMILIES.map(|(name, _)| name).join(", ");
            return Err(ConfigError::UnknownModelType { found: model_type, supported });
        };
        let mut description = describe(&mut keys)?;
        (description.model_type, description.quantization) = (model_type, quantization::read(&mut keys, text)?);
        all_known(&mut keys)?;
        description.check_total()?;
        Ok(description)
    }
}

/// No key is left that could matter.
fn all_known(keys: &mut Keys) -> Result<(), ConfigError> {
    OFF.into_iter().try_for_each(|key| keys.off(key))?;
    keys.all_known(&HARMLESS)
}

fn size(keys: &mut Keys, key: &str) -> Result<Option<usize>, ConfigError> {
    keys.size(key, 1, MOST)
}

fn layers(keys: &mut Keys) -> Result<usize, ConfigError> {
    keys.need("num_hidden_layers", |k, key| k.size(key, 1, 4096))
}

/// What families differ by in attention that is the same in every layer.
#[derive(Default)]
struct Variant {
    qkv_bias: bool,
    output_bias: bool,
    qk_norm: Option<QkNorm>,
    /// Whether queries and keys are normalised without weights.
    unit_heads: bool,
    /// Base of the rotary frequencies where no key says one.
    theta: Option<f64>,
    /// Which numbers of a head are turned together.
    pairs: Pairs,
    /// The part of a head that is turned where no key says one; without it, all of it.
    partial: Option<f64>,
    /// Whether queries have gates.
    gated: bool,
    /// Whether positions of images may be described, which a text has not: all three of a token are its place.
    images: bool,
    /// Whether positions of type `dynamic` are those of a longer base.
    alpha: bool,
    /// Whether there may be no word of key and value heads: then they are as many as query heads.
    plain_heads: bool,
}

fn attention(keys: &mut Keys, variant: &Variant) -> Result<Attention, ConfigError> {
    let &Variant { qkv_bias, output_bias, qk_norm, plain_heads, .. } = variant;
    // A key that a family does not have may say what it does anyway.
    keys.only("qkv_bias", qkv_bias)?;
    keys.only("attention_bias", output_bias)?;
    keys.only("use_qk_norm", qk_norm.is_some() || variant.unit_heads)?;
    let hidden_size = keys.need("hidden_size", size)?;
    let num_attention_heads = keys.need("num_attention_heads", size)?;
    let num_key_value_heads = size(keys, "num_key_value_heads")?.or(plain_heads.then_some(num_attention_heads));
    let num_key_value_heads = keys.present("num_key_value_heads", num_key_value_heads)?;
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        return Err(keys.invalid("num_key_value_heads", &format!("a divisor of num_attention_heads, {num_attention_heads}")));
    }
    let head_dim = match size(keys, "head_dim")? {
        Some(n) if n % 2 == 0 => n,
        Some(_) => return Err(keys.invalid("head_dim", "an even number: rotary positions turn pairs")),
        None if hidden_size.is_multiple_of(2 * num_attention_heads) => hidden_size / num_attention_heads,
        None => {
            let expected = format!("an even multiple of num_attention_heads, {num_attention_heads}, where head_dim is not given");
            return Err(keys.invalid("hidden_size", &expected));
        }
    };
    let rope = rope::read(keys, head_dim, variant)?;
    let plain = Attention::plain([num_attention_heads, num_key_value_heads, head_dim], rope);
    Ok(Attention { gated: variant.gated, qkv_bias, output_bias, qk_norm, ..plain })
}

/// Positions that a file says its model has.
fn trained(keys: &mut Keys) -> Result<usize, ConfigError> {
    keys.need("max_position_embeddings", |k, key| k.size(key, 1, 1 << 30))
}

/// A window of attention that is never reached: null, or the whole context.
fn no_window(keys: &mut Keys) -> Result<(), ConfigError> {
    let context = trained(keys)?;
    let window = keys.size("sliding_window", 0, usize::MAX)?.unwrap_or(0);
    if window > 0 && window < context {
        return Err(keys.unsupported("sliding_window", "attention over the whole context (null, or at least max_position_embeddings)"));
    }
    Ok(())
}

/// Families of Qwen have a switch besides, `use_sliding_window`, which must be off; then the number means nothing.
fn switched_window(keys: &mut Keys) -> Result<(), ConfigError> {
    keys.size("sliding_window", 0, usize::MAX).map(|_| ())
}

/// The MLP of a layer without experts.
fn dense(keys: &mut Keys) -> Result<Mlp, ConfigError> {
    let width = keys.need("intermediate_size", size)?;
    Ok(Mlp::Dense(Gated::new(width, named("mlp"))))
}

/// Projections as most families name them.
fn named(module: &'static str) -> GatedNames {
    GatedNames { module, projections: ["gate_proj", "up_proj", "down_proj"] }
}

fn num_experts(keys: &mut Keys) -> Result<usize, ConfigError> {
    match (keys.size("num_experts", 1, 65_536)?, keys.size("num_local_experts", 1, 65_536)?) {
        (Some(a), Some(b)) if a != b => Err(keys.invalid("num_local_experts", &format!("the same as num_experts, {a}"))),
        (Some(n), _) | (None, Some(n)) => Ok(n),
        // All families have both names, by the version of the tool that wrote the file.
        (None, None) => Err(ConfigError::Missing { key: "num_experts or num_local_experts".to_string() }),
    }
}

/// The number of experts under a family's own name, or under those that all have.
fn num_experts_as(keys: &mut Keys, own: &str) -> Result<usize, ConfigError> {
    match keys.size(own, 1, 65_536)? {
        Some(own) => Ok(own),
        None => num_experts(keys),
    }
}

fn router(keys: &mut Keys, num_experts: usize, norm_topk_prob: bool) -> Result<Router, ConfigError> {
    Ok(Router::softmax(taken(keys, "num_experts_per_tok", num_experts)?, norm_topk_prob))
}

/// Experts that a token takes.
fn taken(keys: &mut Keys, key: &str, num_experts: usize) -> Result<usize, ConfigError> {
    let taken = keys.need(key, size)?;
    if taken > num_experts {
        return Err(keys.invalid(key, &format!("at most the number of experts, {num_experts}")));
    }
    Ok(taken)
}

/// Experts that lie in groups, as DeepSeek-V3 has them: how many groups, and of how many a token takes experts.
fn groups(keys: &mut Keys, num_experts: usize, taken: usize) -> Result<Groups, ConfigError> {
    let (count, kept) = (size(keys, "n_group")?.unwrap_or(1), size(keys, "topk_group")?.unwrap_or(1));
    // A group is known by two of its experts.
    if !num_experts.is_multiple_of(count) || (count > 1 && num_experts / count < 2) {
        return Err(keys.invalid("n_group", &format!("a divisor of the number of experts, {num_experts}, that leaves two in each")));
    }
    if kept > count || num_experts / count * kept < taken {
        return Err(keys.invalid("topk_group", &format!("at most n_group, {count}, and enough for {taken} experts")));
    }
    Ok(Groups { count, kept, summed: 2 })
}

/// Layers of which the first are dense.
fn first_dense(keys: &mut Keys, mixer: &Mixer, mixture: Mixture) -> Result<Vec<Layer>, ConfigError> {
    let count = layers(keys)?;
    let first = keys.size("first_k_dense_replace", 0, MOST)?.unwrap_or(0);
    mixed(keys, vec![mixer.clone(); count], &mixture, |l| l >= first)
}

/// The same attention in so many layers.
fn same(attention: &Attention, count: usize) -> Vec<Mixer> {
    vec![Mixer::Attention(Box::new(attention.clone())); count]
}

/// Sigmoid scores with a correction that chooses among groups: DeepSeek-V3's router.
fn corrected(keys: &mut Keys, num_experts: usize) -> Result<Router, ConfigError> {
    keys.only_text("scoring_func", "sigmoid")?;
    keys.only_text("topk_method", "noaux_tc")?;
    let num_experts_per_tok = taken(keys, "num_experts_per_tok", num_experts)?;
    Ok(Router {
        num_experts_per_tok,
        score: Score::Sigmoid,
        bias: None,
        correction: Some(Correction { name: "mlp.gate.e_score_correction_bias", shape: vec![num_experts] }),
        groups: groups(keys, num_experts, num_experts_per_tok)?,
        norm_topk_prob: keys.need("norm_topk_prob", Keys::flag)?.then_some(LEAST),
        scaling: keys.need("routed_scaling_factor", factor)?,
        expert_scale: None,
    })
}

/// What something is multiplied with.
fn factor(keys: &mut Keys, key: &str) -> Result<Option<f64>, ConfigError> {
    keys.number(key, 1e-6, 1e6)
}

/// What kind each layer is of, as a list says or else a rule.
fn layer_types(
    keys: &mut Keys,
    count: usize,
    known: [&'static str; 2],
    rule: impl Fn(usize) -> &'static str,
) -> Result<Vec<&'static str>, ConfigError> {
    let Some(list) = keys.texts("layer_types")? else { return Ok((0..count).map(rule).collect()) };
    let each: Option<Vec<&str>> = list.iter().map(|found| known.into_iter().find(|known| known == found)).collect();
    let wrong = || keys.invalid("layer_types", &format!("a list of {count}, each '{}' or '{}'", known[0], known[1]));
    each.filter(|each| each.len() == count).ok_or_else(wrong)
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Layers of which some are mixtures, the others dense.
fn mixed(keys: &mut Keys, mixers: Vec<Mixer>, mixture: &Mixture, sparse: impl Fn(usize) -> bool) -> Result<Vec<Layer>, ConfigError> {
    let count = mixers.len();
    // Those without a dense layer may leave its width away.
    size(keys, "intermediate_size")?;
    let plain = if (0..count).all(&sparse) { None } else { Some(dense(keys)?) };
    let mlp = |l: usize| plain.clone().filter(|_| !sparse(l)).unwrap_or_else(|| Mlp::Sparse(Box::new(mixture.clone())));
    Ok(mixers.into_iter().enumerate().map(|(l, mixer)| Layer { mixer, mlp: mlp(l) }).collect())
}

/// The shared experts of a mixture, so many of `width` each as one.
fn shared_experts(keys: &mut Keys, count: &str, width: usize) -> Result<Option<Gated>, ConfigError> {
    let count = keys.size(count, 0, 1 << 12)?.filter(|n| *n > 0);
    Ok(count.map(|n| Gated::new(n * width, named("mlp.shared_experts"))))
}

/// Layers behind the last one that predict further tokens: they are not read.
fn next_layers(keys: &mut Keys, key: &str, description: &mut Description) -> Result<(), ConfigError> {
    let count = keys.size(key, 0, 64)?.unwrap_or(0);
    let last = description.layers.len();
    let each = (last..last + count).map(|l| LeftOut { prefix: format!("model.layers.{l}."), what: "multi-token prediction" });
    description.left_out.extend(each);
    Ok(())
}

/// RMS norms of each head, before it is turned.
const HEADS: QkNorm = QkNorm { of: Normed::Heads, names: ["self_attn.q_norm", "self_attn.k_norm"] };

/// A mixture as both families of Qwen have it: `shared` reads the shared expert.
fn qwen_mixture(keys: &mut Keys, shared: Option<Gated>) -> Result<Mixture, ConfigError> {
    let num_experts = num_experts(keys)?;
    let width = keys.need("moe_intermediate_size", size)?;
    let norm_topk_prob = keys.need("norm_topk_prob", Keys::flag)?;
    let router = router(keys, num_experts, norm_topk_prob)?;
    let expert = Gated::new(width, named("mlp.experts"));
    Ok(Mixture { shared_gate: shared.is_some(), shared, ..mixture(num_experts, router, expert) })
}

/// A mixture without a shared expert, under the names that most have.
fn mixture(num_experts: usize, router: Router, expert: Gated) -> Mixture {
    Mixture {
        num_experts,
        router,
        expert,
        shared: None,
        shared_gate: false,
        also: None,
        norms: None,
        weigh_inputs: false,
        router_module: "mlp.gate",
        fused: None,
    }
}

/// The layers of both families of Qwen: mixtures in every `decoder_sparse_step`-th, except `mlp_only_layers`.
fn qwen_layers(keys: &mut Keys, mixers: Vec<Mixer>, mixture: &Mixture) -> Result<Vec<Layer>, ConfigError> {
    let count = mixers.len();
    let step = keys.size("decoder_sparse_step", 1, MOST)?.unwrap_or(1);
    let named = keys.tokens("mlp_only_layers")?;
    if named.iter().any(|&l| l as usize >= count) {
        return Err(keys.invalid("mlp_only_layers", &format!("numbers of layers, below {count}")));
    }
    mixed(keys, mixers, mixture, |l| (l + 1).is_multiple_of(step) && !named.contains(&(l as u32)))
}

/// A model whose layers are all the same.
fn alike(keys: &mut Keys, attention: Attention, mlp: Mlp) -> Result<Description, ConfigError> {
    let count = layers(keys)?;
    let layers = same(&attention, count).into_iter().map(|mixer| Layer { mixer, mlp: mlp.clone() }).collect();
    around(keys, layers)
}

/// The type of the weights, which the files say again.
fn dtype(keys: &mut Keys) -> Result<(), ConfigError> {
    for key in ["dtype", "torch_dtype"] {
        if keys.text(key)?.is_some_and(|found| !["bfloat16", "float16", "float32"].contains(&found.as_str())) {
            return Err(keys.unsupported(key, "bfloat16, float16 and float32"));
        }
    }
    Ok(())
}

/// What all families have around their layers.
fn around(keys: &mut Keys, layers: Vec<Layer>) -> Result<Description, ConfigError> {
    let full = |mixer: &Mixer| match mixer {
        Mixer::Attention(attention) => attention.held().is_none(),
        Mixer::Latent(_) => true,
        Mixer::DeltaNet(_) => false,
    };
    if layers.iter().all(|layer| full(&layer.mixer)) {
        keys.every("layer_types", layers.len(), FULL)?;
    }
    for (key, only) in [("hidden_act", "silu"), ("position_embedding_type", "rotary")] {
        keys.only_text(key, only)?;
    }
    dtype(keys)?;
    let trained = trained(keys)?;
    let reached = layers.iter().filter_map(|l| l.mixer.rope()).map(|rope| rope.positions(trained)).min().unwrap_or(trained);
    Ok(Description {
        model_type: String::new(),
        vocab_size: keys.need("vocab_size", size)?,
        hidden_size: keys.need("hidden_size", size)?,
        max_position_embeddings: reached,
        rms_norm_eps: keys.need("rms_norm_eps", |k, key| k.number(key, 0.0, 1.0))?,
        norm: StreamNorm::Rms,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        head_bias: false,
        layers,
        bos_token_id: keys.token("bos_token_id")?,
        eos_token_id: keys.tokens("eos_token_id")?,
        quantization: None,
        embedding_multiplier: 1.0,
        logits_scaling: 1.0,
        logits_cap: None,
        layer_scalar: None,
        left_out: Vec::new(),
        norms_less_one: false,
        names: NAMES,
        also: &[],
    })
}

#[cfg(test)]
mod tests;
