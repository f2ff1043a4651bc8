//! What can be asked: a file per protocol, each a translation into one [`Ask`](crate::generation::Ask) and back.
pub mod chat;
mod completions;
mod conversation;
pub mod messages;
pub mod metrics;
mod models;
mod responses;
mod sampling;
mod status;
mod tokens;

use crate::{Shared, problem::Problem};
use axum::{
    Router,
    body::to_bytes,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Every route, with and without `/v1` in front.
pub fn routes(shared: Arc<Shared>) -> Router {
    let v1 = Router::new()
        .route("/chat/completions", post(chat::complete))
        .route("/completions", post(completions::complete))
        .route("/messages", post(messages::create))
        .route("/messages/count_tokens", post(messages::count))
        .route("/responses", post(responses::create))
        .route("/models", get(models::list))
        .route("/models/{*id}", get(models::one))
        .route("/embeddings", post(no_embeddings))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template));
    Router::new()
        .nest("/v1", v1.clone())
        .merge(v1)
        .route("/", get(crate::page::page))
        .route("/openapi.json", get(openapi))
        .route("/health", get(status::health))
        .route("/props", get(status::props))
        .route("/metrics", get(metrics::show))
        .route("/ram/status", get(status::status))
        .route("/ram/plan", get(status::plan))
        .route("/ram/events", get(status::events))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .with_state(shared)
}

/// All of it, for programs that read what a server can do.
const OPENAPI: &str = include_str!("wire/openapi.json");

async fn openapi() -> Response {
    let mut response = Response::new(OPENAPI.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn unknown(uri: Uri) -> Problem {
    let message = format!(
        "There is nothing at {}: there are /v1/chat/completions, /v1/completions, /v1/messages, /v1/responses, /v1/models, /tokenize, /detokenize, /apply-template, /health, /props, \
         /metrics and /ram/status",
        uri.path()
    );
    Problem::request(StatusCode::NOT_FOUND, message)
}

async fn other_method(method: Method, uri: Uri) -> Response {
    Problem::request(StatusCode::METHOD_NOT_ALLOWED, format!("{} is not asked by {method}", uri.path())).into_response()
}

async fn no_embeddings() -> Problem {
    Problem::unsupported("This server makes no embeddings: models that continue texts are bad at it")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The body of a request, as JSON. There is memory for so many bytes of bodies at once; others wait.
async fn body(shared: &Shared, request: Request) -> Result<Value, Problem> {
    if !is_json(request.headers()) {
        // No form and no text of another site's page is JSON.
        let message = "The body must be JSON: send 'Content-Type: application/json'";
        return Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let most = shared.options.body;
    let too_large = || {
        let message = format!("The body has more than {most} bytes, which is more than this server reads");
        Problem::request(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let bytes = said.unwrap_or(most).max(1);
    let slow = || Problem::request(StatusCode::REQUEST_TIMEOUT, "The body did not come in time");
    let read = async {
        let _room = shared.bodies.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
        let bytes = to_bytes(request.into_body(), most).await.map_err(|_| too_large())?;
        serde_json::from_slice(&bytes).map_err(|e| Problem::invalid("", format!("The body is no JSON: {e}")))
    };
    tokio::time::timeout(BODY_TIME, read).await.unwrap_or_else(|_| Err(slow()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is routed is described, and the other way round.
    #[test]
    fn every_route_is_described() {
        let source = include_str!("wire.rs");
        let (under, rest) = source.split_once("Router::new()\n        .nest").expect("two routers");
        let paths = |text: &str, before: &str| -> Vec<String> {
            let routes = text.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
            routes.map(|path| format!("{before}{}", path.replace("{*id}", "{id}"))).collect()
        };
        let mut routed = paths(under, "/v1");
        routed.extend(paths(rest.split("#[cfg(test)]").next().unwrap_or_default(), ""));
        routed.sort();
        let api: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut described: Vec<String> = api["paths"].as_object().expect("paths").keys().cloned().collect();
        described.sort();
        assert_eq!(routed, described);
    }
}
