//! `/tokenize`, `/detokenize` and `/apply-template`: what the model gets to see.
use super::{
    body,
    conversation::{goes_on, messages, tools, variables},
};
use crate::{
    Ready, Shared,
    fields::{Fields, wrong},
    problem::{Problem, json_response},
    prompt::{of_conversation, of_text, rendered},
};
use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use ram_engine::Conversation;
use serde_json::{Value, json};
use std::sync::Arc;

/// A conversation as it is, and not as it is answered.
pub fn conversation(fields: Fields, think: bool) -> Result<Conversation, Problem> {
    let messages = messages(fields)?;
    let continues = goes_on(&messages);
    Ok(Conversation { messages, tools: tools(fields)?, variables: variables(fields, think)?, continues })
}

/// A text, or a conversation, as tokens.
pub async fn tokenize(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let body = body(&shared, request).await?;
    let fields = Fields::of(&body, "")?;
    let prompt = match (fields.text("content")?.or(fields.text("prompt")?), fields.get("messages")) {
        (Some(text), _) => {
            let special = fields.flag("add_special")?.or(fields.flag("add_special_tokens")?).unwrap_or(false);
            of_text(&ready, text.to_string(), special).await?
        }
        (None, Some(_)) => of_conversation(&shared, &ready, conversation(fields, ready.served.think)?).await?,
        (None, None) => return Err(Problem::invalid("content", "content is missing: give a text as content or prompt, or messages")),
    };
    let tokens = match fields.flag("with_pieces")? {
        Some(true) => prompt.tokens.iter().map(|token| piece(&ready, *token)).collect(),
        _ => json!(prompt.tokens),
    };
    let max = ready.served.engine.model().plan.context;
    Ok(json_response(StatusCode::OK, &json!({"tokens": tokens, "count": prompt.tokens.len(), "max_model_len": max})))
}

/// A token with its text, or its bytes where they are none.
fn piece(ready: &Ready, token: u32) -> Value {
    let bytes = ready.bytes_of(token);
    let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
    json!({"id": token, "piece": piece})
}

/// Tokens as text, special ones too.
pub async fn detokenize(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let body = body(&shared, request).await?;
    let fields = Fields::of(&body, "")?;
    let given = fields.list("tokens")?.ok_or_else(|| Problem::invalid("tokens", "tokens are missing"))?;
    let mut bytes = Vec::new();
    for (n, token) in given.iter().enumerate() {
        let own = token.as_u64().and_then(|token| ready.bytes.get(usize::try_from(token).ok()?));
        bytes.extend_from_slice(own.ok_or_else(|| wrong(&format!("tokens[{n}]"), "the number of a token", token))?);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(json_response(StatusCode::OK, &json!({"content": text, "prompt": text})))
}

/// A conversation as the text that the model gets.
pub async fn apply_template(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let body = body(&shared, request).await?;
    let conversation = conversation(Fields::of(&body, "")?, ready.served.think)?;
    let text = rendered(&shared, &ready, conversation).await?;
    Ok(json_response(StatusCode::OK, &json!({ "prompt": text })))
}
