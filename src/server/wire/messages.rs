//! `/v1/messages`, the protocol of Anthropic's clients: translated into that of `/v1/chat/completions`, and answers back.
use super::{body, chat};
use crate::{
    Shared,
    access::Owner,
    fields::{Fields, wrong},
    generation::{End, Generation, Reason, Step},
    problem::{Problem, json_response},
    prompt::of_conversation,
    sse::{self, Frames, Gone},
};
use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use ram_engine::Part;
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};

/// Answers a conversation.
pub async fn create(State(shared): State<Arc<Shared>>, Extension(Owner(owner)): Extension<Owner>, request: Request) -> Response {
    created(shared, owner, request).await.unwrap_or_else(Problem::into_message)
}

async fn created(shared: Arc<Shared>, owner: u64, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let given = body(&shared, request).await?;
    let asked = chat::read(&shared, &ready, &translated(&given)?, owner).await?;
    let prompt = asked.ask.prompts[0].tokens.len();
    let generation = Generation::start(&shared, &ready, asked.ask)?;
    let told = Told { id: chat::name(&shared, "msg"), model: ready.served.id.clone(), prompt };
    if asked.stream {
        let every = shared.options.ping;
        return Ok(sse::response(async move |frames| Stream { frames, every, told, blocks: 0, open: None }.run(generation).await));
    }
    whole(generation, &told).await
}

/// How many tokens a conversation has.
pub async fn count(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    counted(shared, request).await.unwrap_or_else(Problem::into_message)
}

async fn counted(shared: Arc<Shared>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let given = translated(&body(&shared, request).await?)?;
    let prompt = of_conversation(&shared, &ready, super::tokens::conversation(Fields::of(&given, "")?, ready.served.think)?).await?;
    Ok(json_response(StatusCode::OK, &json!({"input_tokens": prompt.tokens.len()})))
}

/// A block of the system prompt that changes with every request, and would have everything behind it computed anew.
const BILLING: &str = "x-anthropic-billing-header";

/// The same request in the words of `/v1/chat/completions`.
fn translated(given: &Value) -> Result<Value, Problem> {
    let fields = Fields::of(given, "")?;
    let mut chat = Map::new();
    for key in ["model", "max_tokens", "temperature", "top_p", "top_k", "stream"] {
        if let Some(value) = fields.get(key) {
            chat.insert(key.into(), value.clone());
        }
    }
    if let Some(stops) = fields.get("stop_sequences") {
        chat.insert("stop".into(), stops.clone());
    }
    let mut messages = Vec::new();
    let system = match fields.get("system") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(blocks)) => {
            let texts = blocks.iter().filter_map(|block| block["text"].as_str()).filter(|text| !text.starts_with(BILLING));
            texts.collect::<Vec<_>>().join("\n")
        }
        Some(other) => return Err(wrong("system", "a string or an array of blocks", other)),
    };
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    let given = fields.list("messages")?.ok_or_else(|| Problem::invalid("messages", "messages are missing: give one at least"))?;
    for (n, message) in given.iter().enumerate() {
        said(message, &format!("messages[{n}]"), &mut messages)?;
    }
    chat.insert("messages".into(), messages.into());
    if let Some(tools) = fields.list("tools")? {
        // Those of a type of their own are for servers that have them.
        let own = tools.iter().filter(|tool| tool.get("type").is_none_or(|kind| kind.is_null() || kind == "custom"));
        let function = |tool: &Value| {
            let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
            if let Some(description) = tool.get("description") {
                function["description"] = description.clone();
            }
            json!({"type": "function", "function": function})
        };
        chat.insert("tools".into(), own.map(function).collect());
    }
    if let Some(choice) = fields.object("tool_choice")? {
        let choice_of = match choice.get("type").and_then(Value::as_str) {
            Some("auto") => json!("auto"),
            Some("none") => json!("none"),
            Some("any") => json!("required"),
            Some("tool") => json!({"type": "function", "function": {"name": choice.get("name")}}),
            _ => return Err(Problem::invalid("tool_choice.type", "tool_choice.type must be auto, any, tool or none")),
        };
        chat.insert("tool_choice".into(), choice_of);
        if choice.get("disable_parallel_tool_use") == Some(&Value::Bool(true)) {
            chat.insert("parallel_tool_calls".into(), false.into());
        }
    }
    let thinking = fields.object("thinking")?;
    let thinks = thinking.is_some_and(|thinking| thinking.get("type").is_some_and(|kind| kind != "disabled"));
    chat.insert("chat_template_kwargs".into(), json!({"enable_thinking": thinks}));
    if let Some(most) = thinking.and_then(|thinking| thinking.get("budget_tokens")) {
        chat.insert("reasoning_budget".into(), most.clone());
    }
    Ok(Value::Object(chat))
}

