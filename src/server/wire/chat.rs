//! `/v1/chat/completions`.
use super::{
    body,
    conversation::{goes_on, messages, tools, variables},
    sampling::{COUNT, TOP, include_usage, max_tokens, sampling, stops, told},
};
use crate::{
    Ready, Shared,
    access::Owner,
    fields::Fields,
    generation::{Ask, End, Generation, Reason, Rules, Step},
    grammar::{Form, Matcher, Ruled, Thoughts},
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
use ram_engine::{Call, Calls, Conversation, Part, Scored, THOUGHTS, thinks_after};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// What a comment is in server-sent events.
pub const COMMENT: &str = ":\n\n";

/// What is told of an answer besides its text.
pub struct Told {
    id: String,
    model: String,
    created: u64,
    fingerprint: String,
    prompt: usize,
    /// Whether to tell what was thought of each token.
    logprobs: bool,
    /// Under which names thoughts are told.
    thoughts: &'static [&'static str],
}

/// A request that is understood.
pub struct Asked {
    /// What to generate.
    pub ask: Ask,
    /// Whether to tell it as it comes.
    pub stream: bool,
    usage: bool,
    progress: bool,
    told: Told,
}

/// Answers a conversation.
pub async fn complete(State(shared): State<Arc<Shared>>, Extension(Owner(owner)): Extension<Owner>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let body = body(&shared, request).await?;
    let Asked { ask, stream, usage, progress, told } = read(&shared, &ready, &body, owner).await?;
    let generation = Generation::start(&shared, &ready, ask)?;
    if stream {
        let ping = (COMMENT, shared.options.ping);
        return Ok(sse::response(async move |frames| Stream { frames, ping, told, usage, progress, since: Instant::now() }.run(generation).await));
    }
    whole(generation, &told).await
}

/// The name of the next answer.
pub fn name(shared: &Shared, kind: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{kind}-{}{:08x}", shared.name, COUNT.fetch_add(1, Relaxed))
}

/// What a request asks for, in the words of this protocol; those of others are translated into them.
pub async fn read(shared: &Shared, ready: &Arc<Ready>, body: &Value, owner: u64) -> Result<Asked, Problem> {
    let fields = Fields::of(body, "")?;
    named(shared, ready, fields)?;
    for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.get(old).is_some() {
            return Err(Problem::invalid(old, format!("{old} is of an older protocol: send {new}")));
        }
    }
    let (mut messages, tools) = (messages(fields)?, tools(fields)?);
    let called = called(ready, fields, tools)?;
    if let Some(told) = &called.told {
        messages.insert(0, json!({"role": "system", "content": told}));
    }
    let form = match called.form {
        Some(form) => Some(form),
        None => json_form(fields)?,
    };
    let top = if fields.flag("logprobs")?.unwrap_or(false) { Some(fields.whole("top_logprobs", 0..=TOP)?.unwrap_or(0) as usize) } else { None };
    let last_is_own = goes_on(&messages);
    let begins = fields.flag("add_generation_prompt")?.unwrap_or(false);
    let continues = fields.flag("continue_final_message")?.unwrap_or(last_is_own && !begins) && last_is_own;
    let variables = variables(fields, ready.served.think)?;
    let thinks = variables.get("enable_thinking") == Some(&Value::Bool(true));
    let most = fields.whole("reasoning_budget", -1..=1 << 30)?.and_then(|most| usize::try_from(most).ok());
    let conversation = Conversation { messages, tools: called.shown, variables, continues };
    let thoughts: &[&str] = match fields.text("reasoning_format")? {
        None | Some("deepseek" | "auto") => &["reasoning_content"],
        Some("both") => &["reasoning_content", "reasoning"],
        Some("none") => &[],
        Some(other) => return Err(Problem::invalid("reasoning_format", format!("reasoning_format is '{other}': it must be deepseek, both or none"))),
    };
    let ask = Ask {
        name: String::new(),
        prompts: Vec::new(),
        count: fields.whole("n", 1..=COUNT)?.unwrap_or(1) as usize,
        sampling: sampling(fields, &ready.served.sampling)?,
        max_tokens: max_tokens(fields, &["n_predict", "max_tokens", "max_completion_tokens"])?,
        stops: stops(fields, "stop")?,
        top,
        ignore_end: fields.flag("ignore_eos")?.unwrap_or(false) && form.is_none(),
        score: false,
        divided: !thoughts.is_empty(),
        calls: called.calls,
        guide: None,
        owner,
    };
    let (stream, progress) = (fields.flag("stream")?.unwrap_or(false), fields.flag("return_progress")?.unwrap_or(false));
    let usage = include_usage(fields)?;
    // What can be wrong with the rest is known: now it may take some time.
    let prompt = of_conversation(shared, ready, conversation).await?;
    let tokens = |[open, close]: [&str; 2]| ready.tokenizer.token(open).zip(ready.tokenizer.token(close));
    let marks = if thinks { THOUGHTS.iter().find_map(|thinking| tokens(thinking.tokens)) } else { None };
    let thoughts_of = Thoughts { begun: thinks_after(&prompt.text).is_some(), marks, most };
    let guide = rules(ready, form, thoughts_of).await?;
    let id = name(shared, "chatcmpl");
    let told = Told {
        id: id.clone(),
        model: ready.served.id.clone(),
        created: crate::now(),
        fingerprint: ready.fingerprint(),
        prompt: prompt.tokens.len(),
        logprobs: top.is_some(),
        thoughts,
    };
    Ok(Asked { ask: Ask { name: id, prompts: vec![prompt], guide, ..ask }, stream, usage, progress, told })
}

