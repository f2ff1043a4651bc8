//! How the server is, and where its memory goes.
use crate::{
    Phase, Ready, Shared,
    problem::{Problem, json_response},
    sse,
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Whether requests are answered.
pub async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let (status, body) = match shared.phase() {
        Phase::Ready(ready) if ready.served.engine.is_alive() => (StatusCode::OK, json!({"status": "ok"})),
        Phase::Ready(_) => (StatusCode::INTERNAL_SERVER_ERROR, json!({"status": "failed"})),
        Phase::Loading { stage, done } => (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "loading", "stage": stage, "done": done})),
        Phase::Draining(_) => (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "draining"})),
    };
    json_response(status, &body)
}

/// What llama.cpp's clients ask for; no paths of files.
pub async fn props(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let model = ready.served.engine.model();
    let sampling = &ready.served.sampling;
    let params = json!({
        "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    });
    let body = json!({
        "default_generation_settings": {"n_ctx": model.plan.context, "params": params}, "total_slots": model.plan.sequences,
        "model_alias": ready.served.id, "chat_template": ready.tokenizer.chat_template, "bos_token": ready.tokenizer.bos_text,
        "eos_token": ready.tokenizer.eos_text, "build_info": format!("ram-run {}", env!("CARGO_PKG_VERSION")),
        "modalities": {"vision": false, "audio": false},
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// The memory, the keys and values, the work, as they are now.
pub fn now(ready: &Ready) -> Value {
    let (engine, plan) = (&ready.served.engine, &ready.served.engine.model().plan);
    let (status, memory) = (engine.status(), ram_engine::rss());
    json!({
        "rss": memory, "peak": ram_engine::peak_rss(), "budget": plan.memory.budget,
        "parts": {
            "weights": plan.memory.weights, "kv": plan.memory.kv_cache, "scratch": plan.memory.scratch, "other": plan.memory.other,
        },
        "kv": {"active": status.kv_active, "cached": status.kv_kept, "capacity": status.kv_tokens},
        "experts": engine.model().transformer.experts_taken(),
        "running": status.running, "queued": status.waiting, "slots": plan.sequences,
        "totals": {
            "ended": status.ended, "cancelled": status.cancelled, "failed": status.failed, "preempted": status.preempted,
            "prompt_tokens": status.prompt_tokens, "cached_tokens": status.cached_tokens, "generated_tokens": status.generated_tokens,
            "computing_seconds": status.computing.as_secs_f64(),
        },
    })
}

/// The same, with the model.
pub async fn status(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let mut body = now(&ready);
    let plan = &ready.served.engine.model().plan;
    body["model"] = json!({"id": ready.served.id, "plan": plan.fingerprint, "bits_per_weight": plan.bits_per_weight, "context": plan.context});
    Ok(json_response(StatusCode::OK, &body))
}

/// The same every second.
pub async fn events(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    Ok(sse::response(async move |frames| {
        let mut over = shared.over.subscribe();
        loop {
            frames.data(&now(&ready)).await?;
            let second = tokio::time::sleep(Duration::from_secs(1));
            let ended = frames.beside(("", Duration::ZERO), async {
                tokio::select! { () = second => false, _ = over.wait_for(|over| *over) => true }
            });
            if ended.await? {
                return Ok(());
            }
        }
    }))
}

/// What every tensor got. It does not change: who has it already need not read it again.
pub async fn plan(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let tag = format!("\"{}\"", ready.served.engine.model().plan.fingerprint);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = Response::new(if known { axum::body::Body::empty() } else { ready.served.plan.clone().into() });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}
