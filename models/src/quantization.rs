//! What a config.json says of weights that are quantized already. Their tensors decide; this must agree with them.
use crate::json::{ConfigError, Keys};
use serde::{Deserialize, de};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// How a published checkpoint is quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {
    /// AutoGPTQ, GPTQModel, optimum.
    Gptq(Gptq),
    /// mlx-lm, mode affine.
    Mlx(Mlx),
    /// Numbers of 8 bits (E4M3) with a scale for every block, as DeepSeek-V3, MiniMax-M2 and Qwen's FP8 files have them.
    Fp8(Fp8),
    /// Numbers of 4 bits (E2M1) with a power of two for every 32 inputs (OCP Microscaling Formats 1.0), as gpt-oss' experts.
    Mxfp4,
    /// compressed-tensors, `pack-quantized`: whole numbers with a scale, and a zero where they are not symmetric, for every group of inputs, as
    /// Kimi-K2's experts.
    Packed(Vec<PackedNumbers>),
    /// AutoAWQ, 4 bits in the order of its `gemm`.
    Awq(Awq),
}

/// A checkpoint of AWQ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Awq {
    /// Inputs per scale; none where a row has one.
    pub group_size: Option<usize>,
}

/// What a group of modules of compressed-tensors has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedNumbers {
    /// Bits of a code.
    pub bits: usize,
    /// Inputs per scale; none where a row has one.
    pub group_size: Option<usize>,
    /// Whether every zero is the middle of the codes.
    pub symmetric: bool,
}

/// A checkpoint of FP8.
#[derive(Clone, Debug, PartialEq)]
pub struct Fp8 {
    /// Outputs and inputs of a block.
    pub block: [usize; 2],
}

/// A checkpoint of GPTQ.
#[derive(Clone, Debug, PartialEq)]
pub struct Gptq {
    /// Whether zeros are stored as they are (`gptq_v2`), not less one.
    pub plain_zeros: bool,
    /// What modules have that no rule names.
    pub base: GptqModule,
    /// Regular expressions for the beginning of a module's name, and what those modules have: the first that matches holds,
    /// those that leave modules dense (none) before all others.
    pub dynamic: Vec<(String, Option<GptqModule>)>,
}

/// One module of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqModule {
    /// Bits of a code.
    pub bits: usize,
    /// Inputs per scale; none where a row has one.
    pub group_size: Option<usize>,
    /// Whether every zero is the middle of the codes.
    pub sym: bool,
    /// Whether inputs may be in another order.
    pub desc_act: bool,
}

/// A checkpoint of MLX.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlx {
    /// Bits and group of modules that are not named.
    pub base: MlxModule,
    /// Modules by name; none where one is dense.
    pub modules: BTreeMap<String, Option<MlxModule>>,
}

/// One module of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlxModule {
    /// Bits of a code.
    pub bits: usize,
    /// Inputs per scale.
    pub group_size: usize,
}

/// The first key that is there holds; mlx-lm writes both.
pub(crate) fn read(keys: &mut Keys, text: &str) -> Result<Option<Quantization>, ConfigError> {
    let (mlx, other) = (keys.inner("quantization")?, keys.inner("quantization_config")?);
    let Some(mut inner) = mlx.or(other).filter(|keys| !keys.is_empty()) else { return Ok(None) };
    let method = inner.text("quant_method")?.or(inner.text("method")?);
    match method.as_deref() {
        Some("gptq") => Ok(Some(Quantization::Gptq(gptq(&mut inner, text)?))),
        None | Some("mlx") => Ok(Some(Quantization::Mlx(mlx_affine(&mut inner)?))),
        Some("mxfp4") => Ok(Some(Quantization::Mxfp4)),
        Some("compressed-tensors") => Ok(Some(Quantization::Packed(packed(&mut inner)?))),
        Some("fp8") => Ok(Some(Quantization::Fp8(fp8(&mut inner)?))),
        Some("awq") => Ok(Some(Quantization::Awq(awq(&mut inner)?))),
        Some(_) => Err(inner.unsupported("quant_method", "'gptq', 'awq', 'fp8', 'mxfp4', 'compressed-tensors', and MLX's affine quantization")),
    }
}

/// Groups of modules, whose weights alone are coded; which modules, their tensors say.
fn packed(keys: &mut Keys) -> Result<Vec<PackedNumbers>, ConfigError> {
    keys.only_text("format", "pack-quantized")?;
    keys.off("kv_cache_scheme")?;
    let mut groups = keys.need("config_groups", Keys::inner)?;
    let names: Vec<String> = groups.unread().into_iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        return Err(keys.unsupported("config_groups", "one group or more"));
    }
    names.iter().map(|name| packed_group(groups.need(name, Keys::inner)?)).collect()
}

fn packed_group(mut group: Keys) -> Result<PackedNumbers, ConfigError> {
    group.only_text("format", "pack-quantized")?;
    group.off("input_activations")?;
    group.off("output_activations")?;
    let mut weights = group.need("weights", Keys::inner)?;
    weights.only_text("type", "int")?;
    let symmetric = weights.flag("symmetric")?.unwrap_or(true);
    weights.off("actorder")?;
    let group_size = match weights.need("strategy", Keys::text)?.as_str() {
        "group" => Some(weights.need("group_size", |k, key| k.size(key, 1, 1 << 16))?),
        "channel" => None,
        _ => return Err(weights.unsupported("strategy", "'group' and 'channel'")),
    };
    Ok(PackedNumbers { bits: weights.need("num_bits", |k, key| k.size(key, 2, 8))?, group_size, symmetric })
}

