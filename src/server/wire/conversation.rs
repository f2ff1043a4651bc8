//! Messages as clients write them, and as templates read them.
use crate::{
    fields::{Fields, wrong},
    problem::Problem,
};
use serde_json::{Map, Value, json};

/// Messages of a conversation.
const MESSAGES: usize = 10_000;
/// Functions that may be called.
const TOOLS: usize = 256;

/// What templates read.
pub fn messages(fields: Fields) -> Result<Vec<Value>, Problem> {
    let given = fields.list("messages")?.ok_or_else(|| Problem::invalid("messages", "messages are missing: give one at least"))?;
    if given.is_empty() || given.len() > MESSAGES {
        return Err(Problem::invalid("messages", format!("messages must be from 1 to {MESSAGES}, and are {}", given.len())));
    }
    given.iter().enumerate().map(|(n, message)| one(message, &format!("messages[{n}]"))).collect()
}

fn one(message: &Value, path: &str) -> Result<Value, Problem> {
    let fields = Fields::of(message, path)?;
    let role = fields.text("role")?.ok_or_else(|| Problem::invalid(fields.at("role"), format!("{path} has no role")))?;
    let role = match role {
        // What newer models call it.
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role,
        "function" => "tool",
        other => {
            let at = fields.at("role");
            let message = format!("{at} is '{other}': it must be system, developer, user, assistant or tool");
            return Err(Problem::invalid(at, message));
        }
    };
    let content = match fields.get("content") {
        Some(content) => text(content, &fields.at("content"))?,
        None => String::new(),
    };
    let mut read = json!({"role": role, "content": content});
    for key in ["name", "tool_call_id"] {
        if let Some(text) = fields.text(key)? {
            read[key] = text.into();
        }
    }
    // Two names are in use.
    if let Some(thought) = fields.text("reasoning_content")?.or(fields.text("reasoning")?) {
        read["reasoning_content"] = thought.into();
    }
    if let Some(calls) = fields.list("tool_calls")?.filter(|calls| !calls.is_empty()) {
        let calls = calls.iter().enumerate().map(|(n, call)| called(call, &format!("{}[{n}]", fields.at("tool_calls"))));
        read["tool_calls"] = Value::Array(calls.collect::<Result<_, _>>()?);
    }
    Ok(read)
}

/// Content as one text.
fn text(content: &Value, at: &str) -> Result<String, Problem> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(at, "a string or an array of parts", other)),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (n, part) in parts.iter().enumerate() {
        let at = format!("{at}[{n}]");
        if let Value::String(text) = part {
            texts.push(text.as_str());
            continue;
        }
        let fields = Fields::of(part, &at)?;
        match fields.text("type")? {
            Some("text" | "input_text" | "output_text") | None => texts.push(fields.text("text")?.unwrap_or_default()),
            Some("refusal") => texts.push(fields.text("refusal")?.unwrap_or_default()),
            Some(kind) => return Err(Problem::invalid(&at, format!("{at} is of type {kind}: this model reads text alone"))),
        }
    }
    Ok(texts.join("\n"))
}

/// Whether the last message is one of the model's own that can go on.
pub fn goes_on(messages: &[Value]) -> bool {
    messages.last().is_some_and(|m| m["role"] == "assistant" && m.get("tool_calls").is_none())
}

/// Templates want arguments as an object; clients send them as its text.
fn called(call: &Value, path: &str) -> Result<Value, Problem> {
    let function = call.get("function").ok_or_else(|| Problem::invalid(path, format!("{path} has no function")))?;
    let mut call = call.clone();
    if let Some(arguments) = function["arguments"].as_str().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok()) {
        call["function"]["arguments"] = Value::Object(arguments);
    }
    Ok(call)
}

/// The functions that may be called; tools of other kinds are left out, as those are for servers that have them.
pub fn tools(fields: Fields) -> Result<Vec<Value>, Problem> {
    let Some(given) = fields.list("tools")? else { return Ok(Vec::new()) };
    if given.len() > TOOLS {
        return Err(Problem::invalid("tools", format!("tools are {}: {TOOLS} at the most", given.len())));
    }
    let mut tools = Vec::new();
    for (n, tool) in given.iter().enumerate() {
        let path = format!("tools[{n}]");
        let own = Fields::of(tool, &path)?;
        if own.text("type")?.is_none_or(|kind| kind == "function") {
            let at = own.at("function");
            let function = Fields::of(own.get("function").unwrap_or(&Value::Null), &at)?;
            if function.text("name")?.is_none_or(str::is_empty) {
                return Err(Problem::invalid(function.at("name"), format!("{at} has no name")));
            }
            tools.push(tool.clone());
        }
    }
    Ok(tools)
}

/// Variables of the template: those that a request may set.
pub fn variables(fields: Fields, think: bool) -> Result<Map<String, Value>, Problem> {
    const OWN: [&str; 8] =
        ["messages", "tools", "documents", "bos_token", "eos_token", "add_generation_prompt", "continue_final_message", "chat_template"];
    let mut variables: Map<String, Value> = [("enable_thinking".to_string(), think.into())].into_iter().collect();
    if let Some(effort) = fields.text("reasoning_effort")? {
        variables.insert("enable_thinking".into(), (effort != "none").into());
        variables.insert("reasoning_effort".into(), effort.into());
    }
    for (key, value) in fields.object("chat_template_kwargs")?.into_iter().flatten() {
        let at = format!("chat_template_kwargs.{key}");
        if OWN.contains(&key.as_str()) {
            return Err(Problem::invalid(&at, format!("{at} is not for requests to set")));
        }
        if value.is_object() || value.is_array() {
            return Err(wrong(&at, "a string, a number or a boolean", value));
        }
        variables.insert(key.clone(), value.clone());
    }
    Ok(variables)
}
