//! A file into the cache: its headers first, then its bytes, from where an earlier try stopped, checked and put in place.
use super::{
    Fetched, Hub, Progress, Repository,
    cache::{self, Folder},
    http::{Question, RETRIES, Trouble, pause},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

/// Whatever holds no weights is read as one text: those of real checkpoints stay below 40 MB.
const LONGEST_TEXT: u64 = 64 << 20;
/// Names of files: no hub's are longer.
const LONGEST_ETAG: usize = 128;

/// What the hub says about a file before it sends it.
pub struct Head {
    /// The commit that the revision is.
    pub commit: String,
    /// The name of its content: sha256 where it is a large file.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// Asks about a file; nothing where the repository has none of that name.
pub fn head(hub: &Hub, repository: &Repository, revision: &str, file: &str) -> Result<Option<Head>, Trouble> {
    let question = Question { hub, repository, revision, file };
    let answer = match question.head() {
        Ok(answer) => answer,
        Err(Trouble::Absent) => return Ok(None),
        Err(e) => return Err(e),
    };
    let bad = |what: &str| {
        question.said(format!(
            "{} says no {what} of {file}: is it a hub, and no page of a proxy or a login?",
            hub.endpoint.origin().ascii_serialization()
        ))
    };
    let plain = |etag: &str| etag.trim_start_matches("W/").trim_matches('"').to_string();
    // Both become names of files.
    let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag")).map(plain);
    let name = |e: &String| (1..=LONGEST_ETAG).contains(&e.len()) && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let etag = etag.filter(name).ok_or_else(|| bad("etag"))?;
    let commit = answer.header("x-repo-commit").filter(|c| cache::is_commit(c)).ok_or_else(|| bad("commit"))?.to_string();
    let length = if answer.response.status().is_success() { answer.header("content-length") } else { None };
    let size = answer.header("x-linked-size").or(length).and_then(|s| s.parse().ok()).ok_or_else(|| bad("size"))?;
    Ok(Some(Head { commit, etag, size }))
}

/// Fetches a file of a commit into the cache; nothing where there is none.
pub fn fetch(hub: &Hub, repository: &Repository, commit: &str, file: &str, progress: Progress) -> Result<Option<Fetched>, Trouble> {
    let folder = Folder::new(hub, repository);
    let Some(head) = head(hub, repository, commit, file)? else {
        // To ask again next time is all that is lost where this cannot be written.
        let _ = folder.set_absent(commit, file);
        return Ok(None);
    };
    let question = Question { hub, repository, revision: commit, file };
    if head.size > LONGEST_TEXT && !file.ends_with(".safetensors") {
        return Err(question.said(format!("{file} has {} bytes there, which no text of a checkpoint has", head.size)));
    }
    let _lock = folder.lock(&head.etag)?;
    // Another revision may have the same content, or another process was faster.
    if folder.blob(&head.etag).exists() {
        return Ok(Some(Fetched::here(folder.publish(&head.etag, commit, file)?)));
    }
    Transfer { question, folder: &folder, head: &head }.run(progress)?;
    Ok(Some(Fetched::brought(folder.publish(&head.etag, commit, file)?, hub, repository, &head.etag)))
}

struct Transfer<'a> {
    question: Question<'a>,
    folder: &'a Folder<'a>,
    head: &'a Head,
}

/// Bytes so far: on disk, and their hash.
struct Growing {
    file: File,
    hash: Sha256,
    len: u64,
}

impl Growing {
    fn open(path: &Path) -> io::Result<Growing> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut hash = Sha256::new();
        let (mut len, mut block) = (0, vec![0; 1 << 16]);
        loop {
            let n = file.read(&mut block)?;
            if n == 0 {
                return Ok(Growing { file, hash, len });
            }
            hash.update(&block[..n]);
            len += n as u64;
        }
    }

    fn clear(&mut self) -> io::Result<()> {
        (self.hash, self.len) = (Sha256::new(), 0);
        self.file.set_len(0)
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Whether it can be JSON, by its first bytes.
    fn like_json(&self) -> io::Result<bool> {
        let mut first = [0; 64];
        let n = self.file.read_at(&mut first, 0)?;
        Ok(first[..n].trim_ascii_start().starts_with(b"{"))
    }
}

/// How a stream of bytes ended.
enum End {
    Whole,
    Broken(String),
    TooLong,
}

impl Transfer<'_> {
    /// Leaves all bytes, checked, where they grow.
    fn run(&self, progress: Progress) -> Result<(), Trouble> {
        let path = self.folder.growing(&self.head.etag);
        let mut growing = self.folder.done(&path, self.folder.parent(&path).and_then(|_| Growing::open(&path)))?;
        let size = self.head.size;
        if growing.len > size {
            self.folder.done(&path, growing.clear())?;
        }
        let (mut tries, mut most) = (0, growing.len);
        while growing.len < size {
            match self.piece(&mut growing, progress)? {
                End::Whole => {}
                End::TooLong => return Err(self.refuse(&path, &format!("more than the {size} bytes that were promised"))),
                End::Broken(why) => {
                    tries = if growing.len > most { 0 } else { tries + 1 };
                    // A hub that begins again every time must not look like one that goes on.
                    most = most.max(growing.len);
                    if tries > RETRIES {
                        let got = growing.len;
                        return Err(self.question.said(format!(
                            "{} broke off after {got} of {size} bytes, {} times ({why}): run again to go on from there",
                            self.question.file, tries
                        )));
                    }
                    pause(tries);
                }
            }
        }
        self.folder.done(&path, growing.file.sync_all())?;
        if self.question.file.ends_with(".json") && !self.folder.done(&path, growing.like_json())? {
            return Err(self.refuse(&path, "what is no JSON (the page of a proxy or a login?)"));
        }
        let hash = hex::encode(growing.hash.finalize());
        // A content that is no large file has another kind of name, and only its size is known.
        if self.head.etag.len() == 64 && self.head.etag != hash {
            return Err(self.refuse(&path, &format!("other bytes than promised (sha256 {hash}, not {})", self.head.etag)));
        }
        Ok(())
    }

    /// One answer's bytes.
    fn piece(&self, growing: &mut Growing, progress: Progress) -> Result<End, Trouble> {
        let path = self.folder.growing(&self.head.etag);
        let answer = match self.question.get(self.question.url(), (growing.len, None)) {
            Err(Trouble::Past) => {
                let what = format!("{} of the {} bytes that were promised", growing.len, self.head.size);
                return Err(self.refuse(&path, &what));
            }
            answer => answer?,
        };
        let range = answer.response.headers().get("content-range").and_then(|v| v.to_str().ok());
        // Whoever sends all of it again, or another part, has it put where it belongs.
        if range.is_none_or(|r| !r.starts_with(&format!("bytes {}-", growing.len))) {
            if range.is_some() {
                return Ok(End::Broken("the hub sends another part than asked for".into()));
            }
            self.folder.done(&path, growing.clear())?;
        }
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) if growing.len < self.head.size => return Ok(End::Broken("the connection was closed".into())),
                Ok(0) => return Ok(End::Whole),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(End::Broken(e.to_string())),
            };
            if growing.len + n as u64 > self.head.size {
                return Ok(End::TooLong);
            }
            self.folder.done(&path, growing.add(&buffer[..n]))?;
            progress(self.question.file, growing.len, self.head.size);
        }
    }

    /// Nothing of what came is kept: none of it can be trusted.
    fn refuse(&self, path: &Path, what: &str) -> Trouble {
        let _ = fs::remove_file(path);
        self.question.said(format!("{} came with {what} and is not kept: run again to fetch it anew", self.question.file))
    }
}
