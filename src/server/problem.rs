//! What is wrong with a request, in the shape that clients of the original look for.
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// What kind of error it is, in OpenAI's words.
    pub kind: &'static str,
    /// One that programs look for.
    pub code: Option<&'static str>,
    /// The place in the request, such as `messages[2].content`.
    pub param: Option<String>,
    /// A sentence.
    pub message: String,
    /// Other members of the error.
    pub more: Box<[(&'static str, Value)]>,
    /// Seconds after which to try again.
    pub retry: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, kind, code: None, param: None, message: message.into(), more: Box::default(), retry: None }
    }

    /// A request that makes no sense, at `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Problem {
        let param = Some(param.into()).filter(|param| !param.is_empty());
        Problem { param, ..Problem::new(StatusCode::BAD_REQUEST, "invalid_request_error", message) }
    }

    /// The same, that another status says better.
    pub fn request(status: StatusCode, message: impl Into<String>) -> Problem {
        Problem::new(status, "invalid_request_error", message)
    }

    /// A prompt that does not fit. Clients look for either of two texts to begin with compacting, so it says both.
    pub fn too_long(tokens: usize, context: usize) -> Problem {
        let message = format!(
            "This model's maximum context length is {context} tokens, and the prompt has {tokens} or more: it exceeds the available context size. \
             Shorten it, or start the server with a larger --ctx"
        );
        let more = [("n_prompt_tokens", json!(tokens)), ("n_ctx", json!(context))].into();
        let code = Some("context_length_exceeded");
        Problem { code, more, ..Problem::new(StatusCode::BAD_REQUEST, "exceed_context_size_error", message) }
    }

    /// No key, or a wrong one.
    pub fn key() -> Problem {
        let message = "This server wants an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'";
        Problem { code: Some("invalid_api_key"), ..Problem::new(StatusCode::UNAUTHORIZED, "authentication_error", message) }
    }

    /// Something that this server does for nobody who asks from there.
    pub fn forbidden(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// More jobs than may wait.
    pub fn busy(waiting: usize, seconds: u64) -> Problem {
        let message = format!("{waiting} requests are waiting already: try again in {seconds} s");
        Problem { retry: Some(seconds), ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message) }
    }

    /// Not yet, or not any more.
    pub fn unavailable(message: impl Into<String>) -> Problem {
        Problem { retry: Some(5), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message) }
    }

    /// What this server does not do.
    pub fn unsupported(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// A fault of this program.
    pub fn fault(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// `{"error": {...}}`.
    pub fn json(&self) -> Value {
        let mut error = json!({"message": self.message, "type": self.kind, "param": self.param, "code": self.code});
        for (name, value) in self.more.iter() {
            error[*name] = value.clone();
        }
        json!({ "error": error })
    }

    /// The same in the words of the Messages protocol.
    pub fn message_json(&self, kind: &str) -> Value {
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }

    /// As an answer of the Messages protocol, which has another status for a server that has no time.
    pub fn into_message(self) -> Response {
        let (status, kind) = match self.status.as_u16() {
            401 => (self.status, "authentication_error"),
            403 => (self.status, "permission_error"),
            404 => (self.status, "not_found_error"),
            413 => (self.status, "request_too_large"),
            429 => (self.status, "rate_limit_error"),
            503 => (StatusCode::from_u16(529).unwrap_or(self.status), "overloaded_error"),
            500..=599 => (self.status, "api_error"),
            _ => (self.status, "invalid_request_error"),
        };
        let mut response = json_response(status, &self.message_json(kind));
        self.headers(&mut response);
        response
    }

    /// As an answer of the protocol that a path is of.
    pub fn respond(self, path: &str) -> Response {
        if path.trim_start_matches("/v1").starts_with("/messages") { self.into_message() } else { self.into_response() }
    }

    /// The headers that go with it.
    fn headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

/// An answer of JSON.
pub fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.json());
        self.headers(&mut response);
        response
    }
}

impl From<ram_engine::Error> for Problem {
    fn from(e: ram_engine::Error) -> Problem {
        use ram_engine::Error as E;
        match e {
            E::Context { tokens, capacity } => Problem::too_long(tokens, capacity),
            E::Empty => Problem::invalid("", "The prompt is empty: it needs one token at least"),
            E::Setting { setting, value, reason } => Problem::invalid(setting.to_string(), format!("{setting} is {value}: it {reason}")),
            E::Template(why) => Problem::invalid("messages", format!("The model's chat template refuses these messages: {why}")),
            E::Tokenizer(why) => Problem::invalid("", format!("The tokenizer refuses this text: {why}")),
            E::Guide(why) => Problem::invalid("response_format", why),
            E::Mismatch(why) => Problem::invalid("", why),
            E::Stopped => Problem::unavailable("The engine has ended"),
            other => Problem::fault(other.to_string()),
        }
    }
}
