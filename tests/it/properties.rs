//! Properties of what others write: files that are damaged or made up give an error that names the thing, and never a panic.
//!
//! `PROPTEST_CASES` says how many cases of each are tried; docs/robustness.md says how many were.
mod checkpoints;
mod configs;
mod programs;
mod tokenizers;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};
use serde_json::Value;

/// So many cases, always the same ones; where `PROPTEST_CASES` says how many, other ones each time.
fn cases(short: u32) -> Config {
    let said = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let rng_seed = if said.is_some() { RngSeed::Random } else { RngSeed::Fixed(18) };
    Config { cases: said.unwrap_or(short), rng_seed, failure_persistence: None, ..Config::default() }
}

/// Any JSON, with numbers that are at the edge of something.
fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (0u64..70).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u32..64).prop_map(|shift| Value::from(1u64 << shift)),
        any::<f64>().prop_map(Value::from),
    ];
    let text = prop_oneof!["[a-z_]{0,12}", ".{0,6}", Just("x".repeat(5000))].prop_map(Value::from);
    let leaf = prop_oneof![4 => number, 2 => text, 1 => any::<bool>().prop_map(Value::from), 1 => Just(Value::Null)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
        let object = prop::collection::vec(("[a-z_]{1,8}", inner), 0..4).prop_map(|all| Value::Object(all.into_iter().collect()));
        prop_oneof![list, object]
    })
}

/// What is done to one place of a JSON value.
#[derive(Clone, Debug)]
enum Change {
    /// Another value.
    Put(Value),
    /// A key, or an item, less.
    Remove,
    /// A key, or an item, more.
    Add(String, Value),
}

/// Changes, each with a number that chooses the place.
fn changes() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let change = prop_oneof![
        4 => any_json().prop_map(Change::Put),
        1 => Just(Change::Remove),
        1 => ("[a-z_]{1,10}", any_json()).prop_map(|(key, value)| Change::Add(key, value)),
    ];
    prop::collection::vec((any::<usize>(), change), 1..4)
}

/// Every place in a value, as the way to it.
fn places(value: &Value, way: &str, all: &mut Vec<String>) {
    all.push(way.into());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| places(inner, &format!("{way}/{}", key.replace('~', "~0").replace('/', "~1")), all)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, inner)| places(inner, &format!("{way}/{i}"), all)),
        _ => {}
    }
}

/// Does the changes; the value stays an object.
fn change(value: &mut Value, changes: &[(usize, Change)]) {
    for (at, change) in changes {
        let mut all = Vec::new();
        places(value, "", &mut all);
        let way = all.swap_remove(at % all.len());
        let Some(place) = value.pointer_mut(&way) else { continue };
        match (change, place) {
            (Change::Put(new), place) if !way.is_empty() => *place = new.clone(),
            (Change::Remove, Value::Object(map)) => drop(map.keys().nth(at % map.len().max(1)).cloned().and_then(|key| map.remove(&key))),
            (Change::Remove, Value::Array(list)) => drop(list.pop()),
            (Change::Add(key, new), Value::Object(map)) => drop(map.insert(key.clone(), new.clone())),
            (Change::Add(_, new), Value::Array(list)) => list.push(new.clone()),
            _ => {}
        }
    }
}
