//! `/v1/completions`: texts that go on, without a template; and what the model thinks of a text, which is how it is measured.
use super::{
    body,
    chat::{COMMENT, named, progress, timings, usage},
    sampling::{COUNT, TOP, include_usage, max_tokens, sampling, stops, told},
};
use crate::{
    Ready, Shared,
    access::Owner,
    fields::{Fields, wrong},
    generation::{Ask, End, Generation, Reason, Step},
    problem::{Problem, json_response},
    prompt::{Prompt, of_text, with_hole},
    sse::{self, Frames, Gone},
};
use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use ram_engine::{Part, Scored};
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Instant};

/// Prompts of one request.
const PROMPTS: usize = 64;

/// What is told of all answers.
struct Told {
    id: String,
    model: String,
    created: u64,
    fingerprint: String,
    prompts: Vec<Prompt>,
    count: usize,
    echo: bool,
    logprobs: bool,
    /// Whether to tell how much of a prompt is computed.
    progress: bool,
}

impl Told {
    fn prompt(&self, answer: usize) -> &Prompt {
        &self.prompts[answer / self.count]
    }

    fn tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).sum()
    }
}

/// Continues texts.
pub async fn complete(State(shared): State<Arc<Shared>>, Extension(Owner(owner)): Extension<Owner>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let body = body(&shared, request).await?;
    let fields = Fields::of(&body, "")?;
    named(&shared, &ready, fields)?;
    let suffix = fields.text("suffix")?.filter(|suffix| !suffix.is_empty());
    let prompts = prompts(&ready, fields, suffix).await?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    if echo && suffix.is_some() {
        return Err(Problem::invalid("echo", "echo and suffix do not go together: what is generated stands between the two texts"));
    }
    let top = fields.whole("logprobs", 0..=TOP)?.map(|top| top as usize);
    let count = fields.whole("n", 1..=COUNT)?.unwrap_or(1) as usize;
    // Sixteen is what the original does.
    let most = if fields.get("max_tokens").is_none() && fields.get("n_predict").is_none() { 16 } else { usize::MAX };
    let id = super::chat::name(&shared, "cmpl");
    let ask = Ask {
        name: id.clone(),
        prompts: prompts.clone(),
        count,
        sampling: sampling(fields, &ready.served.sampling)?,
        max_tokens: max_tokens(fields, &["n_predict", "max_tokens"])?.min(most),
        stops: stops(fields, "stop")?,
        top,
        ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
        score: echo && top.is_some(),
        divided: false,
        calls: None,
        guide: None,
        owner,
    };
    let (stream, include) = (fields.flag("stream")?.unwrap_or(false), include_usage(fields)?);
    let told = Told {
        id,
        model: ready.served.id.clone(),
        created: crate::now(),
        fingerprint: ready.fingerprint(),
        prompts,
        count,
        echo,
        logprobs: top.is_some(),
        progress: fields.flag("return_progress")?.unwrap_or(false),
    };
    let generation = Generation::start(&shared, &ready, ask)?;
    if stream {
        let ping = (COMMENT, shared.options.ping);
        return Ok(sse::response(async move |frames| streamed(generation, told, include, frames, ping).await));
    }
    whole(generation, &told).await
}

/// A text, several, tokens, or several lists of them; texts with a hole before `suffix`, where there is one.
async fn prompts(ready: &Arc<Ready>, fields: Fields<'_, '_>, suffix: Option<&str>) -> Result<Vec<Prompt>, Problem> {
    let want = "a string, an array of strings, an array of tokens, or an array of such arrays";
    let given = fields.get("prompt").ok_or_else(|| Problem::invalid("prompt", "prompt is missing"))?;
    let all: Vec<&Value> = match given {
        Value::String(_) => vec![given],
        Value::Array(all) if all.first().is_some_and(Value::is_number) => vec![given],
        Value::Array(all) if !all.is_empty() && all.len() <= PROMPTS => all.iter().collect(),
        Value::Array(all) => return Err(Problem::invalid("prompt", format!("prompt has {} texts: it must be from 1 to {PROMPTS}", all.len()))),
        other => return Err(wrong("prompt", want, other)),
    };
    let mut prompts = Vec::with_capacity(all.len());
    for one in all {
        prompts.push(match one {
            Value::String(text) => {
                let text = suffix.map_or_else(|| Ok(text.clone()), |suffix| with_hole(ready, text, suffix))?;
                of_text(ready, text, true).await?
            }
            Value::Array(_) if suffix.is_some() => {
                return Err(Problem::invalid("prompt", "A prompt of tokens has no suffix: write the model's own tokens for it into the prompt"));
            }
            Value::Array(tokens) => {
                let read = |token: &Value| token.as_u64().and_then(|token| u32::try_from(token).ok());
                let tokens: Option<Vec<u32>> = tokens.iter().map(read).collect();
                let tokens = tokens.ok_or_else(|| wrong("prompt", want, given))?;
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| ready.bytes_of(*token)).copied().collect();
                Prompt { text: String::from_utf8_lossy(&bytes).into_owned(), tokens }
            }
            other => return Err(wrong("prompt", want, other)),
        });
    }
    Ok(prompts)
}

/// What was thought of each token, as lists.
#[derive(Default)]
struct Lists {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
    offset: usize,
}

impl Lists {
    fn text(ready: &Ready, token: u32) -> String {
        String::from_utf8_lossy(ready.bytes_of(token)).into_owned()
    }