/// The functions that may be called, and how.
#[derive(Default)]
struct Called {
    /// Those that the template shows.
    shown: Vec<Value>,
    calls: Option<(Calls, Vec<Value>)>,
    /// Where one must be called.
    form: Option<Form>,
    /// What the model is told where its template knows of none.
    told: Option<String>,
}

fn called(ready: &Ready, fields: Fields, tools: Vec<Value>) -> Result<Called, Problem> {
    let at = "tool_choice";
    let several = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let (forced, several) = match fields.get(at) {
        Some(Value::String(choice)) if choice == "none" => return Ok(Called::default()),
        None => (None, several),
        Some(Value::String(choice)) if choice == "auto" => (None, several),
        Some(Value::String(choice)) if choice == "required" => (Some(tools.clone()), several),
        Some(choice) => {
            let name = choice["function"]["name"].as_str().ok_or_else(|| {
                Problem::invalid(at, "tool_choice must be none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}")
            })?;
            let tool = tools.iter().find(|tool| tool["function"]["name"] == name);
            let tool = tool.ok_or_else(|| Problem::invalid(at, format!("tool_choice names {name}, and no tool goes by that name")))?;
            (Some(vec![tool.clone()]), false)
        }
    };
    if tools.is_empty() {
        return match forced {
            Some(_) => Err(Problem::invalid(at, "tool_choice asks for a call, and there are no tools")),
            None => Ok(Called::default()),
        };
    }
    match (ready.calls, forced) {
        (Some(calls), forced) => {
            let form = forced.map(|tools| Form::Calls(calls, tools, several));
            Ok(Called { shown: tools.clone(), calls: Some((calls, tools)), form, told: None })
        }
        // Any model can be told how, and be held to it.
        (None, forced) => {
            let listed: String = forced.as_ref().unwrap_or(&tools).iter().map(|tool| format!("{tool}\n")).collect();
            let when = if forced.is_some() { "Answer by calling" } else { "You may call" };
            let told = format!(
                "{when} a function, as JSON within <tool_call> and </tool_call>: <tool_call>\n{{\"name\": NAME, \"arguments\": {{...}}}}\n</tool_call>. \
                 The functions are:\n{listed}"
            );
            let form = forced.map(|tools| Form::Calls(Calls::Tagged, tools, several));
            Ok(Called { shown: Vec::new(), calls: Some((Calls::Tagged, tools)), form, told: Some(told) })
        }
    }
}

