//! Who may ask: what has gone wrong in other servers must not be possible here.
use super::Serving;
use serde_json::json;

const BODY: &str = r#"{"messages":[{"role":"user","content":"a"}],"max_tokens":1}"#;

/// A request whose headers are given whole.
fn status(server: &Serving, method: &str, path: &str, headers: &[&str]) -> u16 {
    let body = if method == "POST" { BODY } else { "" };
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    server.raw(&format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()), body.as_bytes()).status
}

#[test]
fn strangers_are_refused() {
    let server =
        Serving::bundled(&["--api-key", "secret", "--api-key", "other", "--allow-host", "box.lan", "--allow-origin", "https://chat.example"]);
    const CHAT: &str = "/v1/chat/completions";
    const JSON: &str = "Content-Type: application/json";
    const KEY: &str = "Authorization: Bearer secret";
    const HOST: &str = "Host: localhost";
    let own = format!("Host: localhost:{}", server.port);
    for (method, path, headers, want) in [
        // A key, in either header; any of them.
        ("POST", CHAT, vec![HOST, JSON, KEY], 200),
        ("POST", CHAT, vec![HOST, JSON, "x-api-key: other"], 200),
        ("POST", CHAT, vec![HOST, JSON, "authorization: bearer other"], 200),
        ("POST", CHAT, vec![HOST, JSON], 401),
        ("POST", CHAT, vec![HOST, JSON, "Authorization: Bearer secre"], 401),
        ("POST", CHAT, vec![HOST, JSON, "Authorization: Bearer secretsecret"], 401),
        ("POST", CHAT, vec![HOST, JSON, "Authorization: Basic secret"], 401),
        ("GET", "/v1/models", vec![HOST], 401),
        ("GET", "/models", vec![HOST], 401),
        ("GET", "/metrics", vec![HOST], 401),
        ("GET", "/ram/status", vec![HOST], 401),
        ("GET", "/ram/plan", vec![HOST], 401),
        ("GET", "/props", vec![HOST], 401),
        ("GET", "/nothing", vec![HOST], 401),
        ("GET", "/health", vec![HOST], 200),
        ("GET", "/", vec![HOST], 200),
        // Names that somebody may have made to lead here.
        ("GET", "/health", vec!["Host: evil.example"], 403),
        ("GET", "/", vec!["Host: evil.example:8080"], 403),
        ("GET", "/health", vec!["Host: localhost.evil.example"], 403),
        ("GET", "/health", vec!["Host: box.lan"], 200),
        ("GET", "/health", vec!["Host: 127.0.0.1:9"], 200),
        ("GET", "/health", vec!["Host: [::1]"], 200),
        ("GET", "/health", vec![], 403),
        // Pages of others, simple requests too.
        ("POST", CHAT, vec![&own, JSON, KEY, "Origin: https://evil.example"], 403),
        ("POST", CHAT, vec![&own, JSON, KEY, "Origin: null"], 403),
        ("POST", CHAT, vec![&own, JSON, KEY, "Origin: http://localhost:1"], 403),
        ("POST", CHAT, vec![&own, JSON, KEY, "Origin: https://chat.example"], 200),
        ("OPTIONS", CHAT, vec![&own, "Origin: https://chat.example", "Access-Control-Request-Method: POST"], 204),
        ("OPTIONS", CHAT, vec![&own, "Origin: https://evil.example", "Access-Control-Request-Method: POST"], 403),
        // Bodies that a form may send.
        ("POST", CHAT, vec![HOST, KEY, "Content-Type: text/plain"], 415),
        ("POST", CHAT, vec![HOST, KEY, "Content-Type: application/x-www-form-urlencoded"], 415),
        ("POST", CHAT, vec![HOST, KEY], 415),
        ("POST", CHAT, vec![HOST, KEY, "Content-Type: application/json; charset=utf-8"], 200),
    ] {
        assert_eq!(status(&server, method, path, &headers), want, "{method} {path} {headers:?}");
    }
    let page = server.raw(&format!("GET / HTTP/1.1\r\n{own}\r\nConnection: close\r\n\r\n"), b"");
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    let allowed = server.raw(&format!("GET /health HTTP/1.1\r\n{own}\r\nOrigin: https://chat.example\r\nConnection: close\r\n\r\n"), b"");
    assert_eq!(allowed.header("access-control-allow-origin").as_deref(), Some("https://chat.example"));
    assert!(allowed.header("access-control-allow-credentials").is_none());
}

#[test]
fn what_is_too_much_is_refused() {
    let server = Serving::bundled(&[]);
    // A body that says how large it is, and one that does not.
    let most = 256 << 10;
    assert_eq!(server.raw(&server.head("/v1/completions", most + 1), b"").status, 413);
    let chunked = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.port
    );
    let chunks = format!("{:x}\r\n{}\r\n", 64 << 10, " ".repeat(64 << 10)).repeat(6);
    assert!([413, 0].contains(&server.raw(&chunked, chunks.as_bytes()).status));
    // Deep values, long heads, many headers.
    let deep = format!("{{\"messages\": {}}}", "[".repeat(100_000));
    assert_eq!(server.raw(&server.head("/v1/chat/completions", deep.len()), deep.as_bytes()).status, 400);
    let get = |headers: &str| server.raw(&format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"), b"").status;
    assert!([431, 400, 0].contains(&get(&format!("X-Long: {}\r\n", "a".repeat(40 << 10)))));
    assert!([431, 400, 0].contains(&get(&"X-Many: a\r\n".repeat(200))));
    // Compressed bodies are not read: no bomb.
    let body = b"\x1f\x8b\x08\x00\x00";
    let head = server.head("/v1/completions", body.len()).replace("Connection", "Content-Encoding: gzip\r\nConnection");
    assert_eq!(server.raw(&head, body).status, 400);
    // It is still there, as it was.
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.ask("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "ignore_eos": true}))["usage"]["completion_tokens"], 2);
}

#[test]
fn doors_that_nobody_should_open_by_accident() {
    for (args, words) in [
        (&["--host", "0.0.0.0"][..], &["--host 0.0.0.0", "--api-key", "--no-auth"][..]),
        (&["--host", "::"], &["--host ::"]),
        (&["--api-key", " "], &["--api-key"]),
        (&["--api-key-file", "/nowhere"], &["/nowhere"]),
        (&["--parallel", "0"], &["--parallel"]),
        (&["--host", "localhost"], &["--host"]),
    ] {
        let all = [&["serve", "--port", "0"], args].concat();
        let code = if args.contains(&"/nowhere") { 4 } else { 2 };
        crate::cli::refused(&all, code, words);
    }
}
