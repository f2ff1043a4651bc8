//! HTTP in front of an [`Engine`]: the protocols that clients of other servers speak, for one model, inside its memory.
//!
//! [`Server::bind`] takes the port before a weight is read and answers that it is loading; [`Server::serve`] gives it the engine, [`Server::wait`]
//! lasts until the process is asked to end.
mod access;
mod fields;
mod generation;
mod grammar;
mod listen;
mod page;
mod problem;
mod prompt;
mod sse;
mod times;
mod wire;

use access::{KeyDigest, digest};
use problem::Problem;
use ram_engine::{Calls, Engine, Error, Sampling, Template, Tokenizer};
use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Semaphore, watch};

/// Takes a line.
pub type Log = Arc<dyn Fn(String) + Send + Sync>;

/// How to serve.
#[derive(Clone)]
pub struct Options {
    /// Where to listen.
    pub addresses: Vec<SocketAddr>,
    /// Keys, one of which every request must have; none for everybody.
    pub keys: Vec<String>,
    /// Names besides localhost that this server goes by.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask; `*` for all.
    pub origins: Vec<String>,
    /// Requests that may wait.
    pub queue: usize,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// How often something is said while there is nothing to say; zero for never.
    pub ping: Duration,
    /// Bytes of a request at the most.
    pub body: usize,
    /// Whether a request for a model of another name is refused.
    pub strict_model: bool,
    /// Who is told a line for every answer, never what was asked or said; must not wait, as everybody would wait for it.
    pub log: Log,
    /// The process in which chat templates are rendered, which calls [`Template::serve`].
    pub renderer: fn() -> Command,
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Bodies of the largest size that there is memory for at once.
pub const BODIES: usize = 2;
/// Conversations that are rendered at once.
pub const RENDERED: usize = 2;

/// Memory that a server takes besides its engine: for [`Request::reserved`](ram_engine::Request).
///
/// Bodies are there as text and as values; 256 connections have 16 kB each, and their answers some lines.
pub fn reserved_bytes(body: usize, vocab_size: usize, sequences: usize) -> u64 {
    const VALUES: usize = 6;
    const CONNECTIONS: u64 = 8 << 20;
    // Its bytes in a list, and in the tree that rules for answers go by.
    const TOKEN: u64 = 128;
    let rendering = RENDERED as u64 * Template::rendering_bytes(body);
    (BODIES * VALUES * body) as u64 + rendering + CONNECTIONS + TOKEN * vocab_size as u64 + grammar::BYTES * sequences as u64
}

/// What is served.
pub struct Served {
    /// What computes.
    pub engine: Engine,
    /// The model's name, as clients see it.
    pub id: String,
    /// How conversations become texts, where there is a template.
    pub template: Option<Template>,
    /// What is chosen by where a request does not say.
    pub sampling: Sampling,
    /// Whether the model is asked to think where a request does not say.
    pub think: bool,
    /// The plan as JSON, for those who look.
    pub plan: String,
}

/// The same, with what is made of it once.
struct Ready {
    served: Served,
    created: u64,
    tokenizer: Arc<Tokenizer>,
    /// Bytes of every token.
    bytes: Vec<Vec<u8>>,
    calls: Option<Calls>,
    grammars: grammar::Grammars,
}

impl Ready {
    /// The bytes of a token; none where it is none.
    fn bytes_of(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// What answers depend on besides requests: they are the same as long as it is.
    fn fingerprint(&self) -> String {
        format!("ram-{}-{}", env!("CARGO_PKG_VERSION"), self.served.engine.model().plan.fingerprint)
    }
}

#[derive(Clone)]
enum Phase {
    Loading { stage: String, done: f64 },
    Ready(Arc<Ready>),
    Draining(Arc<Ready>),
}

/// What all connections know.
struct Shared {
    options: Options,
    keys: Vec<KeyDigest>,
    /// Of this process, in names of requests.
    name: String,
    phase: Mutex<Phase>,
    /// True when all streams shall end.
    over: watch::Sender<bool>,
    /// Bytes of bodies.
    bodies: Arc<Semaphore>,
    /// Conversations that are rendered.
    rendering: Arc<Semaphore>,
    answers: AtomicU64,
    times: Arc<times::Times>,
}

impl Shared {
    fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// What is served, where it is.
    fn ready(&self) -> Result<Arc<Ready>, Problem> {
        match self.phase() {
            Phase::Ready(ready) if ready.served.engine.is_alive() => Ok(ready),
            Phase::Ready(_) => Err(Problem::fault("The engine has ended by a fault: restart the server")),
            Phase::Loading { stage, done } => Err(Problem::unavailable(format!("The model is not ready yet: {stage}, {:.0} %", 100.0 * done))),
            Phase::Draining(_) => Err(Problem::unavailable("The server is about to end")),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A server with its ports.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Takes the ports, and answers from now on that it is loading.
    ///
    /// # Errors
    /// [`Error::Io`] with the address that cannot be listened at.
    pub fn bind(options: Options) -> Result<Server, Error> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in &options.addresses {
            let mut address = *address;
            // All at one port, also where the system chooses it.
            if let (0, Some(first)) = (address.port(), listeners.first()) {
                address.set_port(first.local_addr().map_or(0, |own| own.port()));
            }
            let bound = TcpListener::bind(address).and_then(|listener| {
                // More than std asks for: what is not accepted yet waits, and is not lost.
                rustix::net::listen(&listener, BACKLOG)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            match bound {
                Ok(listener) => listeners.push(listener),
                // A machine without IPv6 has no ::1.
                Err(e) if address.is_ipv6() && address.ip().is_loopback() && !listeners.is_empty() && e.kind() != std::io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(Error::Io { path: address.to_string().into(), source }),
            }
        }
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let keys = options.keys.iter().map(|key| digest(key)).collect();
        let seed = digest(&format!("{:?} {}", SystemTime::now(), std::process::id()));
        let shared = Arc::new(Shared {
            bodies: Arc::new(Semaphore::new(BODIES * options.body)),
            rendering: Arc::new(Semaphore::new(RENDERED)),
            options,
            keys,
            name: hex::encode(&seed[..6]),
            phase: Mutex::new(Phase::Loading { stage: "starting".into(), done: 0.0 }),
            over: watch::Sender::new(false),
            answers: AtomicU64::new(0),
            times: Arc::default(),
        });
        let thread = listen::start(shared.clone(), listeners)?;
        Ok(Server { shared, addresses, thread })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is told to those who ask meanwhile: the stage of loading, and how much of it is done, from 0 to 1.
    pub fn loading(&self) -> impl Fn(&str, f64) + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |stage, done| {
            if matches!(shared.phase(), Phase::Loading { .. }) {
                shared.set_phase(Phase::Loading { stage: stage.into(), done });
            }
        }
    }

    /// Answers requests from now on.
    pub fn serve(&self, served: Served) {
        let tokenizer = served.engine.model().tokenizer.clone();
        let calls = tokenizer.chat_template.as_deref().and_then(Calls::of);
        let ready = Ready { created: now(), bytes: tokenizer.bytes(), tokenizer, calls, grammars: grammar::Grammars::default(), served };
        self.shared.set_phase(Phase::Ready(Arc::new(ready)));
    }

    /// Waits until the process is asked to end; running requests have ten seconds then.
    pub fn wait(self) {
        let _ = self.thread.join();
    }
}
