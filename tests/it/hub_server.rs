//! A hub on this machine: one repository, the headers that the real one sends, and faults where a test wants them.
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

/// The commit that main is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A question as the server got it.
#[derive(Clone, Debug)]
pub struct Ask {
    pub head: bool,
    pub path: String,
    /// First byte, and last one where it is named.
    pub range: Option<(usize, Option<usize>)>,
    pub token: Option<String>,
}

impl Ask {
    /// Whether it is for the bytes of a file.
    pub fn is_get(&self, file: &str) -> bool {
        !self.head && self.path.ends_with(file)
    }
}

/// What goes wrong with an answer.
pub enum Fault {
    /// A status and a header.
    Status(u16, (&'static str, &'static str)),
    /// The connection closes after so many bytes of the body.
    Cut(usize),
    /// Other bytes than the file's, whatever was promised.
    Bytes(Vec<u8>),
    /// A header has another value.
    Says(&'static str, String),
}

type Faults = dyn Fn(&Ask) -> Option<Fault> + Send + Sync;

pub struct State {
    pub asked: Vec<Ask>,
    pub body_bytes: usize,
    faults: Arc<Faults>,
}

pub struct Server {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves the files of a repository, whose path has `datasets/` before it where it is one.
    pub fn start(repository: &str, files: BTreeMap<String, Vec<u8>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State { asked: Vec::new(), body_bytes: 0, faults: Arc::new(|_| None) }));
        let (shared, site) = (
            state.clone(),
            Arc::new(Site { repository: repository.into(), files: files.into_iter().map(|(n, b)| (n, (b.clone(), sha256(&b)))).collect(), port }),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, site) = (shared.clone(), site.clone());
                std::thread::spawn(move || site.serve(stream, &state));
            }
        });
        Server { port, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// From now on these faults.
    pub fn faults(&self, faults: impl Fn(&Ask) -> Option<Fault> + Send + Sync + 'static) {
        let mut state = self.state();
        state.faults = Arc::new(faults);
        state.asked.clear();
        state.body_bytes = 0;
    }
}

struct Site {
    repository: String,
    /// Contents and their sha256.
    files: BTreeMap<String, (Vec<u8>, String)>,
    port: u16,
}

/// sha256 as text.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Site {
    fn serve(&self, mut stream: TcpStream, state: &Mutex<State>) {
        let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
        while let Some(ask) = read(&mut reader) {
            let faults = {
                let mut state = state.lock().expect("no panic");
                state.asked.push(ask.clone());
                state.faults.clone()
            };
            let (head, body) = self.answer(&ask, faults(&ask));
            let keep = body.is_ok();
            let body = body.unwrap_or_else(|cut| cut);
            state.lock().expect("no panic").body_bytes += body.len();
            if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() || !keep {
                return;
            }
        }
    }

    /// Headers, and the body, as an error where the connection ends with it.
    fn answer(&self, ask: &Ask, fault: Option<Fault>) -> (String, Result<Vec<u8>, Vec<u8>>) {
        if let Some(Fault::Says(name, value)) = fault {
            let (head, body) = self.answer(ask, None);
            let other = |line: &&str| !line.to_ascii_lowercase().starts_with(&format!("{}:", name.to_ascii_lowercase()));
            let head: String = head.trim_end().split("\r\n").filter(other).map(|line| format!("{line}\r\n")).collect();
            return (format!("{head}{name}: {value}\r\n\r\n"), body);
        }
        let status = |code: u16, headers: &str| (format!("HTTP/1.1 {code} Said\r\nContent-Length: 0\r\n{headers}\r\n"), Ok(Vec::new()));
        if let Some(Fault::Status(code, (name, value))) = fault {
            return status(code, &format!("{name}: {value}\r\n"));
        }
        // Contents have a host of their own, as at the real hub.
        let (file, linked) = match ask.path.strip_prefix("/cdn/").or(ask.path.strip_prefix("/api/resolve-cache/")) {
            Some(file) => (file, true),
            None => {
                let Some(rest) = ask.path.strip_prefix(&format!("/{}/resolve/", self.repository)) else {
                    return status(404, "X-Error-Code: RepoNotFound\r\n");
                };
                let (revision, file) = rest.split_once('/').expect("a file");
                if !["main", COMMIT].contains(&revision) {
                    return status(404, "X-Error-Code: RevisionNotFound\r\n");
                }
                (file, false)
            }
        };
        let Some((bytes, hash)) = self.files.get(file) else { return status(404, "X-Error-Code: EntryNotFound\r\n") };
        if !linked && (file.ends_with(".safetensors") || file.ends_with(".parquet")) {
            let port = self.port;
            let linked = format!("X-Linked-Size: {}\r\nX-Linked-Etag: \"{hash}\"\r\nX-Repo-Commit: {COMMIT}\r\n", bytes.len());
            return status(302, &format!("{linked}Location: http://localhost:{port}/cdn/{file}\r\n"));
        }
        // Small files are elsewhere on the same host.
        if !linked && file == "tokenizer.json" {
            return status(307, &format!("X-Repo-Commit: {COMMIT}\r\nLocation: /api/resolve-cache/{file}\r\n"));
        }
        let mut sent = match &fault {
            Some(Fault::Bytes(other)) => &other[..],
            _ => &bytes[..],
        };
        let size = sent.len();
        let mut code = 200;
        let mut headers = format!("ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", &hash[..40]);
        if let Some((from, to)) = ask.range {
            if from >= size {
                return status(416, "");
            }
            let last = to.unwrap_or(size - 1).min(size - 1);
            sent = &sent[from..=last];
            headers += &format!("Content-Range: bytes {from}-{last}/{size}\r\n");
            code = 206;
        }
        let head = format!("HTTP/1.1 {code} OK\r\nContent-Length: {}\r\n{headers}\r\n", sent.len());
        match fault {
            _ if ask.head => (head, Ok(Vec::new())),
            Some(Fault::Cut(n)) => (head, Err(sent[..n.min(sent.len())].to_vec())),
            _ => (head, Ok(sent.to_vec())),
        }
    }
}

/// The next question of a connection.
fn read(reader: &mut impl BufRead) -> Option<Ask> {
    let mut lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let mut words = first.split(' ');
    let mut ask = Ask { head: words.next()? == "HEAD", path: words.next()?.into(), range: None, token: None };
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => ask.token = Some(value.into()),
            "range" => {
                let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                ask.range = Some((from.parse().ok()?, to.parse().ok()));
            }
            _ => {}
        }
    }
    Some(ask)
}