    /// A token that nothing comes before.
    fn first(&mut self, ready: &Ready, token: u32) {
        self.add(ready, token, Value::Null, Value::Null);
    }

    fn scored(&mut self, ready: &Ready, scored: &Scored) {
        let pairs = scored.top.iter().map(|(token, log)| (Lists::text(ready, *token), json!(told(*log))));
        // Two tokens may have one text: the likelier comes first and stays.
        let mut top = Map::new();
        for (text, log) in pairs {
            top.entry(text).or_insert(log);
        }
        self.add(ready, scored.token, json!(told(scored.logprob)), Value::Object(top));
    }

    fn add(&mut self, ready: &Ready, token: u32, logprob: Value, top: Value) {
        let text = Lists::text(ready, token);
        self.offsets.push(self.offset.into());
        self.offset += text.chars().count();
        self.tokens.push(text.into());
        self.logprobs.push(logprob);
        self.top.push(top);
    }

    /// What is there, which is told then.
    fn take(&mut self) -> Value {
        let Lists { tokens, logprobs, top, offsets, .. } = std::mem::replace(self, Lists { offset: self.offset, ..Lists::default() });
        json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets})
    }
}

/// One answer on its way.
#[derive(Default)]
struct Choice {
    text: String,
    lists: Lists,
    end: Option<End>,
}

impl Choice {
    fn begin(told: &Told, ready: &Ready, at: usize) -> Choice {
        let mut choice = Choice::default();
        if told.echo {
            choice.text = told.prompt(at).text.clone();
            if let Some(&first) = told.prompt(at).tokens.first() {
                choice.lists.first(ready, first);
            }
        }
        choice
    }

    fn take(&mut self, ready: &Ready, step: Step) {
        match step {
            Step::Prompt { .. } => {}
            Step::Scores(scores) => scores.iter().for_each(|scored| self.lists.scored(ready, scored)),
            Step::Parts(parts, scored) => {
                scored.iter().for_each(|scored| self.lists.scored(ready, scored));
                for part in parts {
                    if let Part::Said(text) | Part::Thought(text) = part {
                        self.text += &text;
                    }
                }
            }
            Step::End(end) => self.end = Some(*end),
        }
    }

    fn json(&mut self, told: &Told, index: usize) -> Value {
        let reason = self.end.as_ref().map(|end| if end.reason == Reason::Stop { "stop" } else { "length" });
        let logprobs = if told.logprobs { self.lists.take() } else { Value::Null };
        json!({"index": index, "text": std::mem::take(&mut self.text), "logprobs": logprobs, "finish_reason": reason, "stop_reason": self.end.as_ref().and_then(|end| end.stopped.clone())})
    }
}

fn answer(told: &Told, choices: Vec<Value>) -> Value {
    json!({
        "id": told.id, "object": "text_completion", "created": told.created, "model": told.model, "system_fingerprint": told.fingerprint,
        "choices": choices,
    })
}

async fn whole(mut generation: Generation, told: &Told) -> Result<Response, Problem> {
    let ready = generation.ready().clone();
    let mut choices: Vec<Choice> = (0..generation.len()).map(|at| Choice::begin(told, &ready, at)).collect();
    while let Some((at, step)) = generation.next().await? {
        choices[at].take(&ready, step);
    }
    let all = choices.iter_mut().enumerate().map(|(index, choice)| choice.json(told, index)).collect();
    let mut answer = answer(told, all);
    let ends: Vec<&End> = choices.iter().filter_map(|choice| choice.end.as_ref()).collect();
    answer["usage"] = usage(told.tokens(), &ends);
    if let Some(first) = ends.first() {
        answer["timings"] = timings(told.prompts[0].tokens.len(), first);
    }
    Ok(json_response(StatusCode::OK, &answer))
}

async fn streamed(
    mut generation: Generation,
    told: Told,
    include: bool,
    frames: Frames,
    ping: (&'static str, std::time::Duration),
) -> Result<(), Gone> {
    let ready = generation.ready().clone();
    let mut choices: Vec<Choice> = (0..generation.len()).map(|at| Choice::begin(&told, &ready, at)).collect();
    let (mut ends, since) = (Vec::new(), Instant::now());
    loop {
        let (at, step) = match frames.beside(ping, generation.next()).await? {
            Ok(Some(step)) => step,
            Ok(None) => break,
            Err(problem) => return frames.data(&problem.json()).await,
        };
        if let Step::Prompt { computed, cached } = step
            && told.progress
        {
            let mut chunk = answer(&told, vec![choices[at].json(&told, at)]);
            chunk["prompt_progress"] = progress(told.prompt(at).tokens.len(), computed, cached, since);
            frames.data(&chunk).await?;
            continue;
        }
        choices[at].take(&ready, step);
        let end = choices[at].end.clone();
        if choices[at].text.is_empty() && end.is_none() {
            continue;
        }
        let mut chunk = answer(&told, vec![choices[at].json(&told, at)]);
        ends.extend(end);
        if ends.len() == choices.len() {
            if !include {
                chunk["usage"] = usage(told.tokens(), &ends.iter().collect::<Vec<_>>());
            }
            chunk["timings"] = timings(told.prompts[0].tokens.len(), &ends[0]);
        }
        frames.data(&chunk).await?;
    }
    if include {
        let mut chunk = answer(&told, Vec::new());
        chunk["usage"] = usage(told.tokens(), &ends.iter().collect::<Vec<_>>());
        frames.data(&chunk).await?;
    }
    frames.raw("data: [DONE]\n\n").await
}
