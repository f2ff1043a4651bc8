//! Headers of weight files and indexes, of dense and of quantized checkpoints.
use super::{Change, cases, change, changes};
use crate::bad_input::{Copy, copy};
use proptest::prelude::*;
use ram_run::Checkpoint;
use serde_json::Value;
use std::{fs, path::PathBuf};

const FOLDERS: [&str; 6] = [
    "qwen2-no-bias-f16",
    "qwen3-dense-bf16",
    "quantized/gptq-mixtral-3bit",
    "quantized/gptq-qwen2-order-dynamic",
    "quantized/mlx-qwen3-mixed",
    "mixtral-tied-f16",
];

/// A file of a checkpoint that holds or is a header.
fn headed(c: &Copy, which: usize) -> PathBuf {
    let all = fs::read_dir(&c.path).expect("a folder").flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = all.filter(|p| p.to_string_lossy().contains("model") && !p.ends_with("reference.safetensors")).collect();
    all.sort();
    all.swap_remove(which % all.len())
}

/// An error is one line, and says something.
fn opens_or_says_why(c: &Copy) -> Result<(), TestCaseError> {
    if let Err(e) = Checkpoint::open(&c.path) {
        let said = e.to_string();
        prop_assert!(said.len() > 10 && said.len() < 12_000, "{said}");
    }
    Ok(())
}

fn changed_header(which: usize, file: usize, changes: &[(usize, Change)]) -> Result<(), TestCaseError> {
    let c = copy(FOLDERS[which % FOLDERS.len()]);
    let path = headed(&c, file);
    let bytes = fs::read(&path).expect("a file");
    let index = path.extension().is_some_and(|e| e == "json");
    let n = if index { bytes.len() } else { u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize };
    let at = if index { 0 } else { 8 };
    let mut header: Value = serde_json::from_slice(&bytes[at..at + n]).expect("JSON");
    change(&mut header, changes);
    let text = header.to_string().into_bytes();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(&path, [&length[..at], &text, &bytes[at + n..]].concat()).expect("written");
    opens_or_says_why(&c)
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn headers_with_other_values(which in any::<usize>(), file in any::<usize>(), changes in changes()) {
        changed_header(which, file, &changes)?;
    }

    #[test]
    fn headers_with_other_bytes(which in any::<usize>(), file in any::<usize>(), places in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in prop::option::of(any::<usize>())) {
        let c = copy(FOLDERS[which % FOLDERS.len()]);
        let path = headed(&c, file);
        let mut bytes = fs::read(&path).expect("a file");
        for (at, byte) in places {
            // Most in the header.
            let near = bytes.len().min(3000);
            bytes[at % near] = byte;
        }
        bytes.truncate(cut.map_or(usize::MAX, |cut| cut % bytes.len()));
        fs::write(&path, bytes).expect("written");
        opens_or_says_why(&c)?;
    }

    #[test]
    fn configs_of_other_checkpoints(which in any::<usize>(), changes in changes()) {
        let c = copy(FOLDERS[which % FOLDERS.len()]);
        let path = c.path.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("a config")).expect("JSON");
        change(&mut config, &changes);
        fs::write(&path, config.to_string()).expect("written");
        opens_or_says_why(&c)?;
    }
}
