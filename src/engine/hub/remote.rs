//! A file that stays at the hub and is read in parts.
use super::{
    Fetched, Hub, Progress, Repository,
    cache::Folder,
    download,
    http::{AGAIN, Question, RETRIES, Trouble, absent, pause},
};
use crate::Error;
use std::{
    io::Read,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use url::Url;

/// A file at the hub.
#[derive(Debug)]
pub struct Remote {
    hub: Hub,
    repository: Repository,
    commit: String,
    file: String,
    size: u64,
    etag: String,
    /// Where the hub last sent us for it: to ask it for every part would be too many questions.
    at: Mutex<Option<Url>>,
    fetched: AtomicU64,
}

impl Remote {
    pub(super) fn open(hub: &Hub, repository: &Repository, commit: &str, file: &str) -> Result<Remote, Error> {
        let (hub, repository) = (hub.clone(), repository.clone());
        let head = download::head(&hub, &repository, commit, file).map_err(|t| said(&repository, t))?;
        let download::Head { size, etag, .. } = head.ok_or_else(|| absent(&repository, commit, file))?;
        Ok(Remote { hub, repository, commit: commit.into(), file: file.into(), size, etag, at: Mutex::new(None), fetched: AtomicU64::new(0) })
    }

    /// Its name in the repository.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Bytes that it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The name of its content: its sha256 where it is a large file.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Fetches all of it into the cache, where it is not there yet.
    ///
    /// # Errors
    /// [`Error::Hub`] with what the hub says.
    pub fn fetch(&self, progress: Progress) -> Result<Fetched, Error> {
        if let Some(path) = Folder::new(&self.hub, &self.repository).file(&self.commit, &self.file) {
            return Ok(Fetched::here(path));
        }
        let fetched = download::fetch(&self.hub, &self.repository, &self.commit, &self.file, progress).map_err(|t| said(&self.repository, t))?;
        fetched.ok_or_else(|| absent(&self.repository, &self.commit, &self.file))
    }

    /// Makes its commit what the revision means in the cache, now that all of it is there.
    ///
    /// # Errors
    /// [`Error::Hub`] where the cache cannot be written.
    pub fn keep(&self) -> Result<(), Error> {
        Folder::new(&self.hub, &self.repository).set_commit(&self.repository.revision, &self.commit)
    }

    /// Bytes of it that were read.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Fills `buffer` with the bytes from `at`.
    ///
    /// # Errors
    /// [`Error::Hub`] with what the hub says.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<(), Error> {
        if buffer.is_empty() {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let known = self.at.lock().map_or(None, |url| url.clone());
            match self.part(known.as_ref(), buffer, at) {
                Ok(()) => {
                    self.fetched.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
                // The address that a redirect gave is only good for a while; the next try asks the hub again.
                Err(_) if known.is_some() && tries < RETRIES => {
                    self.remember(None);
                    tries += 1;
                }
                Err(Part::Refused(trouble)) => return Err(said(&self.repository, trouble)),
                Err(Part::Broken(why)) if tries == RETRIES => {
                    let reason =
                        format!("{} broke off {} times while {} bytes of it were read ({why}): run again", self.file, tries + 1, buffer.len());
                    return Err(Error::Hub { repository: self.repository.id.clone(), reason });
                }
                Err(Part::Broken(_)) => {
                    pause(tries);
                    tries += 1;
                }
            }
        }
    }

    fn remember(&self, url: Option<Url>) {
        if let Ok(mut at) = self.at.lock() {
            *at = url;
        }
    }

    fn part(&self, known: Option<&Url>, buffer: &mut [u8], at: u64) -> Result<(), Part> {
        let question = Question { hub: &self.hub, repository: &self.repository, revision: &self.commit, file: &self.file };
        let last = at + buffer.len() as u64 - 1;
        let answer = question.get(known.cloned().unwrap_or_else(|| question.url()), (at, Some(last))).map_err(Part::Refused)?;
        let range = answer.response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or("no part of it");
        if !range.starts_with(&format!("bytes {at}-{last}/")) {
            return Err(Part::Broken(format!("the hub sends {range}, not bytes {at} to {last}")));
        }
        let url = answer.url;
        // Read to its end, an answer leaves its connection for the next question.
        let mut body = answer.response.into_body().into_reader();
        body.read_exact(buffer).and_then(|()| body.read(&mut [0])).map_err(|e| Part::Broken(e.to_string()))?;
        if known.is_none() {
            self.remember(Some(url));
        }
        Ok(())
    }
}

/// Why a part did not come.
enum Part {
    Refused(Trouble),
    Broken(String),
}

fn said(repository: &Repository, trouble: Trouble) -> Error {
    match trouble {
        Trouble::Unreachable(why) => Error::Hub { repository: repository.id.clone(), reason: format!("{why}: {AGAIN}") },
        Trouble::Absent | Trouble::Past => {
            Error::Hub { repository: repository.id.clone(), reason: "a file at the hub is not what it was a moment ago: run again".into() }
        }
        Trouble::Said(e) => e,
    }
}
