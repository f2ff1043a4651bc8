//! Text to tokens and back, with what the files beside a tokenizer say about special tokens and the chat template.
mod bytes;
mod least;
mod pieces;

use crate::{Error, answer, files, panics};
use pieces::Token;
use serde_json::Value;
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of a text that a token stands for at most, where that is known.
    longest: Option<usize>,
    /// Put before a text where the tokenizer is made to.
    pub bos: Option<u32>,
    /// The BOS token's text, for templates.
    pub bos_text: String,
    /// The EOS token's text, for templates.
    pub eos_text: String,
    /// Special tokens that divide an answer ([`Answer`](crate::Answer)), by number: streams show them as text.
    marks: BTreeMap<u32, String>,
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
        let bad = |reason: String| Error::File { path: path.clone(), reason };
        let text = files::text_if_there(&path, files::LONGEST)?.ok_or_else(|| bad("is not there: fetch the checkpoint's tokenizer.json".into()))?;
        let parsed = guarded(|| text.parse::<tokenizers::Tokenizer>());
        let mut inner = parsed.map_err(|e| bad(format!("is no tokenizer ({e})")))?;
        drop(text);
        if matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(model) if model.dropout.is_some()) {
            return Err(bad("has a dropout, which is for training: set it to null".into()));
        }
        // Meant for batches: a prompt is neither cut nor filled up.
        inner.with_padding(None);
        guarded(|| inner.with_truncation(None).map(drop)).map_err(bad)?;
        let vocabulary = inner.get_vocab(true);
        if let Some((token, id)) = vocabulary.iter().max_by_key(|(_, id)| **id).filter(|(_, id)| **id as usize >= vocab_size) {
            return Err(bad(format!(
                "has token {token:?} with number {id}, and config.json's vocab_size is {vocab_size}: they belong to different models"
            )));
        }
        let longest = least::longest(&inner, &vocabulary);
        drop(vocabulary);
        let config = json(&folder.join("tokenizer_config.json"))?;
        let text = |key: &str| match &config[key] {
            Value::String(s) => s.clone(),
            Value::Object(o) => o.get("content").and_then(Value::as_str).unwrap_or_default().to_string(),
            _ => String::new(),
        };
        let (bos_text, eos_text) = (text("bos_token"), text("eos_token"));
        let adds = config["add_bos_token"]
            .as_bool()
            .unwrap_or_else(|| guarded(|| inner.encode("a", true)).is_ok_and(|e| !bos_text.is_empty() && e.get_tokens().first() == Some(&bos_text)));
        let bos = if adds { inner.token_to_id(&bos_text) } else { None };
        let mut eos: BTreeSet<u32> = inner.token_to_id(&eos_text).into_iter().collect();
        for file in ["generation_config.json", "config.json"].map(|name| folder.join(name)) {
            let ends = &json(&file)?["eos_token_id"];
            let token = |n: &Value| n.as_u64().and_then(|n| u32::try_from(n).ok());
            let tokens = match ends {
                Value::Null => Some(Vec::new()),
                Value::Array(list) => list.iter().map(token).collect(),
                one => token(one).map(|t| vec![t]),
            };
            let reason = || format!("has eos_token_id {ends}, which is neither a token's number nor a list of such");
            eos.extend(tokens.ok_or_else(|| Error::File { path: file.clone(), reason: reason() })?);
        }
        let chat_template = template(folder, &config["chat_template"])?;
        let marks = answer::marks().filter_map(|mark| Some((inner.token_to_id(mark)?, mark.to_string())));
        let marks = marks.filter(|(_, mark)| inner.get_added_vocabulary().is_special_token(mark)).collect();
        Ok(Tokenizer { inner, longest, marks, bos, bos_text, eos_text, eos, chat_template })
    }

    /// Tokens of a text; `special` puts BOS in front where the tokenizer is made to.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        self.encode_at_most(text, special, usize::MAX)
    }

    /// The same for a text that may have `limit` tokens; one that has more is not encoded to its end. Takes some 4 MB besides
    /// the tokens, however long the text is.
    ///
    /// # Errors
    /// [`Error::Context`] with a number of tokens that the text has at least, where they are more than `limit`; else as
    /// [`Tokenizer::encode`].
    pub fn encode_at_most(&self, text: &str, special: bool, limit: usize) -> Result<Vec<u32>, Error> {
        let bos = self.bos.filter(|_| special);
        let too_many = |tokens| Error::Context { tokens, capacity: limit };
        let least = self.longest.map_or(0, |longest| text.len() / longest);
        let room = limit.checked_sub(bos.iter().len()).filter(|room| least <= *room).ok_or_else(|| too_many(least.max(1)))?;
        match self.encode_by(PIECE, text, room) {
            Ok(tokens) => Ok(bos.into_iter().chain(tokens).collect()),
            Err(Error::Context { tokens, .. }) => Err(too_many(tokens + bos.iter().len())),
            Err(other) => Err(other),
        }
    }

    /// The tokens by pieces of about `piece` bytes.
    fn encode_by(&self, piece: usize, text: &str, limit: usize) -> Result<Vec<u32>, Error> {
        pieces::encode(text, piece, limit, &|part| {
            let encoded = guarded(|| self.inner.encode(part, false)).map_err(Error::Tokenizer)?;
            let at = encoded.get_offsets().iter().map(|&(from, to)| from..to);
            Ok(at.zip(encoded.get_ids()).map(|(at, &id)| Token { at, id }).collect())
        })
    }

    /// Number of tokens, added ones too.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The number of a token by its text in the vocabulary.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The bytes of text that each token stands for, by its number; those of numbers that are no token are empty. They need not be whole
    /// characters, and a special token's are its name.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let writing = bytes::Writing::of(&self.inner);
        let added = self.inner.get_added_tokens_decoder();
        let vocabulary = self.inner.get_vocab(true);
        let mut all = vec![Vec::new(); vocabulary.values().max().map_or(0, |last| *last as usize + 1)];
        for (text, id) in vocabulary {
            all[id as usize] = if added.contains_key(&id) { text.into_bytes() } else { writing.bytes(&text) };
        }
        all
    }

    /// Whether a token is one that texts do not have: [`Tokenizer::decode`] leaves it out.
    pub fn is_special(&self, token: u32) -> bool {
        self.inner.get_added_vocabulary().is_special_token(&self.inner.id_to_token(token).unwrap_or_default())
    }

    /// Text of tokens, special ones left out.
    ///
    /// # Errors
    /// Where the tokenizer refuses them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        guarded(|| self.inner.decode(tokens, true)).map_err(Error::Tokenizer)
    }

    /// A decoder that gives text as tokens come, continuing after `context`.
    pub fn stream(&self, context: &[u32]) -> Decoder<&Tokenizer> {
        Decoder::after(self, context)
    }
}

