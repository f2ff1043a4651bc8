//! tokenizer.json and the files beside it, damaged: opening, encoding, decoding and streaming give an error at most.
use super::{cases, change, changes};
use proptest::prelude::*;
use ram_run::Tokenizer;
use serde_json::Value;
use std::{fs, path::Path};

const TEXT: &str = " The town's 1850  \n\n don't héllo 日本 😀<|im_end|> \t<0x0A> aaaa";

fn file(folder: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("tokenizer.json")).expect("a tokenizer")
}

/// As Llama and Mixtral have it: every part that byte-level ones do not have.
fn fallback() -> Vec<u8> {
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let letters = ["\u{2581}", "\u{2581}\u{2581}", "a", "t", "\u{2581}a", "<unk>", "<s>"].map(String::from);
    let vocab: serde_json::Map<String, Value> = letters.into_iter().chain(bytes).enumerate().map(|(id, token)| (token, id.into())).collect();
    let added = |id: u32, text: &str| serde_json::json!({"id": id, "content": text, "single_word": false, "lstrip": true, "rstrip": true, "normalized": false, "special": true});
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [added(5, "<unk>"), added(6, "<s>")],
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true}, {"type": "Digits", "individual_digits": true},
            {"type": "FixedLength", "length": 5}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [6], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "CTC", "pad_token": "a", "word_delimiter_token": "t", "cleanup": true},
            {"type": "WordPiece", "prefix": "a", "cleanup": true}, {"type": "BPEDecoder", "suffix": "t"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "vocab": vocab,
            "merges": ["\u{2581} \u{2581}", "\u{2581} a"], "byte_fallback": true, "fuse_unk": true, "ignore_merges": false},
    });
    json.to_string().into_bytes()
}

/// Opens and uses; panics only where the library does.
fn used(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("tokenizer.json"), bytes).expect("written");
    let Ok(t) = Tokenizer::open(folder.path(), usize::MAX) else { return };
    let tokens = t.encode(TEXT, true).unwrap_or_default();
    let _ = t.encode_at_most(TEXT, true, 3);
    let _ = t.decode(&tokens);
    let _ = t.encode("", true);
    // Tokens that a model can give, known ones or not.
    let given: Vec<u32> = tokens.iter().copied().chain((0..t.vocabulary() as u32).step_by(97)).chain([0, 1, 2, 5, 261, u32::MAX]).collect();
    let mut decoder = t.stream(&given[..given.len() / 2]);
    for &token in &given {
        let _ = decoder.push(token);
    }
    let _ = decoder.finish();
    for &token in &given {
        let _ = t.decode(&[token]);
    }
}

#[test]
fn any_byte_may_be_another() {
    let own = file("models/tiny-qwen3-moe");
    for (bytes, step) in [(file("tests/fixtures/mixtral-bf16"), 3), (fallback(), 5)] {
        for at in (0..bytes.len()).step_by(step) {
            let mut bytes = bytes.clone();
            bytes[at] = [b'0', b'9', b'"', b'x', 0xff, bytes[at] ^ 1, bytes[at] ^ 32][at / step % 7];
            used(&bytes);
        }
    }
    // All of it but the vocabulary, of which some.
    for at in (0..2200).step_by(23).chain((2200..own.len()).step_by(3001)) {
        let mut own = own.clone();
        own[at] = [b'1', own[at] ^ 1][at % 2];
        used(&own);
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn tokenizers_with_other_bytes(which in any::<bool>(), places in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut bytes = if which { fallback() } else { file("tests/fixtures/mixtral-bf16") };
        for (at, byte) in places {
            let n = bytes.len();
            bytes[at % n] = byte;
        }
        used(&bytes);
    }

    #[test]
    fn tokenizers_with_other_values(which in any::<bool>(), changes in changes()) {
        let bytes = if which { fallback() } else { file("tests/fixtures/mixtral-bf16") };
        let mut json: Value = serde_json::from_slice(&bytes).expect("JSON");
        // Places in the vocabulary are most of all: it is changed on its own.
        let mut vocab = json["model"]["vocab"].take();
        if changes.len() > 2 { change(&mut vocab, &changes) } else { change(&mut json, &changes) }
        if json["model"].is_object() {
            json["model"]["vocab"] = vocab;
        }
        used(json.to_string().as_bytes());
    }

    #[test]
    fn tokenizer_configs_with_other_values(changes in changes()) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("tokenizer.json"), file("tests/fixtures/mixtral-bf16")).expect("written");
        let mut json = serde_json::json!({"bos_token": {"content": "<|endoftext|>"}, "eos_token": "<|im_end|>", "add_bos_token": true, "eos_token_id": [1, 2],
            "chat_template": [{"name": "default", "template": "x"}]});
        change(&mut json, &changes);
        for name in ["tokenizer_config.json", "generation_config.json"] {
            fs::write(folder.path().join(name), json.to_string()).expect("written");
        }
        if let Err(e) = Tokenizer::open(folder.path(), usize::MAX) {
            prop_assert!(e.to_string().contains("eos_token_id"), "{e}");
        }
    }
}