/// A message, which may be several there: results of functions are messages of their own.
fn said(message: &Value, path: &str, messages: &mut Vec<Value>) -> Result<(), Problem> {
    let fields = Fields::of(message, path)?;
    let role = fields.text("role")?.ok_or_else(|| Problem::invalid(fields.at("role"), format!("{path} has no role")))?;
    if !["user", "assistant", "system"].contains(&role) {
        return Err(Problem::invalid(fields.at("role"), format!("{path}.role is '{role}': it must be user or assistant")));
    }
    let at = fields.at("content");
    let blocks = match fields.get("content") {
        Some(Value::String(text)) => {
            messages.push(json!({"role": role, "content": text}));
            return Ok(());
        }
        Some(Value::Array(blocks)) => blocks,
        Some(other) => return Err(wrong(&at, "a string or an array of blocks", other)),
        None => return Err(Problem::invalid(&at, format!("{at} is missing"))),
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (n, block) in blocks.iter().enumerate() {
        let at = format!("{at}[{n}]");
        let text = |key: &str| block[key].as_str().unwrap_or_default();
        match block["type"].as_str() {
            Some("text") => texts.push(text("text")),
            Some("thinking") => thoughts.push(text("thinking")),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                calls.push(
                    json!({"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": block["input"].to_string()}}),
                );
            }
            Some("tool_result") => {
                let content = match &block["content"] {
                    Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
                    Value::String(text) => text.clone(),
                    _ => String::new(),
                };
                messages.push(json!({"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}));
            }
            kind => return Err(Problem::invalid(&at, format!("{at} is of type {}: this model reads text alone", kind.unwrap_or("none")))),
        }
    }
    if texts.is_empty() && calls.is_empty() && thoughts.is_empty() {
        return Ok(());
    }
    let mut read = json!({"role": role, "content": texts.join("\n")});
    if !thoughts.is_empty() {
        read["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        read["tool_calls"] = calls.into();
    }
    messages.push(read);
    Ok(())
}

/// What is told of an answer besides its blocks.
struct Told {
    id: String,
    model: String,
    prompt: usize,
}

fn reason(end: &End) -> &'static str {
    match end.reason {
        _ if end.calls => "tool_use",
        _ if end.stopped.is_some() => "stop_sequence",
        Reason::Stop => "end_turn",
        Reason::Length => "max_tokens",
    }
}

fn usage(prompt: usize, end: &End) -> Value {
    let cached = end.done.cached;
    json!({
        "input_tokens": prompt.saturating_sub(cached), "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0,
        "output_tokens": end.tokens,
    })
}

/// What an input is as a value: calls have it as text.
fn input(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}

async fn whole(mut generation: Generation, told: &Told) -> Result<Response, Problem> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut ended = None;
    let add = |blocks: &mut Vec<Value>, kind: &str, key: &str, text: &str| match blocks.last_mut() {
        Some(last) if last["type"] == kind => last[key] = format!("{}{text}", last[key].as_str().unwrap_or_default()).into(),
        _ => blocks.push(json!({"type": kind, key: text})),
    };
    while let Some((_, step)) = generation.next().await? {
        match step {
            Step::Parts(parts, _) => {
                for part in parts {
                    match part {
                        Part::Thought(text) => add(&mut blocks, "thinking", "thinking", &text),
                        Part::Said(text) => add(&mut blocks, "text", "text", &text),
                        Part::Call(call) => {
                            let id = format!("toolu_{}_{}", told.id, blocks.len());
                            blocks.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": input(&call.arguments)}));
                        }
                    }
                }
            }
            Step::End(end) => ended = Some(*end),
            Step::Prompt { .. } | Step::Scores(_) => {}
        }
    }
    for block in &mut blocks {
        if block["type"] == "thinking" {
            // Clients send it back; there is nothing to sign.
            block["signature"] = "".into();
        }
    }
    let end = ended.ok_or_else(|| Problem::fault("The answer has no end"))?;
    let answer = json!({
        "id": told.id, "type": "message", "role": "assistant", "model": told.model, "content": blocks, "stop_reason": reason(&end),
        "stop_sequence": end.stopped, "usage": usage(told.prompt, &end),
    });
    Ok(json_response(StatusCode::OK, &answer))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Thinking,
    Text,
}

/// An answer as it comes: blocks, one after the other.
struct Stream {
    frames: Frames,
    every: Duration,
    told: Told,
    /// Blocks that were begun.
    blocks: usize,
    open: Option<Kind>,
}

const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

impl Stream {
    async fn event(&self, data: Value) -> Result<(), Gone> {
        self.frames.raw(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())).await
    }

    async fn begin(&mut self, block: Value) -> Result<(), Gone> {
        self.event(json!({"type": "content_block_start", "index": self.blocks, "content_block": block})).await?;
        self.blocks += 1;
        Ok(())
    }

    async fn delta(&self, delta: Value) -> Result<(), Gone> {
        self.event(json!({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta})).await
    }

    async fn end(&mut self) -> Result<(), Gone> {
        if self.open.take() == Some(Kind::Thinking) {
            self.delta(json!({"type": "signature_delta", "signature": ""})).await?;
        }
        self.event(json!({"type": "content_block_stop", "index": self.blocks - 1})).await
    }

    async fn text(&mut self, kind: Kind, text: &str) -> Result<(), Gone> {
        if self.open.is_some_and(|open| open != kind) {
            self.end().await?;
        }
        let (block, delta) = match kind {
            Kind::Thinking => (json!({"type": "thinking", "thinking": "", "signature": ""}), json!({"type": "thinking_delta", "thinking": text})),
            Kind::Text => (json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": text})),
        };
        if self.open.is_none() {
            self.begin(block).await?;
            self.open = Some(kind);
        }
        self.delta(delta).await
    }

    async fn run(mut self, mut generation: Generation) -> Result<(), Gone> {
        let usage_before =
            json!({"input_tokens": self.told.prompt, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 0});
        let message = json!({
            "id": self.told.id, "type": "message", "role": "assistant", "model": self.told.model, "content": [], "stop_reason": null,
            "stop_sequence": null, "usage": usage_before,
        });
        self.event(json!({"type": "message_start", "message": message})).await?;
        loop {
            let step = match self.frames.beside((PING, self.every), generation.next()).await? {
                Ok(Some((_, step))) => step,
                Ok(None) => return Ok(()),
                Err(problem) => {
                    let kind = if problem.status == StatusCode::SERVICE_UNAVAILABLE { "overloaded_error" } else { "api_error" };
                    return self.event(problem.message_json(kind)).await;
                }
            };
            match step {
                Step::Prompt { .. } | Step::Scores(_) => {}
                Step::Parts(parts, _) => {
                    for part in parts {
                        match part {
                            Part::Thought(text) => self.text(Kind::Thinking, &text).await?,
                            Part::Said(text) => self.text(Kind::Text, &text).await?,
                            Part::Call(call) => {
                                if self.open.is_some() {
                                    self.end().await?;
                                }
                                let id = format!("toolu_{}_{}", self.told.id, self.blocks);
                                self.begin(json!({"type": "tool_use", "id": id, "name": call.name, "input": {}})).await?;
                                self.delta(json!({"type": "input_json_delta", "partial_json": call.arguments})).await?;
                                self.end().await?;
                            }
                        }
                    }
                }
                Step::End(end) => {
                    if self.open.is_some() {
                        self.end().await?;
                    }
                    let delta = json!({"stop_reason": reason(&end), "stop_sequence": end.stopped});
                    self.event(json!({"type": "message_delta", "delta": delta, "usage": usage(self.told.prompt, &end)})).await?;
                    self.event(json!({"type": "message_stop"})).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_translated() {
        let given = json!({
            "model": "m", "max_tokens": 9, "stop_sequences": ["x"], "thinking": {"type": "enabled", "budget_tokens": 50},
            "system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1"}, {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": ""}, {"type": "text", "text": "b"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "r"}]}, {"type": "text", "text": "c"}]},
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        });
        let want = json!({
            "model": "m", "max_tokens": 9, "stop": ["x"],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "reasoning_content": "t", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "r"},
                {"role": "user", "content": "c"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "description": "d"}}],
            "tool_choice": "required", "parallel_tool_calls": false, "chat_template_kwargs": {"enable_thinking": true}, "reasoning_budget": 50,
        });
        assert_eq!(translated(&given).expect("translated"), want);
        for (given, param) in [
            (json!({"messages": [{"role": "wizard", "content": "a"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "messages[0].content[0]"),
            (json!({}), "messages"),
        ] {
            assert_eq!(translated(&given).err().and_then(|problem| problem.param).as_deref(), Some(param));
        }
    }
}