/// Which modules are dense, their tensors say.
fn awq(keys: &mut Keys) -> Result<Awq, ConfigError> {
    keys.only_text("version", "gemm")?;
    keys.only("zero_point", true)?;
    if let Some(other) = ["bits", "w_bit"].into_iter().find(|key| keys.size(key, 1, 64).ok().flatten().is_some_and(|bits| bits != 4)) {
        return Err(keys.unsupported(other, "4"));
    }
    let group = ["group_size", "q_group_size"].into_iter().find_map(|key| keys.whole_number(key).transpose());
    let group_size = match group.transpose()? {
        None | Some(-1) => None,
        Some(n) => Some(usize::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| keys.invalid("group_size", "a number from 1, or -1"))?),
    };
    Ok(Awq { group_size })
}

/// How activations are rounded is for those who multiply in 8 bits; which modules are dense, their tensors say.
fn fp8(keys: &mut Keys) -> Result<Fp8, ConfigError> {
    if keys.text("fmt")?.is_some_and(|fmt| !["e4m3", "float8_e4m3fn"].contains(&fmt.as_str())) {
        return Err(keys.unsupported("fmt", "'e4m3'"));
    }
    match keys.tokens("weight_block_size")?[..] {
        [rows, cols] if rows > 0 && cols > 0 => Ok(Fp8 { block: [rows as usize, cols as usize] }),
        _ => Err(keys.unsupported("weight_block_size", "two numbers, outputs and inputs of a block")),
    }
}

/// Keys that are not read here say how codes were found, which changes nothing in how they are read.
fn gptq(keys: &mut Keys, text: &str) -> Result<Gptq, ConfigError> {
    let layout = keys.text("checkpoint_format")?.or(keys.text("format")?);
    let plain_zeros = match layout.as_deref() {
        None | Some("gptq") => false,
        Some("gptq_v2") => true,
        Some(_) => return Err(keys.unsupported("checkpoint_format", "'gptq' and 'gptq_v2'")),
    };
    keys.only_text("pack_dtype", "int32")?;
    // Another layout of the same tensors, and inputs that would have to be rotated.
    keys.off("is_marlin_format")?;
    keys.off("rotation")?;
    keys.need("bits", |k, key| k.size(key, 2, 8))?;
    let base = gptq_module(keys, GptqModule { bits: 0, group_size: Some(128), sym: true, desc_act: false })?;
    let mut dynamic = Vec::new();
    if let Some(mut rules) = keys.inner("dynamic")? {
        // Read again for the order, which objects of serde_json do not keep.
        let ordered: Outer = serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))?;
        for rule in ordered.quantization_config.dynamic.unwrap_or_default().0 {
            let module = match rule.strip_prefix("-:") {
                Some(_) => None,
                None => Some(rules.inner(&rule)?.map_or(Ok(base), |mut own| gptq_module(&mut own, base))?),
            };
            let pattern = rule.strip_prefix("-:").or(rule.strip_prefix("+:")).unwrap_or(&rule);
            dynamic.push((pattern.to_string(), module));
        }
        dynamic.sort_by_key(|(_, module)| module.is_some());
    }
    Ok(Gptq { plain_zeros, base, dynamic })
}

fn gptq_module(keys: &mut Keys, base: GptqModule) -> Result<GptqModule, ConfigError> {
    let group_size = match keys.whole_number("group_size")? {
        None => base.group_size,
        Some(-1) => None,
        Some(n) if n > 0 => Some(n as usize),
        Some(_) => return Err(keys.invalid("group_size", "a positive number, or -1 for whole rows")),
    };
    let bits = keys.size("bits", 2, 8)?.unwrap_or(base.bits);
    let (sym, desc_act) = (keys.flag("sym")?.unwrap_or(base.sym), keys.flag("desc_act")?.unwrap_or(base.desc_act));
    Ok(GptqModule { bits, group_size, sym, desc_act })
}

fn mlx_affine(keys: &mut Keys) -> Result<Mlx, ConfigError> {
    let module = |keys: &mut Keys| -> Result<MlxModule, ConfigError> {
        keys.only_text("mode", "affine")?;
        Ok(MlxModule { bits: keys.need("bits", |k, key| k.size(key, 2, 8))?, group_size: keys.need("group_size", |k, key| k.size(key, 1, 1 << 16))? })
    };
    let base = module(keys)?;
    let mut modules = BTreeMap::new();
    for (name, value) in keys.unread() {
        let own = match value {
            Value::Bool(false) => None,
            Value::Bool(true) => Some(base),
            _ => keys.inner(&name)?.map(|mut own| module(&mut own)).transpose()?,
        };
        modules.insert(name, own);
    }
    Ok(Mlx { base, modules })
}

#[derive(Deserialize)]
struct Outer {
    quantization_config: Inner,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    dynamic: Option<Names>,
}

/// The keys of an object, in its order.
#[derive(Default)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Names, D::Error> {
        struct Visit;
        impl<'de> de::Visitor<'de> for Visit {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of rules")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, _)) = map.next_entry::<String, de::IgnoredAny>()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        d.deserialize_map(Visit)
    }
}
