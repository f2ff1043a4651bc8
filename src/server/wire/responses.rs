//! `/v1/responses`, without a memory of earlier ones: translated into the protocol of `/v1/chat/completions`, and answers back.
use super::{body, chat};
use crate::{
    Shared,
    access::Owner,
    fields::{Fields, wrong},
    generation::{End, Generation, Reason, Step},
    problem::{Problem, json_response},
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
pub async fn create(State(shared): State<Arc<Shared>>, Extension(Owner(owner)): Extension<Owner>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let given = body(&shared, request).await?;
    let asked = chat::read(&shared, &ready, &translated(&given)?, owner).await?;
    let prompt = asked.ask.prompts[0].tokens.len();
    let generation = Generation::start(&shared, &ready, asked.ask)?;
    let mut told = json!({
        "id": chat::name(&shared, "resp"), "object": "response", "created_at": crate::now(), "status": "in_progress", "error": null,
        "incomplete_details": null, "instructions": given["instructions"], "max_output_tokens": given["max_output_tokens"],
        "model": ready.served.id, "output": [], "parallel_tool_calls": true, "previous_response_id": null,
        "reasoning": {"effort": given["reasoning"]["effort"], "summary": null}, "store": false, "temperature": given["temperature"],
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": given["top_p"], "truncation": "disabled",
        "usage": null, "user": null, "metadata": {},
    });
    // What was asked for is said again.
    for key in ["parallel_tool_calls", "text", "tool_choice", "tools", "metadata"] {
        if let Some(value) = given.get(key).filter(|value| !value.is_null()) {
            told[key] = value.clone();
        }
    }
    let answer = Growing { told, prompt, items: Vec::new(), open: None };
    if asked.stream {
        let every = shared.options.ping;
        return Ok(sse::response(async move |frames| streamed(answer, generation, frames, every).await));
    }
    whole(answer, generation).await
}

/// The same request in the words of `/v1/chat/completions`.
fn translated(given: &Value) -> Result<Value, Problem> {
    let fields = Fields::of(given, "")?;
    if fields.get("previous_response_id").is_some() {
        let message = "This server keeps no responses: send the whole conversation as input, and no previous_response_id";
        return Err(Problem::invalid("previous_response_id", message));
    }
    let mut chat = Map::new();
    for key in ["model", "temperature", "top_p", "top_k", "stream", "parallel_tool_calls", "seed", "stop", "chat_template_kwargs"] {
        if let Some(value) = fields.get(key) {
            chat.insert(key.into(), value.clone());
        }
    }
    if let Some(most) = fields.get("max_output_tokens") {
        chat.insert("max_tokens".into(), most.clone());
    }
    if let Some(effort) = fields.object("reasoning")?.and_then(|reasoning| reasoning.get("effort")).filter(|effort| effort.is_string()) {
        chat.insert("reasoning_effort".into(), effort.clone());
    }
    let mut messages = Vec::new();
    if let Some(text) = fields.text("instructions")?.filter(|text| !text.is_empty()) {
        messages.push(json!({"role": "system", "content": text}));
    }
    match fields.get("input") {
        None => messages.push(json!({"role": "user", "content": ""})),
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) => {
            for (n, item) in items.iter().enumerate() {
                said(item, &format!("input[{n}]"), &mut messages)?;
            }
        }
        Some(other) => return Err(wrong("input", "a string or an array of items", other)),
    }
    if messages.iter().all(|message| message["role"] == "system") {
        // Some ask for nothing to see whether there is an answer.
        messages.push(json!({"role": "user", "content": ""}));
    }
    chat.insert("messages".into(), messages.into());
    if let Some(tools) = fields.list("tools")? {
        let own = tools.iter().filter(|tool| tool["type"] == "function");
        let function = |tool: &Value| {
            let keys = ["name", "description", "parameters"].into_iter().filter_map(|key| Some((key.to_string(), tool.get(key)?.clone())));
            json!({"type": "function", "function": keys.collect::<Map<_, _>>()})
        };
        chat.insert("tools".into(), own.map(function).collect());
    }
    match fields.get("tool_choice") {
        Some(Value::Object(choice)) => drop(chat.insert("tool_choice".into(), json!({"type": "function", "function": {"name": choice.get("name")}}))),
        Some(choice) => drop(chat.insert("tool_choice".into(), choice.clone())),
        None => {}
    }
    if let Some(format) = fields.object("text")?.and_then(|text| text.get("format")) {
        chat.insert("response_format".into(), format.clone());
    }
    Ok(Value::Object(chat))
}

