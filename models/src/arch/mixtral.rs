//! Mixtral: every layer a mixture, its experts' projections under names of their own.
use super::{Variant, alike, attention, mixture, named, no_window, num_experts, router, size};
use crate::{
    description::{ConfigError, Description, Gated, GatedNames, Mixture, MixtureNames, Mlp},
    json::Keys,
};

pub fn describe(keys: &mut Keys) -> Result<Description, ConfigError> {
    let attention = attention(keys, &Variant::default())?;
    no_window(keys)?;
    keys.off("shared_expert_intermediate_size")?;
    let num_experts = num_experts(keys)?;
    let router = router(keys, num_experts, true)?;
    let width = keys.need("intermediate_size", size)?;
    let expert = Gated::new(width, GatedNames { module: "block_sparse_moe.experts", projections: ["w1", "w3", "w2"] });
    let mixture = Mixture {
        // As transformers 5 has them in memory, and as tools write them that save what is there.
        also: Some(MixtureNames { router: "mlp.gate", expert: named("mlp.experts") }),
        router_module: "block_sparse_moe.gate",
        ..mixture(num_experts, router, expert)
    };
    alike(keys, attention, Mlp::Sparse(Box::new(mixture)))
}
