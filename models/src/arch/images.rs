//! Texts beside images: their part of a config.json.
use super::{all_known, dtype};
use crate::{
    description::{ConfigError, Description, Names},
    json::Keys,
};

/// The text in a config.json that describes images besides, in keys that are `others`; where there is none inside, the file describes a text
/// alone. Its tensors are by `names` then.
pub fn text(
    keys: &mut Keys,
    others: &[&str],
    names: Names,
    describe: impl Fn(&mut Keys) -> Result<Description, ConfigError>,
) -> Result<Description, ConfigError> {
    let Some(mut inner) = keys.inner("text_config")? else { return describe(keys) };
    keys.ignore(others);
    dtype(keys)?;
    inner.ignore(&["model_type"]);
    let mut description = describe(&mut inner)?;
    all_known(&mut inner)?;
    if let Some(tied) = keys.flag("tie_word_embeddings")? {
        if inner.flag("tie_word_embeddings")?.is_some_and(|own| own != tied) {
            return Err(keys.invalid("tie_word_embeddings", "the same as in text_config"));
        }
        description.tie_word_embeddings = tied;
    }
    description.names = names;
    description.bos_token_id = description.bos_token_id.or(keys.token("bos_token_id")?);
    let ends = keys.tokens("eos_token_id")?;
    if description.eos_token_id.is_empty() {
        description.eos_token_id = ends;
    }
    Ok(description)
}