/// An item of the input.
fn said(item: &Value, path: &str, messages: &mut Vec<Value>) -> Result<(), Problem> {
    let fields = Fields::of(item, path)?;
    match fields.text("type")? {
        None | Some("message") => {
            let role = fields.text("role")?.ok_or_else(|| Problem::invalid(fields.at("role"), format!("{path} has no role")))?;
            let mut message = json!({"role": role, "content": fields.get("content").unwrap_or(&Value::Null)});
            // What it thought before stands before it.
            if let Some(thought) = messages.last_mut().filter(|last| last["role"] == "assistant" && last.get("content").is_none()) {
                message["reasoning_content"] = thought["reasoning_content"].clone();
                messages.pop();
            }
            messages.push(message);
        }
        Some("function_call") => {
            let call = json!({"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}});
            // Calls of one turn are one message.
            match messages.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => messages.push(json!({"role": "assistant", "tool_calls": [call]})),
            }
        }
        Some("function_call_output") => {
            messages.push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": fields.get("output").unwrap_or(&Value::Null)}));
        }
        Some("reasoning") => {
            let texts = ["content", "summary"].iter().filter_map(|key| item[*key].as_array()).flatten().filter_map(|part| part["text"].as_str());
            let thought = texts.collect::<Vec<_>>().join("\n");
            if !thought.is_empty() {
                messages.push(json!({"role": "assistant", "reasoning_content": thought}));
            }
        }
        // Of things that only other servers have.
        Some(_) => {}
    }
    Ok(())
}

/// A response as it grows.
struct Growing {
    told: Value,
    prompt: usize,
    items: Vec<Value>,
    /// Whether the last item is not over: the names of its part and of its text.
    open: Option<(&'static str, &'static str)>,
}

impl Growing {
    fn id(&self, kind: &str) -> String {
        format!("{kind}_{}_{}", self.told["id"].as_str().unwrap_or_default(), self.items.len())
    }

    /// All of it, as it is now.
    fn json(&self) -> Value {
        let mut told = self.told.clone();
        told["output"] = self.items.clone().into();
        told
    }

    /// Adds to the last item's text, which must be of that kind; the events that this is.
    fn text(&mut self, kind: (&'static str, &'static str), text: &str, events: &mut Vec<Value>) {
        if self.open.is_some_and(|open| open != kind) {
            self.close(events);
        }
        let part =
            if kind == SAID { json!({"type": kind.0, "text": "", "annotations": [], "logprobs": []}) } else { json!({"type": kind.0, "text": ""}) };
        if self.open.is_none() {
            let item = if kind == SAID {
                json!({"id": self.id("msg"), "type": "message", "status": "in_progress", "role": "assistant", "content": []})
            } else {
                json!({"id": self.id("rs"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []})
            };
            events.push(json!({"type": "response.output_item.added", "output_index": self.items.len(), "item": item}));
            let (index, id) = (self.items.len(), item["id"].clone());
            events.push(json!({"type": "response.content_part.added", "item_id": id, "output_index": index, "content_index": 0, "part": part}));
            self.items.push(item);
            self.open = Some(kind);
            let last = self.items.len() - 1;
            self.items[last]["content"] = json!([part]);
        }
        let last = self.items.len() - 1;
        let own = &mut self.items[last]["content"][0]["text"];
        *own = format!("{}{text}", own.as_str().unwrap_or_default()).into();
        let mut delta = json!({
            "type": format!("response.{}.delta", kind.1), "item_id": self.items[last]["id"], "output_index": last, "content_index": 0, "delta": text,
        });
        if kind == SAID {
            delta["logprobs"] = json!([]);
        }
        events.push(delta);
    }

    /// Ends the last item; the events that this is.
    fn close(&mut self, events: &mut Vec<Value>) {
        let Some((_, name)) = self.open.take() else { return };
        let last = self.items.len() - 1;
        self.items[last]["status"] = "completed".into();
        let (item, part) = (&self.items[last], &self.items[last]["content"][0]);
        let mut done = json!({
            "type": format!("response.{name}.done"), "item_id": item["id"], "output_index": last, "content_index": 0, "text": part["text"],
        });
        if name == SAID.1 {
            done["logprobs"] = json!([]);
        }
        events.push(done);
        events.push(json!({"type": "response.content_part.done", "item_id": item["id"], "output_index": last, "content_index": 0, "part": part}));
        events.push(json!({"type": "response.output_item.done", "output_index": last, "item": item}));
    }

    fn part(&mut self, part: Part, events: &mut Vec<Value>) {
        match part {
            Part::Said(text) => self.text(SAID, &text, events),
            Part::Thought(text) => self.text(THOUGHT, &text, events),
            Part::Call(call) => {
                self.close(events);
                let (index, id) = (self.items.len(), self.id("fc"));
                let item = |status: &str, arguments: &str| json!({"id": id, "type": "function_call", "status": status, "call_id": id.replacen("fc_", "call_", 1), "name": call.name, "arguments": arguments});
                events.push(json!({"type": "response.output_item.added", "output_index": index, "item": item("in_progress", "")}));
                let delta = "response.function_call_arguments.delta";
                events.push(json!({"type": delta, "item_id": id, "output_index": index, "delta": call.arguments}));
                let done = "response.function_call_arguments.done";
                events.push(json!({"type": done, "item_id": id, "output_index": index, "name": call.name, "arguments": call.arguments}));
                self.items.push(item("completed", &call.arguments));
                events.push(json!({"type": "response.output_item.done", "output_index": index, "item": self.items[index]}));
            }
        }
    }

    fn end(&mut self, end: &End, events: &mut Vec<Value>) {
        self.close(events);
        let whole = end.reason == Reason::Stop || end.calls;
        self.told["status"] = if whole { "completed" } else { "incomplete" }.into();
        if !whole {
            self.told["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        self.told["usage"] = json!({
            "input_tokens": self.prompt, "input_tokens_details": {"cached_tokens": end.done.cached}, "output_tokens": end.tokens,
            "output_tokens_details": {"reasoning_tokens": end.thinking}, "total_tokens": self.prompt + end.tokens,
        });
        let name = if whole { "response.completed" } else { "response.incomplete" };
        events.push(json!({"type": name, "response": self.json()}));
    }
}

/// What an item's part is called, and its events.
const SAID: (&str, &str) = ("output_text", "output_text");
const THOUGHT: (&str, &str) = ("reasoning_text", "reasoning_text");

async fn whole(mut answer: Growing, mut generation: Generation) -> Result<Response, Problem> {
    while let Some((_, step)) = generation.next().await? {
        let mut events = Vec::new();
        match step {
            Step::Parts(parts, _) => parts.into_iter().for_each(|part| answer.part(part, &mut events)),
            Step::End(end) => answer.end(&end, &mut events),
            Step::Prompt { .. } | Step::Scores(_) => {}
        }
    }
    Ok(json_response(StatusCode::OK, &answer.json()))
}

async fn streamed(mut answer: Growing, mut generation: Generation, frames: Frames, every: Duration) -> Result<(), Gone> {
    let mut number = 0;
    let mut events = ["response.created", "response.in_progress"].map(|name| json!({"type": name, "response": answer.json()})).to_vec();
    loop {
        for mut event in events.drain(..) {
            event["sequence_number"] = number.into();
            number += 1;
            frames.raw(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())).await?;
        }
        match frames.beside((chat::COMMENT, every), generation.next()).await? {
            Ok(Some((_, Step::Parts(parts, _)))) => parts.into_iter().for_each(|part| answer.part(part, &mut events)),
            Ok(Some((_, Step::End(end)))) => answer.end(&end, &mut events),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(problem) => {
                answer.told["status"] = "failed".into();
                answer.told["error"] = json!({"code": "server_error", "message": problem.message});
                let event = json!({"type": "response.failed", "sequence_number": number, "response": answer.json()});
                return frames.raw(format!("event: response.failed\ndata: {event}\n\n")).await;
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
            "model": "m", "instructions": "Be brief.", "max_output_tokens": 5, "reasoning": {"effort": "low"},
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "r"},
                {"type": "web_search_call", "id": "x"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "u"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}, {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "f"}, "text": {"format": {"type": "json_object"}},
        });
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        let want = json!({
            "model": "m", "max_tokens": 5, "reasoning_effort": "low",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"role": "assistant", "reasoning_content": "t", "tool_calls": [call("1", "f"), call("2", "g")]},
                {"role": "tool", "tool_call_id": "1", "content": "r"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "b"}], "reasoning_content": "u"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}}, "response_format": {"type": "json_object"},
        });
        assert_eq!(translated(&given).expect("translated"), want);
        let empty = translated(&json!({"input": []})).expect("translated");
        assert_eq!(empty["messages"], json!([{"role": "user", "content": ""}]));
        assert_eq!(translated(&json!({"previous_response_id": "r"})).err().and_then(|p| p.param).as_deref(), Some("previous_response_id"));
    }
}
