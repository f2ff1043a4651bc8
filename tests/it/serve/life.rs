//! From the first byte to the last: loading, giving up, ending.
use super::{Reply, Serving};
use crate::cli::refused;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    process::Command,
    time::Duration,
};

fn long(tokens: usize, stream: bool) -> Value {
    let text = "a river and a town ".repeat(150);
    json!({"prompt": text, "max_tokens": tokens, "temperature": 1, "seed": 1, "ignore_eos": true, "stream": stream})
}

fn signal(server: &Serving, name: &str) {
    assert!(Command::new("kill").args([name, &server.child.id().to_string()]).status().expect("runs").success());
}

/// A closed socket ends the work for it, in the queue, within a prompt, within an answer, streamed or not.
#[test]
fn nobody_is_worked_for_who_has_gone() {
    let server = Serving::bundled(&["--parallel", "2"]);
    for moment in 0..20u64 {
        let body = long(3000, moment % 2 == 0).to_string();
        let three: Vec<_> = (0..3)
            .map(|_| {
                let mut stream = server.connect();
                stream.write_all((server.head("/v1/completions", body.len()) + &body).as_bytes()).expect("sent");
                stream
            })
            .collect();
        std::thread::sleep(Duration::from_millis(moment * 4));
        drop(three);
        server.until("all gone", |status| status["running"] == 0 && status["queued"] == 0);
    }
    let totals = server.get("/ram/status").json()["totals"].clone();
    assert!(totals["cancelled"].as_u64() > Some(20) && totals["ended"] == 0, "{totals}");
    // Of 180,000 that were asked for.
    assert!(totals["generated_tokens"].as_u64() < Some(18_000), "{totals}");
}

/// Headers come before a prompt is computed, and signs of life while others are.
#[test]
fn nobody_waits_in_silence() {
    let server = Serving::bundled(&["--parallel", "1", "--sse-ping", "1"]);
    let mut busy = server.connect();
    let body = json!({"prompt": "a", "max_tokens": 4000, "ignore_eos": true, "stream": true}).to_string();
    busy.write_all((server.head("/v1/completions", body.len()) + &body).as_bytes()).expect("sent");
    server.until("running", |status| status["running"] == 1);
    let mut waits = server.connect();
    let body = long(1, true).to_string();
    waits.write_all((server.head("/v1/completions", body.len()) + &body).as_bytes()).expect("sent");
    let mut seen = Vec::new();
    let mut read = |want: &str| {
        while !String::from_utf8_lossy(&seen).contains(want) {
            let mut some = [0; 4096];
            let n = waits.read(&mut some).expect("read");
            assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&some[..n]);
        }
    };
    read("text/event-stream");
    // Its turn has not come.
    server.until("one waits", |status| status["running"] == 1 && status["queued"] == 1);
    drop(busy);
    read("[DONE]");
}

#[test]
fn what_is_too_many_waits_or_comes_back() {
    let server = Serving::bundled(&["--parallel", "1", "--queue", "2", "--queue-timeout", "1"]);
    let body = json!({"prompt": "a", "max_tokens": 4000, "ignore_eos": true, "stream": true}).to_string();
    let open: Vec<_> = (0..3)
        .map(|n| {
            let mut stream = server.connect();
            stream.write_all((server.head("/v1/completions", body.len()) + &body).as_bytes()).expect("sent");
            server.until("taken", |status| status["running"].as_u64().unwrap_or(0) + status["queued"].as_u64().unwrap_or(0) > n);
            stream
        })
        .collect();
    let reply = server.post("/v1/completions", &long(1, false));
    assert_eq!((reply.status, reply.json()["error"]["type"].as_str()), (429, Some("rate_limit_error")), "{}", reply.text());
    let retry = reply.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(retry.is_some_and(|seconds| (1..=60).contains(&seconds)), "{retry:?}");
    // Those who waited too long are told.
    let mut streams = open.into_iter();
    let first = streams.next();
    for stream in streams {
        let text = Reply::read(stream).text();
        assert!(text.contains("has waited for 1 s") || text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    drop(first);
}

#[test]
fn it_answers_while_it_loads_and_takes_its_port_first() {
    let Some(model) = crate::real::form("llama") else { return };
    let model = model.to_str().expect("UTF-8");
    let mut server = Serving::bound(&["--model", model, "--weights", "80MB", "--cache", "off", "--ctx", "512"], &[]);
    let health = server.get("/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("loading")), "{}", health.text());
    assert!(health.json()["done"].as_f64().is_some_and(|done| (0.0..=1.0).contains(&done)) && health.json()["stage"].is_string());
    assert_eq!(server.get("/v1/models").json()["data"], json!([]));
    let reply = server.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "a"}]}));
    assert_eq!((reply.status, reply.header("retry-after").as_deref()), (503, Some("5")));
    // Taken: one sentence, before anything is read.
    refused(&["--model", model, "serve", "--port", &server.port.to_string()], 1, &["another program listens there", "--port"]);
    signal(&server, "-TERM");
    assert_eq!(server.child.wait().expect("ends").code(), Some(143));
}

#[test]
fn it_ends_when_it_is_asked_to() {
    // Nothing to do: at once. Short work: it is finished. Long work: it is told.
    let mut idle = Serving::bundled(&[]);
    signal(&idle, "-TERM");
    assert_eq!(idle.child.wait().expect("ends").code(), Some(0));
    let mut server = Serving::bundled(&[]);
    let send = |tokens: usize| {
        let (mut stream, body) = (server.connect(), long(tokens, true).to_string());
        stream.write_all((server.head("/v1/completions", body.len()) + &body).as_bytes()).expect("sent");
        stream
    };
    let short = send(20);
    server.until("running", |status| status["running"] == 1 || status["totals"]["ended"] == 1);
    signal(&server, "-INT");
    assert!(Reply::read(short).text().ends_with("data: [DONE]\n\n"));
    assert_eq!(server.child.wait().expect("ends").code(), Some(0));
    let mut twice = Serving::bundled(&[]);
    let mut stream = twice.connect();
    let body = json!({"prompt": "a", "max_tokens": 4000, "n": 8, "ignore_eos": true, "stream": true}).to_string();
    stream.write_all((twice.head("/v1/completions", body.len()) + &body).as_bytes()).expect("sent");
    twice.until("running", |status| status["running"].as_u64() > Some(0));
    signal(&twice, "-INT");
    std::thread::sleep(Duration::from_millis(100));
    signal(&twice, "-INT");
    assert!([Some(130), Some(0)].contains(&twice.child.wait().expect("ends").code()));
}
