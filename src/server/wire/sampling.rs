//! How tokens are chosen, as requests say it.
use crate::{fields::Fields, fields::wrong, problem::Problem};
use ram_engine::Sampling;
use serde_json::Value;
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

/// Tokens with a bias.
const BIASES: usize = 1024;
/// Stop strings, and bytes of one.
const STOPS: usize = 16;
const STOP: usize = 256;
/// Alternatives of a token.
pub const TOP: i64 = 20;
/// Answers to one prompt.
pub const COUNT: i64 = 8;
/// Of any number that is not bounded otherwise.
const MUCH: f64 = 1e6;

/// What a request says, over what the model's authors say.
pub fn sampling(fields: Fields, published: &Sampling) -> Result<Sampling, Problem> {
    let mut how = published.clone();
    if let Some(temperature) = fields.number("temperature", 0.0..=MUCH)? {
        how.temperature = temperature;
    }
    if let Some(top_p) = fields.number("top_p", 0.0..=1.0)? {
        how.top_p = top_p;
        if top_p == 0.0 {
            // Nothing but the likeliest.
            (how.top_p, how.top_k) = (1.0, 1);
        }
    }
    if let Some(top_k) = fields.whole("top_k", -1..=1 << 30)? {
        how.top_k = usize::try_from(top_k).unwrap_or(0);
    }
    if let Some(min_p) = fields.number("min_p", 0.0..=1.0)? {
        how.min_p = min_p;
    }
    for key in ["repeat_penalty", "repetition_penalty"] {
        if let Some(penalty) = fields.number(key, 0.01..=MUCH)? {
            how.repeat_penalty = penalty;
        }
    }
    if let Some(penalty) = fields.number("presence_penalty", -2.0..=2.0)? {
        how.presence_penalty = penalty;
    }
    if let Some(penalty) = fields.number("frequency_penalty", -2.0..=2.0)? {
        how.frequency_penalty = penalty;
    }
    how.logit_bias = biases(fields)?;
    // Without a seed, answers differ.
    how.seed = fields.whole("seed", i64::MIN..=i64::MAX)?.map_or_else(|| RandomState::new().build_hasher().finish(), |seed| seed as u64);
    Ok(how)
}

fn biases(fields: Fields) -> Result<Vec<(u32, f32)>, Problem> {
    let at = fields.at("logit_bias");
    let bad = || Problem::invalid(&at, format!("{at} must be an object of token numbers and biases from -100 to 100, {BIASES} at the most"));
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let all = value.as_object().filter(|all| all.len() <= BIASES).ok_or_else(bad)?;
    let one = |(token, bias): (&String, &Value)| Some((token.parse().ok()?, bias.as_f64().filter(|bias| bias.abs() <= 100.0)? as f32));
    all.iter().map(|pair| one(pair).ok_or_else(bad)).collect()
}

/// What an answer ends before.
pub fn stops(fields: Fields, key: &str) -> Result<Vec<String>, Problem> {
    let at = fields.at(key);
    let bad = || Problem::invalid(&at, format!("{at} must be a string or up to {STOPS} strings, each of up to {STOP} bytes"));
    let stops = match fields.get(key) {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(all)) => all.iter().map(|stop| stop.as_str().map(String::from).ok_or_else(bad)).collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong(&at, "a string or an array of strings", other)),
    };
    if stops.len() > STOPS || stops.iter().any(|stop| stop.len() > STOP) { Err(bad()) } else { Ok(stops) }
}

/// Whether a stream ends with the number of tokens.
pub fn include_usage(fields: Fields) -> Result<bool, Problem> {
    Ok(fields.object("stream_options")?.is_some_and(|options| options.get("include_usage") == Some(&Value::Bool(true))))
}

/// What is told of a logarithm: JSON has no infinity.
pub fn told(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// Tokens at the most: no end but the context's where nothing is said.
pub fn max_tokens(fields: Fields, keys: &[&str]) -> Result<usize, Problem> {
    let mut most = usize::MAX;
    for key in keys {
        if let Some(tokens) = fields.whole(key, -1..=i64::MAX)? {
            most = usize::try_from(tokens).unwrap_or(usize::MAX);
        }
    }
    Ok(most)
}
