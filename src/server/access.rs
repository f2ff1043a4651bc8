//! Who may ask: a page of another origin may not, a name that was made to lead here may not, and where there are keys nobody without one.
use crate::{Shared, problem::Problem};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use sha2::{Digest, Sha256};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What a key is known by.
pub type KeyDigest = [u8; 32];

/// What a key is compared by: digests tell nothing by how long they take to compare.
pub fn digest(key: &str) -> KeyDigest {
    Sha256::digest(key.as_bytes()).into()
}

fn same(a: &KeyDigest, b: &KeyDigest) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Whose request it is, for what is kept of it: one number for each key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner(pub u64);

/// Bytes of a request's head.
pub const HEAD: usize = 32 << 10;

/// Routes that need no key: they tell nothing of anybody.
const OPEN: [&str; 2] = ["/health", "/"];

/// Looks at a request before anything else does, and names it in the answer.
pub async fn check(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = format!("req_{}{:06x}", shared.name, COUNT.fetch_add(1, Relaxed));
    let (origin, path) = (request.headers().get(header::ORIGIN).cloned(), request.uri().path().to_string());
    let mut response = match looked_at(&shared, &request) {
        Err(problem) => problem.respond(&path),
        // What a browser asks before it asks.
        Ok(_) if request.method() == Method::OPTIONS => preflight(),
        Ok(owner) => {
            request.extensions_mut().insert(owner);
            next.run(request).await
        }
    };
    shared.times.answer(&path, response.status().as_u16());
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin.filter(|_| response.status() != StatusCode::FORBIDDEN) {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id"));
    }
    response
}

fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn looked_at(shared: &Shared, request: &Request) -> Result<Owner, Problem> {
    let headers = request.headers();
    // What the connection reads at once may be a little more than it is told to.
    if headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() + request.uri().path().len() > HEAD {
        return Err(Problem::request(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, format!("The headers have more than {HEAD} bytes")));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).ok_or_else(|| Problem::forbidden("The request names no host"))?;
    host_allowed(host, &shared.options.hosts)?;
    if let Some(origin) = headers.get(header::ORIGIN) {
        origin_allowed(origin, host, &shared.options.origins)?;
    }
    let asks_before = request.method() == Method::OPTIONS;
    let owner = if OPEN.contains(&request.uri().path()) || asks_before { Owner::default() } else { key(shared, headers)? };
    Ok(owner)
}

/// An address is what it is; a name may be made to lead here by whoever owns it.
fn host_allowed(host: &str, allowed: &[String]) -> Result<(), Problem> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let known = name.eq_ignore_ascii_case("localhost") || allowed.iter().any(|own| own.eq_ignore_ascii_case(name));
    if known || name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Problem::forbidden(format!("This server does not go by the name '{name}': start it with --allow-host {name} if it should")))
}

fn origin_allowed(origin: &HeaderValue, host: &str, allowed: &[String]) -> Result<(), Problem> {
    let origin = origin.to_str().unwrap_or("null");
    let own = origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
    if own || allowed.iter().any(|known| known == "*" || known.trim_end_matches('/') == origin) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("Pages of {origin} may not ask this server: start it with --allow-origin {origin} if they should")))
}

fn key(shared: &Shared, headers: &HeaderMap) -> Result<Owner, Problem> {
    let keys = &shared.keys;
    if keys.is_empty() {
        return Ok(Owner::default());
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let given = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok())).ok_or_else(Problem::key)?;
    let given = digest(given);
    // All of them, so that the time tells nothing.
    let found = keys.iter().zip(1..).fold(None, |found, (key, n)| if same(key, &given) { Some(Owner(n)) } else { found });
    found.ok_or_else(Problem::key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be_anybodys_are_refused() {
        let allowed = ["box.lan".to_string()];
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7", "BOX.lan:1"] {
            assert!(host_allowed(host, &allowed).is_ok(), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "", "box.lan.evil.example"] {
            assert!(host_allowed(host, &allowed).is_err(), "{host}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let allowed = ["https://chat.example/".to_string()];
        let ok = |origin: &'static str| origin_allowed(&HeaderValue::from_static(origin), "localhost:8080", &allowed).is_ok();
        assert!(ok("http://localhost:8080") && ok("https://chat.example"));
        assert!(!ok("http://localhost:3000") && !ok("null") && !ok("https://evil.example") && !ok("https://chat.example.evil.example"));
        assert!(origin_allowed(&HeaderValue::from_static("null"), "a", &["*".into()]).is_ok());
    }

    #[test]
    fn keys_are_compared_whole() {
        assert!(same(&digest("a"), &digest("a")) && !same(&digest("a"), &digest("b")));
    }
}
