//! How models write calls of functions: each family as its chat template shows it.
use super::channels::CHANNEL;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Marks of a call of its own.
pub const TAGGED: (&str, &str) = ("<tool_call>", "</tool_call>");
/// The mark behind which nothing but calls comes.
const LISTED: &str = "[TOOL_CALLS]";
const ARGUMENTS: &str = "[ARGS]";

/// A function that a model calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// An object, as JSON.
    pub arguments: String,
}

/// The way in which a model writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// `<tool_call>` and `</tool_call>` around each (Hermes, Qwen): JSON, or Qwen3-Coder's `<function=NAME>` with a `<parameter=KEY>` for each
    /// argument.
    Tagged,
    /// `[TOOL_CALLS]` before all (Mistral): a list of JSON, or each as `NAME[ARGS]{...}`.
    Listed,
    /// A message of its own in a channel, for `functions.NAME` (gpt-oss).
    Channels,
}

impl Calls {
    /// That of a model with this chat template; `None` where the template knows of no tools.
    pub fn of(template: &str) -> Option<Calls> {
        if !template.contains("tools") {
            return None;
        }
        [(TAGGED.0, Calls::Tagged), (LISTED, Calls::Listed), (CHANNEL, Calls::Channels)]
            .into_iter()
            .find(|(mark, _)| template.contains(mark))
            .map(|(_, calls)| calls)
    }

    /// The mark that calls begin with, where they have one.
    pub fn opens(self) -> Option<&'static str> {
        match self {
            Calls::Tagged => Some(TAGGED.0),
            Calls::Listed => Some(LISTED),
            Calls::Channels => None,
        }
    }

    /// The calls that stand behind the opening mark, and before the closing one; `None` where that is something else.
    pub(super) fn read(self, inner: &str, tools: &[Value]) -> Option<Vec<Call>> {
        match self {
            Calls::Tagged if inner.trim_start().starts_with('{') => one(serde_json::from_str(inner.trim()).ok()?).map(|call| vec![call]),
            Calls::Tagged => parameters(inner, tools).map(|call| vec![call]),
            Calls::Listed if inner.trim_start().starts_with('[') => {
                let mut values = serde_json::Deserializer::from_str(inner.trim_start()).into_iter::<Vec<Value>>();
                values.next()?.ok()?.into_iter().map(one).collect()
            }
            Calls::Listed => named(inner),
            Calls::Channels => None,
        }
    }
}

/// `{"name": ..., "arguments": {...}}`.
fn one(value: Value) -> Option<Call> {
    #[derive(Deserialize)]
    struct Written {
        name: String,
        #[serde(alias = "parameters", default)]
        arguments: Value,
    }
    let Written { name, arguments } = serde_json::from_value(value).ok()?;
    let arguments = match arguments {
        Value::Null => "{}".into(),
        Value::String(json) => json,
        object @ Value::Object(_) => object.to_string(),
        _ => return None,
    };
    Some(Call { name, arguments })
}

/// `<function=NAME> <parameter=KEY> value </parameter> ... </function>`; a value is a text unless its tool says that it is something else.
fn parameters(inner: &str, tools: &[Value]) -> Option<Call> {
    let (name, mut rest) = inner.trim().strip_prefix("<function=")?.split_once('>')?;
    let tool = tools.iter().find(|tool| tool["function"]["name"] == name).map_or(&Value::Null, |tool| &tool["function"]["parameters"]["properties"]);
    let mut arguments = Map::new();
    while let Some((_, next)) = rest.split_once("<parameter=") {
        let (key, value) = next.split_once('>')?;
        let (value, after) = value.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let kind = &tool[key]["type"];
        let typed = if kind.is_null() || kind == "string" { None } else { serde_json::from_str(value.trim()).ok() };
        arguments.insert(key.into(), typed.unwrap_or_else(|| value.into()));
        rest = after;
    }
    rest.contains("</function>").then(|| Call { name: name.into(), arguments: Value::Object(arguments).to_string() })
}

/// `NAME[ARGS]{...}`, as often as there are calls.
fn named(mut rest: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    loop {
        let (name, after) = rest.split_once(ARGUMENTS)?;
        let name = name.split("[CALL_ID]").next().unwrap_or(name).trim();
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Map<String, Value>>();
        let arguments = values.next()?.ok()?;
        calls.push(Call { name: name.into(), arguments: Value::Object(arguments).to_string() });
        let after = after[values.byte_offset()..].trim_start();
        match after.strip_prefix(LISTED) {
            Some(next) => rest = next,
            None => return Some(calls),
        }
    }
}
