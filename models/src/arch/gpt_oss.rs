//! gpt-oss: every second layer looks at a window, heads have sinks, every projection a bias, experts a clamped gate; experts in MXFP4.
use super::{FULL, SLIDING, Variant, around, attention, layer_types, layers, mixture, named, num_experts, size, taken};
use crate::{
    description::{Activation, Attention, Clamped, ConfigError, Description, Fused, FusedMatrices, Gated, Layer, Mixer, Mixture, Mlp, Router},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(true);
    let variant = Variant { qkv_bias: bias, output_bias: bias, theta: Some(150_000.0), ..Variant::default() };
    let full = Attention { sinks: true, ..attention(keys, &variant)? };
    let count = layers(keys)?;
    let window = keys.size("sliding_window", 0, 1 << 30)?.filter(|window| *window > 0);
    let kinds = layer_types(keys, count, [SLIDING, FULL], |l| if l % 2 == 0 { SLIDING } else { FULL })?;
    let num_experts = num_experts(keys)?;
    let num_experts_per_tok = taken(keys, "num_experts_per_tok", num_experts)?;
    // Its older name.
    if size(keys, "experts_per_token")?.is_some_and(|other| other != num_experts_per_tok) {
        return Err(keys.invalid("experts_per_token", &format!("the same as num_experts_per_tok, {num_experts_per_tok}")));
    }
    // The softmax of those that are chosen is that of all, scaled to sum to 1.
    let router = Router { bias: Some("mlp.router.bias"), ..Router::softmax(num_experts_per_tok, true) };
    let (limit, alpha) = (keys.number("swiglu_limit", 1e-3, 1e6)?.unwrap_or(7.0), keys.number("swiglu_alpha", 1e-3, 1e6)?.unwrap_or(1.702));
    let width = keys.need("intermediate_size", size)?;
    let expert = Gated { activation: Activation::Clamped(Clamped { limit, alpha }), ..Gated::new(width, named("mlp.experts")) };
    let mixture = Mixture {
        router_module: "mlp.router",
        fused: Some(Fused {
            matrices: FusedMatrices::Two { gate_up: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj", turns: true },
            ends: &[("_blocks", ".weight"), ("_scales", ".weight_scales"), ("_bias", ".bias")],
            turned: Some(""),
        }),
        ..mixture(num_experts, router, expert)
    };
    // The context before YaRN, which rope_scaling says again.
    keys.ignore(&["initial_context_length"]);
    let layer = |kind| {
        let attention = Attention { window: window.filter(|_| kind == SLIDING), ..full.clone() };
        Layer { mixer: Mixer::Attention(Box::new(attention)), mlp: Mlp::Sparse(Box::new(mixture.clone())) }
    };
    around(keys, kinds.into_iter().map(layer).collect())
}
