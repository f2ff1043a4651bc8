//! Reading the keys of a JSON object so that every one is accounted for, and what can be wrong with one.
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Why a config.json is not one that can be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// `model_type` is none of those that are known.
    #[error("model_type '{found}' is not supported; these are: {supported}")]
    UnknownModelType {
        /// What it is.
        found: String,
        /// Those that are known.
        supported: String,
    },
    /// A key that is needed is not there.
    #[error("the key {key} is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// The value makes no sense.
    #[error("{key} is {found}, but must be {expected}")]
    Invalid {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it would have to be.
        expected: String,
    },
    /// The value makes sense, would change the result, and is not supported.
    #[error("{key} is {found}, which is not supported: only {supported}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is supported.
        supported: String,
    },
    /// A key of which nothing says that it leaves the result alone.
    #[error("the key {key} (here {found}) is not known and could change what the model computes; it would have to be supported first")]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value.
        found: String,
    },
}

/// The keys of an object, with a note of those that have been read. Null is as good as absent.
pub(crate) struct Keys<'a> {
    /// In front of keys in errors: empty, or the outer key and a dot.
    prefix: String,
    map: &'a Map<String, Value>,
    read: BTreeSet<String>,
}

impl<'a> Keys<'a> {
    pub fn parse(text: &str) -> Result<Map<String, Value>, ConfigError> {
        serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))
    }

    pub fn new(map: &'a Map<String, Value>) -> Keys<'a> {
        Keys { prefix: String::new(), map, read: BTreeSet::new() }
    }

    /// The object under `key`.
    pub fn inner(&mut self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        let prefix = format!("{}{key}.", self.prefix);
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Keys { prefix, map, read: BTreeSet::new() }))
    }

    pub fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        self.typed(key, "a text", |v| v.as_str().map(str::to_string))
    }

    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn size(&mut self, key: &str, least: usize, most: usize) -> Result<Option<usize>, ConfigError> {
        let expected =
            if most == usize::MAX { format!("a whole number of at least {least}") } else { format!("a whole number from {least} to {most}") };
        self.typed(key, &expected, |v| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (least..=most).contains(n)))
    }

    /// Whether the key is there and says nothing.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    pub fn whole_number(&mut self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.typed(key, "a whole number", Value::as_i64)
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Keys that have not been read, with their values.
    pub fn unread(&self) -> Vec<(String, &'a Value)> {
        self.map.iter().filter(|(key, _)| !self.read.contains(*key)).map(|(key, value)| (key.clone(), value)).collect()
    }

    pub fn number(&mut self, key: &str, least: f64, most: f64) -> Result<Option<f64>, ConfigError> {
        let expected = if least > 0.0 { "a positive number".to_string() } else { format!("a number from {least} to {most}") };
        self.typed(key, &expected, |v| v.as_f64().filter(|n| (least..=most).contains(n)))
    }

    /// A list of numbers.
    pub fn numbers(&mut self, key: &str, least: f64, most: f64) -> Result<Option<Vec<f64>>, ConfigError> {
        let one = |v: &Value| v.as_f64().filter(|n| (least..=most).contains(n));
        self.typed(key, "a list of positive numbers", |v| v.as_array()?.iter().map(one).collect())
    }

    pub fn token(&mut self, key: &str) -> Result<Option<u32>, ConfigError> {
        self.typed(key, "a token's number", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let one = |v: &Value| v.as_str().map(str::to_string);
        self.typed(key, "a list of texts", |v| v.as_array()?.iter().map(one).collect())
    }

    /// A list of numbers; one number is a list of one, absence one of none.
    pub fn tokens(&mut self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let list = |v: &Value| match v {
            Value::Array(values) => values.iter().map(one).collect(),
            _ => one(v).map(|n| vec![n]),
        };
        Ok(self.typed(key, "a list of whole numbers", list)?.unwrap_or_default())
    }

    /// What `get` finds under `key`, which must be there.
    pub fn need<T>(&mut self, key: &str, get: impl Fn(&mut Self, &str) -> Result<Option<T>, ConfigError>) -> Result<T, ConfigError> {
        let found = get(self, key)?;
        self.present(key, found)
    }

    pub fn present<T>(&self, key: &str, found: Option<T>) -> Result<T, ConfigError> {
        found.ok_or_else(|| ConfigError::Missing { key: format!("{}{key}", self.prefix) })
    }

    /// Null, false, 0 and empty values pass.
    pub fn off(&mut self, key: &str) -> Result<(), ConfigError> {
        let off = self.value(key).is_none_or(|value| match value {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
        });
        if off { Ok(()) } else { Err(self.unsupported(key, "null, false or 0")) }
    }

    /// Keys that do not change what is computed, whatever their value.
    pub fn ignore(&mut self, keys: &[&str]) {
        self.read.extend(keys.iter().map(|key| key.to_string()));
    }

    /// A flag that the architecture has decided already.
    pub fn only(&mut self, key: &str, value: bool) -> Result<(), ConfigError> {
        if self.flag(key)?.is_some_and(|found| found != value) {
            Err(self.unsupported(key, &format!("{value} with this model_type")))
        } else {
            Ok(())
        }
    }

    /// A text that must be `only`, where there is one.
    pub fn only_text(&mut self, key: &str, only: &str) -> Result<(), ConfigError> {
        if self.text(key)?.is_some_and(|found| found != only) { Err(self.unsupported(key, &format!("'{only}'"))) } else { Ok(()) }
    }

    /// A factor that must be 1.
    pub fn whole(&mut self, key: &str) -> Result<(), ConfigError> {
        if self.number(key, 0.0, f64::MAX)?.is_some_and(|found| found != 1.0) { Err(self.unsupported(key, "1")) } else { Ok(()) }
    }

    /// A list of `len` texts which are all `only`.
    pub fn every(&mut self, key: &str, len: usize, only: &str) -> Result<(), ConfigError> {
        let Some(list) = self.typed(key, "a list", |v| v.as_array().cloned())? else { return Ok(()) };
        if let Some(other) = list.iter().find(|v| *v != only) {
            return Err(ConfigError::Unsupported {
                key: format!("{}{key}", self.prefix),
                found: show(other),
                supported: format!("'{only}' in every layer"),
            });
        }
        if list.len() != len {
            return Err(self.invalid(key, &format!("a list of {len}, one per layer")));
        }
        Ok(())
    }

    /// Every key has been read or is in `harmless`.
    pub fn all_known(&self, harmless: &[&str]) -> Result<(), ConfigError> {
        match self.map.iter().find(|(key, _)| !self.read.contains(*key) && !harmless.contains(&key.as_str())) {
            Some((key, value)) => Err(ConfigError::UnknownKey { key: format!("{}{key}", self.prefix), found: show(value) }),
            None => Ok(()),
        }
    }

    pub fn invalid(&self, key: &str, expected: &str) -> ConfigError {
        ConfigError::Invalid { key: format!("{}{key}", self.prefix), found: self.show(key), expected: expected.to_string() }
    }

    pub fn unsupported(&self, key: &str, supported: &str) -> ConfigError {
        ConfigError::Unsupported { key: format!("{}{key}", self.prefix), found: self.show(key), supported: supported.to_string() }
    }

    fn value(&mut self, key: &str) -> Option<&'a Value> {
        self.read.insert(key.to_string());
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(&mut self, key: &str, expected: &str, get: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => get(value).map(Some).ok_or_else(|| self.invalid(key, expected)),
        }
    }

    fn show(&self, key: &str) -> String {
        self.map.get(key).map_or_else(|| "absent".to_string(), show)
    }
}

/// A value on one line, cut where it is long.
fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
