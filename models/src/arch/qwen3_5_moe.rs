//! Qwen3.5-MoE and Qwen3.6-MoE, the text: gated delta nets and gated attention, experts in one tensor, a gated shared expert.
use super::{around, delta_net, images, mixed, mixture, named, num_experts, router, size};
use crate::{
    description::{ConfigError, Description, Fused, Gated, Mixture},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    images::text(keys, &delta_net::OTHERS, delta_net::NAMES[0], describe_text)
}

pub fn describe_text(keys: &mut Keys) -> Result<Description, ConfigError> {
    let mixers = delta_net::mixers(keys, false)?;
    // What the family before it had: all layers are mixtures here, whose weights are divided by their sum.
    keys.only("norm_topk_prob", true)?;
    keys.off("mlp_only_layers")?;
    let num_experts = num_experts(keys)?;
    let expert = Gated::new(keys.need("moe_intermediate_size", size)?, named("mlp.experts"));
    let shared = Gated::new(keys.need("shared_expert_intermediate_size", size)?, named("mlp.shared_expert"));
    let mixture = Mixture {
        shared: Some(shared),
        shared_gate: true,
        fused: Some(Fused::two("mlp.experts.gate_up_proj", "mlp.experts.down_proj", &[("", ".weight"), ("_scale_inv", ".weight_scale_inv")])),
        ..mixture(num_experts, router(keys, num_experts, true)?, expert)
    };
    let layers = mixed(keys, mixers, &mixture, |_| true)?;
    let description = around(keys, layers)?;
    Ok(delta_net::text(keys, description))
}