/// Bytes of a text that are encoded at a time.
const PIECE: usize = 16 << 10;
/// Tokens of the text before that a decoder starts with.
const CONTEXT: usize = 8;
/// What stands for bytes that are no character, or none yet.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;
/// Tokens that may be waited for: a character has four bytes, so what is no character after these never becomes one.
const WAIT: usize = 8;

/// Text as tokens come: whole characters only, spaces as in the whole text.
pub struct Decoder<T> {
    tokenizer: T,
    /// Tokens whose text is shown, as far as the next ones join on to them, and those that wait for more.
    tokens: Vec<u32>,
    /// Of them, those shown.
    context: usize,
    /// Bytes of their text that are shown.
    shown: usize,
}

impl<T: Borrow<Tokenizer>> Decoder<T> {
    /// One that continues after `context`, with a tokenizer that it may own.
    pub fn after(tokenizer: T, context: &[u32]) -> Decoder<T> {
        let own = tokenizer.borrow();
        // It must see what the first token joins on to, from the start of a character.
        let mut from = context.len().saturating_sub(CONTEXT);
        while from > 0 && own.decode(&context[from..]).is_ok_and(|text| text.is_empty() || text.starts_with(INCOMPLETE)) {
            from = from.saturating_sub(CONTEXT);
        }
        let tokens = context[from..].to_vec();
        let shown = own.decode(&tokens).map_or(0, |text| text.len());
        Decoder { tokenizer, context: tokens.len(), tokens, shown }
    }

    /// The text that a token adds; empty while a character is not complete.
    ///
    /// # Errors
    /// Where the tokenizer refuses the token.
    pub fn push(&mut self, token: u32) -> Result<String, Error> {
        if let Some(mark) = self.tokenizer.borrow().marks.get(&token) {
            let before = self.held()?;
            let text = before + mark;
            (self.context, self.shown) = (0, 0);
            self.tokens.clear();
            return Ok(text);
        }
        self.tokens.push(token);
        let text = self.tokenizer.borrow().decode(&self.tokens)?;
        let waiting = text.ends_with(INCOMPLETE);
        let whole = if !waiting {
            text.len()
        } else if self.tokens.len() - self.context > WAIT {
            // Bytes that are no text; the last of them may still become some.
            text.len() - INCOMPLETE.len_utf8()
        } else {
            return Ok(String::new());
        };
        let new = text.get(self.shown..whole).unwrap_or_default().to_string();
        self.shown = self.shown.max(whole);
        if !waiting && !new.is_empty() {
            // These tokens end with a character: what follows joins on to them alone.
            self.tokens.drain(..self.context);
            self.context = self.tokens.len();
            self.shown = self.tokenizer.borrow().decode(&self.tokens)?.len();
        }
        Ok(new)
    }

