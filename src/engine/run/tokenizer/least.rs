//! How many tokens a text has at least, known from its length: a token stands for so many bytes at most.
use serde_json::Value;
use std::collections::HashMap;
use tokenizers::{AddedVocabulary, ModelWrapper, models::bpe::BPE, pre_tokenizers::byte_level::ByteLevel};

/// Composing characters makes a text at most three times shorter (a Kelvin sign becomes a K); one more for safety.
const COMPOSED: usize = 4;

/// The most bytes of a text that one token of `inner` stands for; none where it can stand for any number, as a tokenizer can drop
/// or shorten what it likes.
pub fn longest(inner: &tokenizers::Tokenizer, vocabulary: &HashMap<String, u32>) -> Option<usize> {
    let json = |part: serde_json::Result<Value>| part.unwrap_or(Value::Bool(true));
    let (normal, words) = (json(serde_json::to_value(inner.get_normalizer())), json(serde_json::to_value(inner.get_pre_tokenizer())));
    let ModelWrapper::BPE(model) = inner.get_model() else { return None };
    let keeps =
        keeps_length(&normal) && keeps_all(&words) && knows_all(model, &[&normal, &words], vocabulary) && swallows_none(inner.get_added_vocabulary());
    let longest = vocabulary.keys().map(String::len).max().filter(|_| keeps)?;
    Some(longest.max(1) * COMPOSED)
}

/// Whether a normalizer leaves about as many bytes as there were.
fn keeps_length(normal: &Value) -> bool {
    match normal["type"].as_str() {
        Some("NFC" | "NFD" | "ByteLevel" | "Prepend") => true,
        Some("Sequence") => normal["normalizers"].as_array().is_some_and(|all| all.iter().all(keeps_length)),
        Some("Replace") => {
            let (from, to) = (normal["pattern"]["String"].as_str(), normal["content"].as_str());
            from.zip(to).is_some_and(|(from, to)| !from.is_empty() && to.len() >= from.len())
        }
        _ => normal.is_null(),
    }
}

/// Whether a pre-tokenizer drops nothing.
fn keeps_all(words: &Value) -> bool {
    match words["type"].as_str() {
        Some("ByteLevel" | "Metaspace" | "Digits") => true,
        Some("Split") => words["behavior"].as_str().is_some_and(|behaviour| behaviour != "Removed"),
        Some("Sequence") => words["pretokenizers"].as_array().is_some_and(|all| all.iter().all(keeps_all)),
        _ => words.is_null(),
    }
}

/// Whether there is a token for every byte, so that nothing is unknown.
fn knows_all(model: &BPE, parts: &[&Value], vocabulary: &HashMap<String, u32>) -> bool {
    let by_bytes = parts.iter().any(|part| part.to_string().contains(r#""type":"ByteLevel""#));
    let letters = || ByteLevel::alphabet().into_iter().all(|c| vocabulary.contains_key(&String::from(c)));
    let bytes = || (0..256).all(|b| vocabulary.contains_key(&format!("<0x{b:02X}>")));
    by_bytes && letters() || model.byte_fallback && bytes()
}

/// Whether no added token takes the spaces beside it.
fn swallows_none(added: &AddedVocabulary) -> bool {
    added.get_added_tokens_decoder().values().all(|token| !token.lstrip && !token.rstrip)
}
