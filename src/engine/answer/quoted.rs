//! Calls as Gemma-4 writes them: `call:NAME{key:value,...}`, where texts stand between tokens of their own and keys between nothing.
use serde_json::{Map, Value};

/// Around a text.
pub const QUOTE: &str = "<|\"|>";

/// A name and its arguments, which may be JSON as well.
pub fn read(inner: &str) -> Option<(&str, Map<String, Value>)> {
    let (name, rest) = inner.trim().strip_prefix("call:")?.split_once('{')?;
    let written = &inner.trim()[inner.trim().len() - rest.len() - 1..];
    let arguments = match serde_json::from_str::<Map<String, Value>>(written) {
        Ok(json) => json,
        Err(_) => {
            let (arguments, rest) = object(rest, 0)?;
            rest.trim().is_empty().then_some(arguments)?
        }
    };
    Some((name.trim(), arguments))
}

/// Objects and lists within each other, at the most.
const DEPTH: usize = 64;

/// What stands behind an object's opening brace, and what is behind the closing one.
fn object(mut rest: &str, depth: usize) -> Option<(Map<String, Value>, &str)> {
    let mut all = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((all, rest));
        }
        let (key, behind) = match rest.strip_prefix(QUOTE) {
            Some(quoted) => {
                let (key, behind) = quoted.split_once(QUOTE)?;
                (key, behind.trim_start().strip_prefix(':')?)
            }
            None => rest.split_once(':')?,
        };
        let (value, behind) = value(behind, depth + 1)?;
        all.insert(key.trim().into(), value);
        rest = separated(behind, '}')?;
    }
}

/// Behind the comma after a value, or before the mark that closes all.
fn separated(rest: &str, closing: char) -> Option<&str> {
    let rest = rest.trim_start();
    if rest.starts_with(closing) { Some(rest) } else { rest.strip_prefix(',') }
}

/// A value, and what is behind it.
fn value(rest: &str, depth: usize) -> Option<(Value, &str)> {
    if depth > DEPTH {
        return None;
    }
    let rest = rest.trim_start();
    if let Some(quoted) = rest.strip_prefix(QUOTE) {
        let (text, behind) = quoted.split_once(QUOTE)?;
        return Some((text.into(), behind));
    }
    if let Some(inner) = rest.strip_prefix('{') {
        let (all, behind) = object(inner, depth)?;
        return Some((Value::Object(all), behind));
    }
    if let Some(mut inner) = rest.strip_prefix('[') {
        let mut all = Vec::new();
        loop {
            inner = inner.trim_start();
            if let Some(behind) = inner.strip_prefix(']') {
                return Some((Value::Array(all), behind));
            }
            let (one, behind) = value(inner, depth + 1)?;
            all.push(one);
            inner = separated(behind, ']')?;
        }
    }
    let (plain, behind) = rest.split_at(rest.find([',', '}', ']'])?);
    let plain = plain.trim();
    Some((if plain == "None" { Value::Null } else { serde_json::from_str(plain).ok()? }, behind))
}
