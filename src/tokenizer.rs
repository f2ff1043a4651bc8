//! Text to tokens and back, with what the files beside a tokenizer say about special tokens and the chat template.
use crate::Error;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Put before a text where the tokenizer is made to.
    pub bos: Option<u32>,
    /// The BOS token's text, for templates.
    pub bos_text: String,
    /// The EOS token's text, for templates.
    pub eos_text: String,
    /// Tokens that end an answer.
    pub eos: BTreeSet<u32>,
    /// The chat template, where there is one.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads tokenizer.json and, where they are there, tokenizer_config.json, generation_config.json, config.json and
    /// chat_template.jinja.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be used or a vocabulary larger than `vocab_size`.
    pub fn open(folder: &Path, vocab_size: usize) -> Result<Tokenizer, Error> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Err(Error::File { path, reason: "is not there: fetch the checkpoint's tokenizer.json".into() });
        }
        let inner =
            tokenizers::Tokenizer::from_file(&path).map_err(|e| Error::File { path: path.clone(), reason: format!("is no tokenizer ({e})") })?;
        let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = largest.filter(|(_, id)| *id as usize >= vocab_size) {
            let reason =
                format!("has token {token:?} with number {id}, and config.json's vocab_size is {vocab_size}: they belong to different models");
            return Err(Error::File { path, reason });
        }
        let config = json(&folder.join("tokenizer_config.json"))?;
        let text = |key: &str| match &config[key] {
            Value::String(s) => s.clone(),
            Value::Object(o) => o.get("content").and_then(Value::as_str).unwrap_or_default().to_string(),
            _ => String::new(),
        };
        let (bos_text, eos_text) = (text("bos_token"), text("eos_token"));
        let adds = config["add_bos_token"]
            .as_bool()
            .unwrap_or_else(|| inner.encode("a", true).is_ok_and(|e| !bos_text.is_empty() && e.get_tokens().first() == Some(&bos_text)));
        let bos = if adds { inner.token_to_id(&bos_text) } else { None };
        let mut eos: BTreeSet<u32> = inner.token_to_id(&eos_text).into_iter().collect();
        for file in ["generation_config.json", "config.json"] {
            match &json(&folder.join(file))?["eos_token_id"] {
                Value::Number(n) => eos.extend(n.as_u64().and_then(|n| u32::try_from(n).ok())),
                Value::Array(a) => eos.extend(a.iter().filter_map(Value::as_u64).filter_map(|n| u32::try_from(n).ok())),
                _ => {}
            }
        }
        let chat_template = template(folder, &config["chat_template"])?;
        Ok(Tokenizer { inner, bos, bos_text, eos_text, eos, chat_template })
    }

    /// Tokens of a text; `special` puts BOS in front where the tokenizer is made to.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let encoded = self.inner.encode_fast(text, false).map_err(|e| Error::Failed(format!("the tokenizer failed: {e}")))?;
        let bos = self.bos.filter(|_| special);
        Ok(bos.into_iter().chain(encoded.get_ids().iter().copied()).collect())
    }

    /// Text of tokens, special ones left out.
    ///
    /// # Errors
    /// Where the tokenizer refuses them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        self.inner.decode(tokens, true).map_err(|e| Error::Failed(format!("the tokenizer failed: {e}")))
    }

    /// A decoder that gives text as tokens come, continuing after `context`.
    pub fn stream<'a>(&'a self, context: &[u32]) -> Decoder<'a> {
        let tokens: Vec<u32> = context.iter().rev().take(CONTEXT).rev().copied().collect();
        let shown = self.decode(&tokens).map_or(0, |s| s.len());
        Decoder { tokenizer: self, tokens, shown }
    }
}

/// Tokens that a decoder keeps to know how the next one joins on (spaces, pieces of characters).
const CONTEXT: usize = 6;

/// Text as tokens come: whole characters only, spaces as in the whole text.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    shown: usize,
}

impl Decoder<'_> {
    /// The text that a token adds; empty while a character is not complete.
    ///
    /// # Errors
    /// Where the tokenizer refuses the token.
    pub fn push(&mut self, token: u32) -> Result<String, Error> {
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens)?;
        if text.ends_with('\u{fffd}') && self.tokens.len() < 4 * CONTEXT {
            return Ok(String::new());
        }
        self.show(text)
    }

    /// What is held back at the end: incomplete characters as replacement characters.
    ///
    /// # Errors
    /// Where the tokenizer refuses the tokens.
    pub fn finish(mut self) -> Result<String, Error> {
        let text = self.tokenizer.decode(&self.tokens)?;
        self.show(text)
    }

    fn show(&mut self, text: String) -> Result<String, Error> {
        let new = text.get(self.shown..).unwrap_or_default().to_string();
        self.shown = text.len();
        if self.tokens.len() >= 4 * CONTEXT {
            self.tokens.drain(..self.tokens.len() - CONTEXT);
            self.shown = self.tokenizer.decode(&self.tokens)?.len();
        }
        Ok(new)
    }
}

fn json(path: &Path) -> Result<Value, Error> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| Error::File { path: path.into(), reason: format!("is no JSON ({e})") }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(Error::Io { path: path.into(), source }),
    }
}

/// chat_template.jinja, else the template of tokenizer_config.json: a text, or a list of named ones.
fn template(folder: &Path, value: &Value) -> Result<Option<String>, Error> {
    let path: PathBuf = folder.join("chat_template.jinja");
    match fs::read_to_string(&path) {
        Ok(text) => return Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Io { path, source }),
    }
    let named = |list: &[Value]| {
        let default = list.iter().find(|t| t["name"] == "default").or(list.first());
        default.and_then(|t| t["template"].as_str()).map(String::from)
    };
    Ok(match value {
        Value::String(s) => Some(s.clone()),
        Value::Array(list) => named(list),
        _ => None,
    })
}