/// The form that an answer is to have. It is written in three ways.
fn json_form(fields: Fields) -> Result<Option<Form>, Problem> {
    let at = "response_format";
    let Some(format) = fields.object(at)? else { return Ok(None) };
    let schema = format.get("json_schema").and_then(|named| named.get("schema")).or(format.get("schema"));
    match (format.get("type").and_then(Value::as_str), schema) {
        (Some("text"), _) => Ok(None),
        (Some("json_object" | "json_schema"), Some(schema)) => Ok(Some(Form::Json(schema.clone()))),
        (Some("json_object"), None) => Ok(Some(Form::Json(json!({"type": "object"})))),
        (Some("json_schema"), None) => Err(Problem::invalid(format!("{at}.json_schema.schema"), "response_format has no schema")),
        _ => Err(Problem::invalid(format!("{at}.type"), "response_format.type must be text, json_object or json_schema")),
    }
}

/// What makes the rules of each answer.
async fn rules(ready: &Arc<Ready>, form: Option<Form>, thoughts: Thoughts) -> Result<Option<Rules>, Problem> {
    let bounded = thoughts.most.is_some() && thoughts.marks.is_some();
    let Some(form) = form else {
        return Ok(bounded.then(|| ruled(move || None, thoughts)));
    };
    let ready = ready.clone();
    let made = tokio::task::spawn_blocking(move || {
        let channels = ready.calls == Some(Calls::Channels);
        ready.grammars.rules(&ready.tokenizer, &ready.bytes, &form, channels)
    })
    .await;
    let matcher = made.map_err(|e| Problem::fault(format!("A fault in the rules for the answer: {e}")))??;
    Ok(Some(ruled(move || Some(matcher.deep_clone()), thoughts)))
}

fn ruled(matcher: impl Fn() -> Option<Matcher> + Send + 'static, thoughts: Thoughts) -> Rules {
    Box::new(move || Box::new(Ruled::new(matcher(), thoughts)))
}

/// Whether the model that is asked for is this one, where that matters.
pub fn named(shared: &Shared, ready: &Ready, fields: Fields) -> Result<(), Problem> {
    match fields.text("model")? {
        Some(name) if shared.options.strict_model && name != ready.served.id => Err(super::models::unknown(name, ready)),
        _ => Ok(()),
    }
}

/// The number of tokens, as clients bill them.
pub fn usage(prompt: usize, ends: &[&End]) -> Value {
    let (completion, thinking) = (ends.iter().map(|end| end.tokens).sum::<usize>(), ends.iter().map(|end| end.thinking).sum::<usize>());
    let cached = ends.iter().map(|end| end.done.cached).max().unwrap_or(0);
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached}, "completion_tokens_details": {"reasoning_tokens": thinking},
    })
}

/// What the first answer took.
pub fn timings(prompt: usize, end: &End) -> Value {
    let (computed, decoded) = (prompt.saturating_sub(end.done.cached), end.tokens.saturating_sub(1));
    let rate = |tokens: usize, time: std::time::Duration| if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() };
    json!({
        "cache_n": end.done.cached, "prompt_n": computed, "prompt_ms": 1e3 * end.done.prefill.as_secs_f64(),
        "prompt_per_second": rate(computed, end.done.prefill), "predicted_n": end.tokens, "predicted_ms": 1e3 * end.done.decode.as_secs_f64(),
        "predicted_per_second": rate(decoded, end.done.decode), "queue_ms": 1e3 * end.done.queued.as_secs_f64(),
    })
}

