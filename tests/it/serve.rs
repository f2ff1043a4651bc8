//! The server as clients see it: bytes on a socket.
mod access;
mod answers;
mod clients;
mod life;
mod load;

use crate::cli::command;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStderr, Stdio},
    time::{Duration, Instant},
};

/// A server that ends with the test.
pub struct Serving {
    pub child: Child,
    pub port: u16,
    /// What it says from here on.
    pub said: BufReader<ChildStderr>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    /// One with these arguments, at a port of its own, that may still be loading.
    pub fn bound(before: &[&str], after: &[&str]) -> Serving {
        let all = [before, &["serve", "--port", "0"], after].concat();
        let mut child = command(&all).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("listening at http://127.0.0.1:") {
            line.clear();
            assert!(said.read_line(&mut line).expect("read") > 0, "{all:?} ended");
        }
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()).and_then(|n| n.parse().ok());
        Serving { child, port: port.expect("a port"), said }
    }

    /// The same, ready.
    pub fn start(before: &[&str], after: &[&str]) -> Serving {
        let mut server = Serving::bound(before, after);
        let mut line = String::new();
        while !line.contains("is ready at") {
            line.clear();
            assert!(server.said.read_line(&mut line).expect("read") > 0, "it ended before it was ready");
        }
        server
    }

    /// The bundled model with room for all that tests do.
    pub fn bundled(after: &[&str]) -> Serving {
        Serving::start(&["--weights", "7000000", "--no-survey"], after)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
        stream
    }

    /// Sends a request, with what comes before the empty line given whole.
    pub fn raw(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = self.connect();
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        Reply::read(stream)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n", self.port), b"")
    }

    /// The head of a request with a JSON body of so many bytes.
    pub fn head(&self, path: &str, bytes: usize) -> String {
        let port = self.port;
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
        )
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let body = body.to_string();
        self.raw(&self.head(path, body.len()), body.as_bytes())
    }

    /// What a request that works gives.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        reply.json()
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let status = self.get("/ram/status").json();
            if is(&status) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "not {what}: {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An answer of HTTP.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// Reads one to its end.
    pub fn read(stream: TcpStream) -> Reply {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            // A closed connection is an answer too.
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return Reply { status: 0, head, body: Vec::new() };
            }
        }
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size).expect("read");
                let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).expect("a chunk");
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else {
            let _ = stream.read_to_end(&mut body);
        }
        Reply { status, head, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")))?;
        Some(line[name.len() + 2..].to_string())
    }

    /// Of a stream: the data of each event; comments are left out.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        assert!(text.ends_with("\n\n") && !text.contains("\nid:"), "{text}");
        text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: ")).map(String::from).collect()
    }

    /// The same as JSON, without the mark of the end, which must be there.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", self.text());
        events.iter().map(|event| serde_json::from_str(event).unwrap_or_else(|e| panic!("{e}: {event}"))).collect()
    }
}
