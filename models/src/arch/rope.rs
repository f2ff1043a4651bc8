//! Rotary positions in both dialects: `rope_theta` beside `rope_scaling`, or `rope_parameters` with all inside.
use super::Variant;
use crate::{
    description::ConfigError,
    json::Keys,
    rope::{Rope, Scaling},
};

/// How positions turn heads of `head_dim` numbers; the variant says what holds where no key does.
pub fn read(keys: &mut Keys, head_dim: usize, variant: &Variant) -> Result<Rope, ConfigError> {
    let mut part = partial(keys, variant)?;
    let trained = super::trained(keys)?;
    let mut base = keys.number("rope_theta", f64::MIN_POSITIVE, f64::MAX)?;
    let mut scaling = Scaling::Default;
    for object in ["rope_parameters", "rope_scaling"] {
        let Some(mut inner) = keys.inner(object)? else { continue };
        part = partial(&mut inner, variant)?.or(part);
        let here = inner.number("rope_theta", f64::MIN_POSITIVE, f64::MAX)?;
        if base.is_some() && here.is_some() && base != here {
            return Err(inner.invalid("rope_theta", "the same number in both places"));
        }
        base = base.or(here);
        let found = read_scaling(&mut inner, [trained, head_dim / 2], variant.alpha)?;
        if scaling != Scaling::Default && found != scaling {
            return Err(inner.invalid("rope_type", "the same in rope_parameters and rope_scaling"));
        }
        scaling = found;
        if variant.images {
            inner.ignore(&["mrope_interleaved", "mrope_section"]);
        }
        inner.all_known(&[])?;
    }
    let theta = base.or(variant.theta).ok_or(ConfigError::Missing { key: "rope_theta".to_string() })?;
    let own = if variant.partial.is_some() { keys.size("rotary_dim", 2, head_dim)? } else { None };
    let dim = own.unwrap_or((head_dim as f64 * part.or(variant.partial).unwrap_or(1.0)) as usize);
    if dim == 0 || dim % 2 == 1 {
        return Err(keys.invalid("partial_rotary_factor", &format!("a part of head_dim, {head_dim}, that is even")));
    }
    Ok(Rope { theta, scaling, dim, pairs: variant.pairs })
}

/// The part of a head that is turned: all of it, where the family has no other.
fn partial(keys: &mut Keys, variant: &Variant) -> Result<Option<f64>, ConfigError> {
    match variant.partial {
        None => keys.whole("partial_rotary_factor").map(|()| None),
        Some(_) => keys.number("partial_rotary_factor", f64::MIN_POSITIVE, 1.0),
    }
}

/// What one object says. Older files call the type `type`.
fn read_scaling(keys: &mut Keys, [trained, pairs]: [usize; 2], alpha: bool) -> Result<Scaling, ConfigError> {
    let (new, old) = (keys.text("rope_type")?, keys.text("type")?);
    let name = if new.is_some() { "rope_type" } else { "type" };
    if new.is_some() && old.is_some() && new != old {
        return Err(keys.invalid("type", "the same as rope_type"));
    }
    let factor = |keys: &mut Keys| keys.need("factor", positive);
    let original_max_position_embeddings = |keys: &mut Keys| {
        let own = keys.size("original_max_position_embeddings", 1, 1 << 30)?;
        Ok::<_, ConfigError>(own.unwrap_or(trained) as f64)
    };
    match new.or(old).as_deref() {
        None | Some("default") => Ok(Scaling::Default),
        Some("dynamic") if alpha => {
            let alpha = keys.need("alpha", positive)?;
            // Which mean nothing beside it.
            keys.ignore(&["beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim"]);
            Ok(Scaling::Alpha { alpha })
        }
        Some("linear") => Ok(Scaling::Linear { factor: factor(keys)? }),
        Some("llama3") => {
            let (low_freq_factor, high_freq_factor) = (keys.need("low_freq_factor", positive)?, keys.need("high_freq_factor", positive)?);
            if low_freq_factor >= high_freq_factor {
                return Err(keys.invalid("high_freq_factor", &format!("larger than low_freq_factor, {low_freq_factor}")));
            }
            let original_max_position_embeddings = original_max_position_embeddings(keys)?;
            Ok(Scaling::Llama3 { factor: factor(keys)?, low_freq_factor, high_freq_factor, original_max_position_embeddings })
        }
        Some("yarn") => {
            let original_max_position_embeddings = original_max_position_embeddings(keys)?;
            let factor = positive(keys, "factor")?.unwrap_or(trained as f64 / original_max_position_embeddings);
            let longer = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let all = number(keys, "mscale_all_dim")?;
            let inferred = match (number(keys, "mscale")?, all) {
                (Some(part), Some(all)) if part != 0.0 && all != 0.0 => longer(part) / longer(all),
                _ => longer(1.0),
            };
            Ok(Scaling::Yarn {
                factor,
                beta_fast: positive(keys, "beta_fast")?.unwrap_or(32.0),
                beta_slow: positive(keys, "beta_slow")?.unwrap_or(1.0),
                scores: all.filter(|all| *all != 0.0).map_or(1.0, longer),
                attention_factor: positive(keys, "attention_factor")?.unwrap_or(inferred),
                original_max_position_embeddings,
                truncate: keys.flag("truncate")?.unwrap_or(true),
            })
        }
        Some("longrope") => long(keys, trained, pairs),
        Some(_) => Err(keys.unsupported(name, "'default', 'linear', 'llama3', 'longrope' and 'yarn'")),
    }
}

/// Numbers for every pair, for texts up to the first context and for longer ones.
fn long(keys: &mut Keys, trained: usize, pairs: usize) -> Result<Scaling, ConfigError> {
    let original = keys.need("original_max_position_embeddings", |keys, key| keys.size(key, 2, 1 << 30))?;
    let mut each = |key: &str| {
        let found = keys.need(key, |keys, key| keys.numbers(key, 1e-6, MOST))?;
        if found.len() == pairs { Ok(found) } else { Err(keys.invalid(key, &format!("{pairs} numbers, one for each pair of a head"))) }
    };
    let factors = [each("short_factor")?, each("long_factor")?];
    let factor = positive(keys, "factor")?.unwrap_or(trained as f64 / original as f64);
    let inferred = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
    let both = positive(keys, "attention_factor")?.unwrap_or(inferred);
    let scales = [positive(keys, "short_mscale")?.unwrap_or(both), positive(keys, "long_mscale")?.unwrap_or(both)];
    Ok(Scaling::Long { factors, scales, original_max_position_embeddings: original, longer: false })
}

/// Large enough for any factor, small enough that no product of some overflows.
const MOST: f64 = 1e6;

fn positive(keys: &mut Keys, key: &str) -> Result<Option<f64>, ConfigError> {
    keys.number(key, 1e-6, MOST)
}

fn number(keys: &mut Keys, key: &str) -> Result<Option<f64>, ConfigError> {
    keys.number(key, 0.0, MOST)
}
