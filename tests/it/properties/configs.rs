//! config.json and generation_config.json.
use super::{cases, change, changes};
use proptest::prelude::*;
use ram_run::{Description, Sampler, Sampling};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

/// The configurations of all fixtures, quantized ones too.
fn fixtures() -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folders = [root.clone(), root.join("quantized")].map(|f| fs::read_dir(f).expect("fixtures").flatten());
    let texts = folders.into_iter().flatten().filter_map(|e| fs::read_to_string(e.path().join("config.json")).ok());
    texts.map(|text| serde_json::from_str(&text).expect("JSON")).collect()
}

/// All keys in a value.
fn keys(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| {
            all.insert(key.clone());
            keys(inner, all);
        }),
        Value::Array(list) => list.iter().for_each(|inner| keys(inner, all)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn configs_are_read_or_a_key_is_named(which in any::<usize>(), changes in changes()) {
        let all = fixtures();
        let before = &all[which % all.len()];
        let mut config = before.clone();
        change(&mut config, &changes);
        match Description::from_json(&config.to_string()) {
            Ok(read) => prop_assert!(read.tensors().len() < 1 << 20),
            Err(e) => {
                let mut known = BTreeSet::new();
                keys(before, &mut known);
                keys(&config, &mut known);
                let said = e.to_string();
                prop_assert!(known.iter().any(|key| said.contains(key.as_str())), "{said}");
                prop_assert!(said.len() < 6000 && !said.contains('\n'), "{said}");
            }
        }
    }

    #[test]
    fn configs_of_any_text_are_no_configs(text in ".{0,200}") {
        prop_assert!(Description::from_json(&text).is_err());
    }

    #[test]
    fn published_sampling_works_or_its_file_is_named(changes in changes()) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut json = serde_json::json!({"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": null, "repetition_penalty": 1.05});
        change(&mut json, &changes);
        fs::write(folder.path().join("generation_config.json"), json.to_string()).expect("written");
        match Sampling::published(folder.path()) {
            Ok(how) => prop_assert!(Sampler::new(how).is_ok(), "{json}"),
            Err(e) => prop_assert!(e.to_string().contains("generation_config.json: has"), "{e}"),
        }
    }
}