/// How much of a prompt is computed.
pub fn progress(total: usize, computed: usize, cached: usize, since: Instant) -> Value {
    json!({"total": total, "cache": cached, "processed": computed, "time_ms": since.elapsed().as_millis() as u64})
}

fn reason(end: &End) -> &'static str {
    match end.reason {
        _ if end.calls => "tool_calls",
        Reason::Stop => "stop",
        Reason::Length => "length",
    }
}

/// A token with the logarithm of its probability.
fn logprob(ready: &Ready, token: u32, logprob: f32) -> Value {
    let bytes = ready.bytes_of(token);
    json!({"token": String::from_utf8_lossy(bytes), "logprob": told(logprob), "bytes": bytes})
}

fn logprobs(ready: &Ready, scored: &Scored) -> Value {
    let mut told = logprob(ready, scored.token, scored.logprob);
    told["top_logprobs"] = scored.top.iter().map(|(token, log)| logprob(ready, *token, *log)).collect();
    told
}

fn call(call: &Call, id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

/// Letters and digits, nine of them: Mistral's templates refuse others.
fn call_id(told: &Told, choice: usize, n: usize) -> String {
    let seed = hex::encode(crate::access::digest(&format!("{} {choice} {n}", told.id)));
    seed[..9].to_string()
}

#[derive(Default)]
struct Message {
    thought: String,
    said: String,
    calls: Vec<Value>,
    logprobs: Vec<Value>,
    end: Option<End>,
}

/// All answers at once.
async fn whole(mut generation: Generation, told: &Told) -> Result<Response, Problem> {
    let ready = generation.ready().clone();
    let mut messages: Vec<Message> = Vec::new();
    messages.resize_with(generation.len(), Message::default);
    while let Some((at, step)) = generation.next().await? {
        let message = &mut messages[at];
        match step {
            Step::Parts(parts, scored) => {
                message.logprobs.extend(scored.map(|scored| logprobs(&ready, &scored)));
                for part in parts {
                    match part {
                        Part::Thought(text) => message.thought += &text,
                        Part::Said(text) => message.said += &text,
                        Part::Call(c) => {
                            let id = call_id(told, at, message.calls.len());
                            message.calls.push(call(&c, &id));
                        }
                    }
                }
            }
            Step::End(end) => message.end = Some(*end),
            Step::Prompt { .. } | Step::Scores(_) => {}
        }
    }
    let choices = messages.iter().enumerate().map(|(index, m)| {
        let content = if m.said.is_empty() && !m.calls.is_empty() { Value::Null } else { m.said.as_str().into() };
        let mut message = json!({"role": "assistant", "content": content});
        for name in told.thoughts.iter().filter(|_| !m.thought.is_empty()) {
            message[*name] = m.thought.as_str().into();
        }
        if !m.calls.is_empty() {
            message["tool_calls"] = m.calls.clone().into();
        }
        let logprobs = if told.logprobs { json!({"content": m.logprobs, "refusal": null}) } else { Value::Null };
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": m.end.as_ref().map(reason), "stop_reason": m.end.as_ref().and_then(|end| end.stopped.clone())})
    });
    let choices: Vec<Value> = choices.collect();
    let ends: Vec<&End> = messages.iter().filter_map(|m| m.end.as_ref()).collect();
    let mut answer = json!({
        "id": told.id, "object": "chat.completion", "created": told.created, "model": told.model, "system_fingerprint": told.fingerprint,
        "choices": choices, "usage": usage(told.prompt, &ends),
    });
    if let Some(first) = ends.first() {
        answer["timings"] = timings(told.prompt, first);
    }
    Ok(json_response(StatusCode::OK, &answer))
}

/// Answers as they come.
struct Stream {
    frames: Frames,
    ping: (&'static str, std::time::Duration),
    told: Told,
    usage: bool,
    progress: bool,
    since: Instant,
}

impl Stream {
    fn chunk(&self, choices: Value) -> Value {
        let t = &self.told;
        json!({
            "id": t.id, "object": "chat.completion.chunk", "created": t.created, "model": t.model, "system_fingerprint": t.fingerprint,
            "choices": choices,
        })
    }

    async fn delta(&self, index: usize, delta: Value, logprobs: &mut Vec<Value>) -> Result<(), Gone> {
        let told = if logprobs.is_empty() { Value::Null } else { json!({"content": std::mem::take(logprobs), "refusal": null}) };
        self.frames.data(&self.chunk(json!([{"index": index, "delta": delta, "logprobs": told, "finish_reason": null}]))).await
    }

    async fn run(self, mut generation: Generation) -> Result<(), Gone> {
        let (ready, count) = (generation.ready().clone(), generation.len());
        for index in 0..count {
            self.delta(index, json!({"role": "assistant", "content": ""}), &mut Vec::new()).await?;
        }
        let (mut ends, mut calls, mut waiting) = (Vec::new(), vec![0; count], vec![Vec::new(); count]);
        loop {
            let step = self.frames.beside(self.ping, generation.next()).await?;
            let (at, step) = match step {
                Ok(Some(step)) => step,
                Ok(None) => break,
                // Without the mark of the end: it is none.
                Err(problem) => return self.frames.data(&problem.json()).await,
            };
            match step {
                Step::Prompt { computed, cached } if self.progress => {
                    let mut chunk = self.chunk(json!([{"index": at, "delta": {}, "logprobs": null, "finish_reason": null}]));
                    chunk["prompt_progress"] = progress(self.told.prompt, computed, cached, self.since);
                    self.frames.data(&chunk).await?;
                }
                Step::Prompt { .. } | Step::Scores(_) => {}
                Step::Parts(parts, scored) => {
                    waiting[at].extend(scored.map(|scored| logprobs(&ready, &scored)));
                    for part in parts {
                        self.part(at, part, &mut calls[at], &mut waiting[at]).await?;
                    }
                }
                Step::End(end) => {
                    // What was thought of tokens that show nothing.
                    let rest = std::mem::take(&mut waiting[at]);
                    let told = if rest.is_empty() { Value::Null } else { json!({"content": rest, "refusal": null}) };
                    let mut chunk = self.chunk(json!([{"index": at, "delta": {}, "logprobs": told, "finish_reason": reason(&end)}]));
                    ends.push(*end);
                    // Many do not ask, and look for it all the same.
                    if ends.len() == count {
                        if !self.usage {
                            chunk["usage"] = usage(self.told.prompt, &ends.iter().collect::<Vec<_>>());
                        }
                        chunk["timings"] = timings(self.told.prompt, &ends[ends.len() - 1]);
                    }
                    self.frames.data(&chunk).await?;
                }
            }
        }
        if self.usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage(self.told.prompt, &ends.iter().collect::<Vec<_>>());
            self.frames.data(&chunk).await?;
        }
        self.frames.raw("data: [DONE]\n\n").await
    }

    async fn part(&self, at: usize, part: Part, calls: &mut usize, logprobs: &mut Vec<Value>) -> Result<(), Gone> {
        match part {
            Part::Said(text) => self.delta(at, json!({"content": text}), logprobs).await,
            Part::Thought(text) => {
                let delta = self.told.thoughts.iter().map(|name| ((*name).to_string(), Value::from(text.as_str())));
                self.delta(at, Value::Object(delta.collect()), logprobs).await
            }
            Part::Call(c) => {
                let (index, id) = (*calls, call_id(&self.told, at, *calls));
                *calls += 1;
                let begun = json!({"index": index, "id": id, "type": "function", "function": {"name": c.name, "arguments": ""}});
                self.delta(at, json!({"tool_calls": [begun]}), logprobs).await?;
                let rest = json!({"index": index, "function": {"arguments": c.arguments}});
                self.delta(at, json!({"tool_calls": [rest]}), logprobs).await
            }
        }
    }
}
