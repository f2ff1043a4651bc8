//! What families have in common whose layers are gated delta nets and, every few, gated attention.
use super::{FULL, HEADS, Variant, attention, layer_types, layers, size};
use crate::{
    description::{ConfigError, DeltaNet, DeltaShape, Description, LeftOut, Mixer, NAMES as PLAIN, Names},
    json::Keys,
};
use ram_kernels::TAPS;

/// How the tokens of every layer learn of those before them; `packed` as [`DeltaNet::packed`].
pub fn mixers(keys: &mut Keys, packed: bool) -> Result<Vec<Mixer>, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    // Without it the width of a head would be another than elsewhere.
    keys.need("head_dim", size)?;
    let variant =
        Variant { qkv_bias: bias, output_bias: bias, qk_norm: Some(HEADS), partial: Some(0.25), gated: true, images: true, ..Variant::default() };
    let attention = attention(keys, &variant)?;
    keys.only("attn_output_gate", true)?;
    let shape = DeltaShape {
        key_heads: keys.need("linear_num_key_heads", size)?,
        value_heads: keys.need("linear_num_value_heads", size)?,
        key_dim: keys.need("linear_key_head_dim", size)?,
        value_dim: keys.need("linear_value_head_dim", size)?,
        kernel: keys.need("linear_conv_kernel_dim", |keys, key| keys.size(key, 1, TAPS))?,
    };
    if !shape.value_heads.is_multiple_of(shape.key_heads) {
        return Err(keys.invalid("linear_num_value_heads", &format!("a multiple of linear_num_key_heads, {}", shape.key_heads)));
    }
    for (key, dim) in [("linear_key_head_dim", shape.key_dim), ("linear_value_head_dim", shape.value_dim)] {
        if !dim.is_multiple_of(16) {
            return Err(keys.unsupported(key, "multiples of 16"));
        }
    }
    // States are in 32 bits here whatever a file says of how its authors had them; 16 would be another model.
    keys.only_text("mamba_ssm_dtype", "float32")?;
    keys.only_text("output_gate_type", "swish")?;
    let interval = keys.size("full_attention_interval", 1, 4096)?.unwrap_or(4);
    let count = layers(keys)?;
    let kinds = layer_types(keys, count, [FULL, LINEAR], |l| if (l + 1).is_multiple_of(interval) { FULL } else { LINEAR })?;
    let mixer = |kind| match kind {
        FULL => Mixer::Attention(Box::new(attention.clone())),
        _ => Mixer::DeltaNet(DeltaNet { shape, packed }),
    };
    Ok(kinds.into_iter().map(mixer).collect())
}

const LINEAR: &str = "linear_attention";

/// What a file says of images.
pub const OTHERS: [&str; 6] =
    ["image_token_id", "language_model_only", "video_token_id", "vision_config", "vision_end_token_id", "vision_start_token_id"];

/// A text beside images, as its authors publish it, and as tools do that keep the text alone, or put it elsewhere.
pub const NAMES: [Names; 3] =
    [Names { model: "model.language_model", ..PLAIN }, PLAIN, Names { model: "language_model.model", head: "language_model.lm_head", ..PLAIN }];

/// A text that may lie beside images.
pub fn text(keys: &mut Keys, description: Description) -> Description {
    keys.ignore(&["mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"]);
    let left = |(prefix, what): (&str, _)| LeftOut { prefix: prefix.to_string(), what };
    let next = "multi-token prediction";
    let left_out = [("mtp.", next), ("language_model.mtp.", next), ("model.visual.", "a vision tower"), ("vision_tower.", "a vision tower")];
    Description { norms_less_one: true, names: NAMES[1], also: &NAMES, left_out: left_out.map(left).into(), ..description }
}
