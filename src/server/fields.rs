//! Members of a request: absent and null are one, whole numbers may be written with a point, and what is wrong is named by its place.
use crate::problem::Problem;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// An object of a request.
#[derive(Clone, Copy)]
pub struct Fields<'a, 'p> {
    of: &'a Map<String, Value>,
    /// Where it stands: empty, or a path.
    path: &'p str,
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value that should be something else.
pub fn wrong(path: &str, want: &str, found: &Value) -> Problem {
    let name = if path.is_empty() { "The request" } else { path };
    Problem::invalid(path, format!("{name} must be {want}, and is {}", kind(found)))
}

impl<'a, 'p> Fields<'a, 'p> {
    /// Those of `value`, which stands at `path`.
    pub fn of(value: &'a Value, path: &'p str) -> Result<Fields<'a, 'p>, Problem> {
        value.as_object().map(|of| Fields { of, path }).ok_or_else(|| wrong(path, "an object", value))
    }

    /// The path of a member.
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// A member that is there.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.of.get(key).filter(|value| !value.is_null())
    }

    fn as_<T>(&self, key: &str, want: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>, Problem> {
        self.get(key).map(|value| read(value).ok_or_else(|| wrong(&self.at(key), want, value))).transpose()
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        self.as_(key, "a string", Value::as_str)
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Problem> {
        self.as_(key, "a boolean", Value::as_bool)
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&'a Vec<Value>>, Problem> {
        self.as_(key, "an array", Value::as_array)
    }

    /// A number within a range.
    pub fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, Problem> {
        let Some(number) = self.as_(key, "a number", Value::as_f64)? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number as f32));
        }
        let at = self.at(key);
        Err(Problem::invalid(&at, format!("{at} is {number}: it must be from {} to {}", range.start(), range.end())))
    }

    /// A whole number within a range.
    pub fn whole(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Problem> {
        let read = |value: &Value| value.as_i64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64));
        let Some(number) = self.as_(key, "a whole number", read)? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let at = self.at(key);
        Err(Problem::invalid(&at, format!("{at} is {number}: it must be from {} to {}", range.start(), range.end())))
    }

    /// A member's own members.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, Problem> {
        self.as_(key, "an object", Value::as_object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_read_as_clients_write_them() {
        let value = json!({"a": 100.0, "b": null, "c": "x", "d": 1.5, "e": -1});
        let fields = Fields::of(&value, "").expect("an object");
        assert_eq!(fields.whole("a", 0..=200).expect("whole"), Some(100));
        assert!(fields.whole("b", 0..=200).expect("absent").is_none() && fields.get("z").is_none());
        for (key, word) in [("c", "a string"), ("d", "a number"), ("e", "from 0")] {
            let problem = fields.whole(key, 0..=200).expect_err("refused");
            assert!(problem.param.as_deref() == Some(key) && problem.message.contains(word), "{problem:?}");
        }
        let inner = json!([1]);
        assert_eq!(Fields::of(&inner, "tools[0]").err().and_then(|p| p.param).as_deref(), Some("tools[0]"));
    }
}