    /// What is held back at the end: incomplete characters as replacement characters.
    ///
    /// # Errors
    /// Where the tokenizer refuses the tokens.
    pub fn finish(self) -> Result<String, Error> {
        self.held()
    }

    fn held(&self) -> Result<String, Error> {
        let text = self.tokenizer.borrow().decode(&self.tokens)?;
        Ok(text.get(self.shown..).unwrap_or_default().to_string())
    }
}

/// Runs what is of the tokenizers crate: what a file makes it refuse or panic at is an error.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    panics::caught(run)?.map_err(|e| e.to_string())
}

/// A file of JSON; null where there is none.
pub(crate) fn json(path: &Path) -> Result<Value, Error> {
    let text = files::text_if_there(path, files::LONGEST)?;
    let parsed = text.map_or(Ok(Value::Null), |text| serde_json::from_str(&text));
    parsed.map_err(|e| Error::File { path: path.into(), reason: format!("is no JSON ({e})") })
}

/// chat_template.jinja, else the template of tokenizer_config.json: a text, or a list of named ones.
fn template(folder: &Path, value: &Value) -> Result<Option<String>, Error> {
    if let Some(text) = files::text_if_there(&folder.join("chat_template.jinja"), files::LONGEST)? {
        return Ok(Some(text));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Byte-level BPE, as Qwen has it.
    fn byte_level() -> Tokenizer {
        Tokenizer::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3-moe"), usize::MAX).expect("opens")
    }

    /// BPE of a few letters with single bytes to fall back on, as Llama and Mixtral have it.
    fn byte_fallback() -> Tokenizer {
        let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
        let letters = ["\u{2581}", "\u{2581}\u{2581}", "a", "o", "n", "t", "\u{2581}a", "日"].map(String::from);
        let vocab: serde_json::Map<String, Value> = bytes.chain(letters).enumerate().map(|(id, token)| (token, id.into())).collect();
        let merges = ["\u{2581} \u{2581}", "\u{2581} a"];
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": true, "fuse_unk": false, "ignore_merges": false},
        });
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("tokenizer.json"), json.to_string()).expect("written");
        Tokenizer::open(folder.path(), usize::MAX).expect("opens")
    }

    /// What a reader sees who is shown the tokens after the first `context` ones; a character is never cut.
    fn streamed(t: &Tokenizer, tokens: &[u32], context: usize) -> String {
        let mut decoder = t.stream(&tokens[..context]);
        let mut seen: String = tokens[context..].iter().map(|&token| decoder.push(token).expect("decodes")).collect();
        seen.push_str(&decoder.finish().expect("decodes"));
        seen
    }

    #[test]
    fn tokens_as_they_come_give_the_text_of_all() {
        let long = "日本語のテキスト、絵文字👩‍👩‍👧‍👦も。".repeat(8);
        let texts =
            ["", " ", "  two  spaces ", "plain words, and more.", "naïve café — “quoted”\n\n\ttab", "😀😀🏳️‍🌈😀", "a\u{fffd}\u{fffd}b\u{fffd}", &long];
        for (kind, t) in [("level", byte_level()), ("fallback", byte_fallback())] {
            for text in texts {
                let tokens = t.encode(text, false).expect("encodes");
                assert_eq!(streamed(&t, &tokens, 0), text, "{kind}");
                assert_eq!(t.decode(&tokens).expect("decodes"), text, "{kind}");
                // From wherever a whole text may end, so that the rest begins with a character.
                for (at, _) in text.char_indices() {
                    let head = t.encode(&text[..at], false).expect("encodes");
                    let tail = t.encode(&text[at..], false).expect("encodes");
                    let whole = t.decode(&[head.clone(), tail.clone()].concat()).expect("decodes");
                    let shown = t.decode(&head).expect("decodes");
                    assert_eq!(format!("{shown}{}", streamed(&t, &[head.clone(), tail].concat(), head.len())), whole, "{kind} at {at}");
                }
            }
        }
    }

    /// Texts of which no part is like another: lines, one line, one word, digits, spaces, letters of several bytes.
    fn texts() -> Vec<String> {
        let lines =
            [" = Heading = ", "", " ", "a town on a an\tat  ", "日本語 😀", "  ", "don't   stop 1850 .", &"no end ".repeat(40), "\r", "\u{2028}x"];
        let text: String = (0..400usize).map(|i| format!("{}\n", lines[i * i % 37 % lines.len()])).collect();
        let line = text.replace(['\n', '\r', '\u{2028}'], " ");
        let word = line.replace(' ', "");
        let digits: String = (0..4000u32).map(|i| (i * i).to_string()).collect();
        let spaces: String = (0..90usize).map(|i| " ".repeat(i * i % 41) + ["", "a", "\n", "it's"][i % 4]).collect();
        vec![
            text,
            line,
            word,
            digits,
            spaces,
            " ".repeat(9000),
            "a".repeat(9000),
            "日本語👩‍👩‍👧‍👦é".repeat(500),
            "'s".repeat(4000),
            "<|im_end|> ".repeat(500),
        ]
    }

    #[test]
    fn pieces_give_the_tokens_of_the_whole() {
        for (kind, t) in [("level", byte_level()), ("fallback", byte_fallback())] {
            for text in texts() {
                let whole = t.encode_by(usize::MAX, &text, usize::MAX).expect("encodes");
                for piece in [1, 40, 64, 300, 2000, text.len() - 1] {
                    let start = text.chars().take(12).collect::<String>();
                    assert!(t.encode_by(piece, &text, usize::MAX).expect("encodes") == whole, "{kind}, pieces of {piece}: {start}");
                }
                for limit in [0, 1, whole.len() / 2, whole.len() - 1] {
                    match t.encode_at_most(&text, false, limit) {
                        Err(Error::Context { tokens, capacity }) => assert!(tokens > limit && tokens <= whole.len() && capacity == limit),
                        other => panic!("{kind}: {other:?}"),
                    }
                }
                assert_eq!(t.encode_at_most(&text, false, whole.len()).expect("fits"), whole);
            }
        }
    }

    #[test]
    fn long_texts_are_encoded_in_short_pieces_or_not_at_all() {
        for (kind, t) in [("level", byte_level()), ("fallback", byte_fallback())] {
            let longest = std::cell::Cell::new(0);
            let encode = |part: &str| {
                longest.set(longest.get().max(part.len()));
                let encoded = t.inner.encode(part, false).expect("encodes");
                let at = encoded.get_offsets().iter().map(|&(from, to)| from..to);
                Ok(at.zip(encoded.get_ids()).map(|(at, &id)| Token { at, id }).collect())
            };
            for text in texts() {
                let long = text.repeat(100_000 / text.len() + 1);
                pieces::encode(&long, 4096, usize::MAX, &encode).expect("encodes");
            }
            assert!(longest.get() <= 4 * 4096, "{kind}: {}", longest.get());
            // Known from its length: the text is not looked at.
            let far = t.longest.expect("known") * 1001;
            assert!(matches!(t.encode_at_most(&"a".repeat(far), true, 1000), Err(Error::Context { tokens: 1001, capacity: 1000 })), "{kind}");
            // Known once there are too many.
            longest.set(0);
            let seen = std::cell::Cell::new(0);
            let counted = |part: &str| {
                seen.set(seen.get() + part.len());
                encode(part)
            };
            assert!(pieces::encode(&"an a ".repeat(100_000), 4096, 1000, &counted).is_err());
            assert!(seen.get() < 6 * 4096, "{kind}: {}", seen.get());
        }
    }

    #[test]
    fn bytes_that_are_no_text_lose_nothing_around_them() {
        let t = byte_level();
        let mut state = 1u32;
        for _ in 0..200 {
            let tokens: Vec<u32> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // The first 256 entries are the single bytes.
                    if state >> 30 == 0 { (state >> 8) % 4000 } else { (state >> 8) % 256 }
                })
                .collect();
            assert_eq!(streamed(&t, &tokens, 0), t.decode(&tokens).expect("decodes"));
        }
        // A byte that is none, then a character of four: the bytes fall back one by one, and all are shown.
        let t = byte_fallback();
        let face = t.encode("😀", false).expect("encodes");
        let tokens: Vec<u32> = std::iter::repeat_n(face[face.len() - 1], 30).chain(t.encode("and on", false).expect("encodes")).collect();
        assert_eq!(streamed(&t, &tokens, 0), t.decode(&tokens).expect("decodes"));
    }
}
