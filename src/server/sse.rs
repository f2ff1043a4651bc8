//! Server-sent events: frames as they come, and a comment where nothing comes, so that nobody takes slowness for silence.
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use hyper::body::Frame;
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::timeout,
};

/// How long somebody may not read.
const STALLED: Duration = Duration::from_secs(60);
/// Frames that wait for a reader.
const WAITING: usize = 64;
/// Silence before the first comment; then each time as long as is asked for.
const FIRST: Duration = Duration::from_secs(2);

/// Nobody reads any more.
pub struct Gone;

/// Where frames are written.
pub struct Frames(Sender<Bytes>);

impl Frames {
    /// Writes bytes as they are.
    pub async fn raw(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        match timeout(STALLED, self.0.send(bytes.into())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Writes an event of one line of data.
    pub async fn data(&self, data: &serde_json::Value) -> Result<(), Gone> {
        self.raw(format!("data: {data}\n\n")).await
    }

    /// What `next` gives, with `ping` written while it takes its time; `Gone` as soon as nobody reads.
    pub async fn beside<T>(&self, ping: (&'static str, Duration), next: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::pin!(next);
        let (text, every) = ping;
        let mut wait = if every.is_zero() { Duration::from_secs(1 << 30) } else { FIRST.min(every) };
        loop {
            tokio::select! {
                biased;
                () = self.0.closed() => return Err(Gone),
                done = &mut next => return Ok(done),
                () = tokio::time::sleep(wait) => {}
            }
            self.raw(text).await?;
            wait = every;
        }
    }
}

struct Stream(Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An answer that begins now and goes on as `write` writes it.
pub fn response<F: Future<Output = Result<(), Gone>> + Send + 'static>(write: impl FnOnce(Frames) -> F) -> Response {
    let (frames, received) = mpsc::channel(WAITING);
    tokio::spawn(write(Frames(frames)));
    let mut response = Response::new(Body::new(Stream(received)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
