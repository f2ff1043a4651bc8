//! Many at once, of all kinds: the budget holds, nobody gets another's answer, nothing is left behind.
use super::{Reply, Serving};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Peak resident bytes of a process.
fn peak(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Seconds of it: ten minutes where `RAM_RUN_LOAD_SECONDS` says so.
fn seconds() -> u64 {
    std::env::var("RAM_RUN_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20)
}

#[test]
fn sixty_four_clients_of_all_kinds() {
    const BUDGET: u64 = 100_000_000;
    let server = Serving::start(&["--budget", &BUDGET.to_string(), "--ctx", "1024"], &["--api-key", "k", "--parallel", "4", "--queue", "64"]);
    let post = |body: &str| {
        let head = server.head("/v1/completions", body.len()).replace("Connection", "Authorization: Bearer k\r\nConnection");
        let mut stream = server.connect();
        let _ = stream.write_all((head + body).as_bytes());
        stream
    };
    let body = |n: usize| {
        let prompt = format!("{} river {} ", n % 7, n).repeat(2 + n * 37 % 120);
        json!({"prompt": prompt, "max_tokens": 1 + n * 13 % 60, "temperature": 1, "seed": n, "ignore_eos": true}).to_string()
    };
    // Each one's answer alone, before.
    let want: BTreeMap<usize, String> =
        (0..64).map(|n| (n, Reply::read(post(&body(n))).json()["choices"][0]["text"].as_str().expect("a text").to_string())).collect();
    let (end, answered, refused) = (Instant::now() + Duration::from_secs(seconds()), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 0..64 {
            let (post, body, want, answered, refused, server) = (&post, &body, &want, &answered, &refused, &server);
            scope.spawn(move || {
                let mut turn = n;
                while Instant::now() < end {
                    turn += 1;
                    if n % 8 >= 6 {
                        // Those who only disturb come and go some dozen times a second, each.
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    match (n % 8, turn % 64) {
                        // Reads slowly.
                        (5, which) => {
                            let mut stream = post(&body(which).replace("\"prompt\"", "\"stream\":true,\"prompt\""));
                            let (mut all, mut some) = (Vec::new(), [0; 64]);
                            while let Ok(read @ 1..) = stream.read(&mut some) {
                                all.extend_from_slice(&some[..read]);
                                std::thread::sleep(Duration::from_millis(1));
                            }
                            let all = String::from_utf8_lossy(&all);
                            assert!(all.contains("[DONE]") || all.contains(" 429 "), "{all}");
                        }
                        // Goes early.
                        (6, which) => {
                            let stream = post(&body(which));
                            std::thread::sleep(Duration::from_millis(which as u64 % 9));
                            drop(stream);
                        }
                        // Sends too much, or has no key.
                        (7, which) if which % 2 == 0 => assert_eq!(server.raw(&server.head("/v1/completions", 300 << 10), b"").status, 401),
                        (7, _) => {
                            let head = server.head("/v1/completions", 300 << 10).replace("Connection", "Authorization: Bearer k\r\nConnection");
                            assert_eq!(server.raw(&head, b"").status, 413);
                        }
                        (_, which) => {
                            let reply = Reply::read(post(&body(which)));
                            if reply.status == 429 {
                                refused.fetch_add(1, Relaxed);
                                std::thread::sleep(Duration::from_millis(20));
                                continue;
                            }
                            assert_eq!(reply.status, 200, "{}", reply.text());
                            assert_eq!(reply.json()["choices"][0]["text"], *want[&which], "{n}: {which}");
                            answered.fetch_add(1, Relaxed);
                        }
                    }
                }
            });
        }
    });
    let got = |path: &str| server.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: k\r\nConnection: close\r\n\r\n"), b"").json();
    let start = Instant::now();
    while got("/ram/status")["running"] != 0 && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = got("/ram/status");
    let most = peak(server.child.id());
    eprintln!("{} answers, {} told to come back, peak {most} of {BUDGET}: {status}", answered.load(Relaxed), refused.load(Relaxed));
    assert!(answered.load(Relaxed) > 64 && status["running"] == 0 && status["queued"] == 0 && status["kv"]["active"] == 0, "{status}");
    assert!(most < BUDGET, "peak {most}: {status}");
    assert!(status["totals"]["failed"] == 0, "{status}");
}
