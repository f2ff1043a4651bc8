//! How models write calls of functions: each family as its chat template shows it.
use super::{channels::CHANNEL, quoted};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Marks of a call of its own.
const TAGGED: [&str; 2] = ["<tool_call>", "</tool_call>"];
/// Marks of some calls (MiniMax).
const INVOKED: [&str; 2] = ["<minimax:tool_call>", "</minimax:tool_call>"];
/// Marks of a call of its own (Gemma-4).
pub(super) const QUOTED: [&str; 2] = ["<|tool_call>", "<tool_call|>"];
/// The mark behind which nothing but calls comes.
const LISTED: &str = "[TOOL_CALLS]";
const ARGUMENTS: &str = "[ARGS]";

/// Special tokens around some calls.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// Around all.
    pub all: [&'static str; 2],
    /// Around each.
    pub each: [&'static str; 2],
    /// Between a name and its arguments.
    pub between: &'static str,
    /// What stands before a name, and behind one.
    pub name: [&'static str; 2],
}

/// Kimi-K2's; calls are counted behind their names.
pub const KIMI: Section = Section {
    all: ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
    each: ["<|tool_call_begin|>", "<|tool_call_end|>"],
    between: "<|tool_call_argument_begin|>",
    name: ["functions.", ":0"],
};

/// DeepSeek's from V3.1 on; before, a name was behind the word function, and arguments were fenced.
pub const DEEPSEEK: Section = Section {
    all: ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
    each: ["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"],
    between: "<｜tool▁sep｜>",
    name: ["", ""],
};

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
    /// argument, or GLM's NAME with an `<arg_key>` and an `<arg_value>` for each.
    Tagged,
    /// `<minimax:tool_call>` around all (MiniMax), each an `<invoke name="NAME">` with a `<parameter name="KEY">` for each argument; or JSON.
    Invoked,
    /// `<|tool_call>` and `<tool_call|>` around each (Gemma-4), with texts between tokens of their own.
    Quoted,
    /// Special tokens around all and around each, and between a name and its arguments (Kimi-K2, DeepSeek).
    Sections(&'static Section),
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
        let marked = |calls: &Calls| template.contains(calls.opens().unwrap_or(CHANNEL));
        let sections = [Calls::Sections(&KIMI), Calls::Sections(&DEEPSEEK)];
        let all = sections.into_iter().chain([Calls::Quoted, Calls::Invoked, Calls::Tagged, Calls::Listed, Calls::Channels]);
        all.into_iter().find(marked)
    }

    /// The mark that calls begin with, where they have one.
    pub fn opens(self) -> Option<&'static str> {
        match self {
            Calls::Tagged => Some(TAGGED[0]),
            Calls::Quoted => Some(QUOTED[0]),
            Calls::Invoked => Some(INVOKED[0]),
            Calls::Sections(section) => Some(section.all[0]),
            Calls::Listed => Some(LISTED),
            Calls::Channels => None,
        }
    }

    /// The mark that they end with, where they have one.
    pub(super) fn closes(self) -> Option<&'static str> {
        match self {
            Calls::Tagged => Some(TAGGED[1]),
            Calls::Quoted => Some(QUOTED[1]),
            Calls::Invoked => Some(INVOKED[1]),
            Calls::Sections(section) => Some(section.all[1]),
            Calls::Listed | Calls::Channels => None,
        }
    }

    /// The calls that stand behind the opening mark, and before the closing one; `None` where that is something else.
    pub(super) fn read(self, inner: &str, tools: &[Value]) -> Option<Vec<Call>> {
        match self {
            Calls::Tagged | Calls::Invoked if inner.trim_start().starts_with('{') => {
                one(serde_json::from_str(inner.trim()).ok()?).map(|call| vec![call])
            }
            Calls::Tagged if inner.trim_start().starts_with("<function=") => parameters(inner, tools).map(|call| vec![call]),
            Calls::Tagged => keyed(inner, tools).map(|call| vec![call]),
            Calls::Invoked => invoked(inner, tools),
            Calls::Quoted => {
                let (name, arguments) = quoted::read(inner)?;
                Some(vec![Call { name: name.into(), arguments: Value::Object(arguments).to_string() }])
            }
            Calls::Sections(section) => sections(inner, section),
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

/// A call whose arguments are written one by one: a value is a text unless its tool says that it is something else. `mark` opens each, `key`
/// ends a key, `end` a value. With what is behind the last one.
fn written<'a>(name: &str, mut rest: &'a str, [mark, key, end]: [&str; 3], tools: &[Value]) -> Option<(Call, &'a str)> {
    let tool = tools.iter().find(|tool| tool["function"]["name"] == name).map_or(&Value::Null, |tool| &tool["function"]["parameters"]["properties"]);
    let mut arguments = Map::new();
    while let Some((_, next)) = rest.split_once(mark) {
        let (name, value) = next.split_once(key)?;
        let (value, after) = value.split_once(end)?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let kind = &tool[name]["type"];
        let typed = if kind.is_null() || kind == "string" { None } else { serde_json::from_str(value.trim()).ok() };
        arguments.insert(name.into(), typed.unwrap_or_else(|| value.into()));
        rest = after;
    }
    Some((Call { name: name.into(), arguments: Value::Object(arguments).to_string() }, rest))
}

/// `<function=NAME> <parameter=KEY> value </parameter> ... </function>`.
fn parameters(inner: &str, tools: &[Value]) -> Option<Call> {
    let (name, rest) = inner.trim().strip_prefix("<function=")?.split_once('>')?;
    let (call, rest) = written(name, rest, ["<parameter=", ">", "</parameter>"], tools)?;
    rest.contains("</function>").then_some(call)
}

/// `NAME <arg_key>KEY</arg_key> <arg_value>value</arg_value> ...`, of a tool that there is or with arguments: a name alone may be any word.
fn keyed(inner: &str, tools: &[Value]) -> Option<Call> {
    let (name, rest) = inner.split_at(inner.find("<arg_key>").unwrap_or(inner.len()));
    let name = name.trim();
    let known = tools.iter().any(|tool| tool["function"]["name"] == name);
    if name.is_empty() || name.contains(char::is_whitespace) || (rest.is_empty() && !known) {
        return None;
    }
    // Between a key and its value there may be a line's end.
    let rest = rest.replace("</arg_key>\n", "</arg_key>");
    let (call, rest) = written(name, &rest, ["<arg_key>", "</arg_key><arg_value>", "</arg_value>"], tools)?;
    rest.trim().is_empty().then_some(call)
}

/// `<invoke name="NAME"> <parameter name="KEY">value</parameter> ... </invoke>`, as often as there are calls.
fn invoked(inner: &str, tools: &[Value]) -> Option<Vec<Call>> {
    let (mut calls, mut rest) = (Vec::new(), inner);
    while let Some((_, next)) = rest.split_once("<invoke name=\"") {
        let (name, next) = next.split_once("\">")?;
        let (own, after) = next.split_once("</invoke>")?;
        calls.push(written(name, own, ["<parameter name=\"", "\">", "</parameter>"], tools)?.0);
        rest = after;
    }
    (!calls.is_empty()).then_some(calls)
}

/// Calls within special tokens: a name, with what its family writes around it, and JSON, which may be fenced behind it.
fn sections(inner: &str, section: &Section) -> Option<Vec<Call>> {
    let (mut calls, mut rest) = (Vec::new(), inner);
    while let Some((_, next)) = rest.split_once(section.each[0]) {
        let (own, after) = next.split_once(section.each[1])?;
        let (head, body) = own.split_once(section.between)?;
        let (name, json) = match body.split_once("```json") {
            Some((name, fenced)) => (name, fenced.split_once("```")?.0),
            None => (head, body),
        };
        let name = name.trim();
        let name = name.strip_prefix(section.name[0]).unwrap_or(name);
        let name = if section.name[1].is_empty() { name } else { name.rsplit_once(':').map_or(name, |(name, _)| name) };
        let arguments: Map<String, Value> = serde_json::from_str(json.trim()).ok()?;
        calls.push(Call { name: name.into(), arguments: Value::Object(arguments).to_string() });
        rest = after;
    }
    (!calls.is_empty()).then_some(calls)
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
