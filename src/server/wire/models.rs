//! `/v1/models`: the one there is.
use crate::{
    Phase, Ready, Shared,
    problem::{Problem, json_response},
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn model(ready: &Ready) -> Value {
    let model = ready.served.engine.model();
    let (plan, description) = (&model.plan, model.transformer.description());
    json!({
        "id": ready.served.id, "object": "model", "created": ready.created, "owned_by": "ram-run",
        // What fits, and not what the model was made for: clients plan by it.
        "max_model_len": plan.context,
        "meta": {
            "n_ctx": plan.context, "n_ctx_train": description.max_position_embeddings, "n_vocab": description.vocab_size,
            "n_embd": description.hidden_size, "n_params": plan.parameters, "size": plan.weight_bytes, "bits_per_weight": plan.bits_per_weight,
            "plan": plan.fingerprint, "budget": plan.memory.budget,
        },
    })
}

/// What there is; clients ask for it while a model is loading, too.
fn models(shared: &Shared) -> Vec<Value> {
    match shared.phase() {
        Phase::Ready(ready) | Phase::Draining(ready) => vec![model(&ready)],
        Phase::Loading { .. } => Vec::new(),
    }
}

/// All models.
pub async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let models = models(&shared);
    // Codex reads the second list.
    json_response(StatusCode::OK, &json!({"object": "list", "data": models, "models": models}))
}

/// One by its name.
pub async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    if id != ready.served.id {
        return Err(unknown(&id, &ready));
    }
    Ok(json_response(StatusCode::OK, &model(&ready)))
}

/// A model that is not here.
pub fn unknown(name: &str, ready: &Ready) -> Problem {
    let message = format!("The model '{name}' is not here: this server has '{}'", ready.served.id);
    Problem { code: Some("model_not_found"), param: Some("model".into()), ..Problem::request(StatusCode::NOT_FOUND, message) }
}
