//! One question to the hub: redirects, short pauses before another try, and what a refusal means, as a sentence.
use super::{Hub, Repository};
use crate::Error;
use std::{thread, time::Duration};
use ureq::{Body, http::Response};
use url::Url;

/// Tries after the first.
pub const RETRIES: u32 = 3;
const REDIRECTS: usize = 8;
/// What to do where nobody answers.
pub const AGAIN: &str = "check the network and run again";

/// Why a question has no answer.
pub enum Trouble {
    /// Nobody is there: who, and what the system said.
    Unreachable(String),
    /// There is no such file in a repository that may be there.
    Absent,
    /// The file ends before the bytes that were asked for.
    Past,
    /// Anything else.
    Said(Error),
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Trouble {
        Trouble::Said(e)
    }
}

/// What is asked for.
pub struct Question<'a> {
    /// The hub and its settings.
    pub hub: &'a Hub,
    /// Whose file it is.
    pub repository: &'a Repository,
    /// The revision in the address.
    pub revision: &'a str,
    /// The file's name in the repository.
    pub file: &'a str,
}

/// An answer, and where it came from after all redirects.
pub struct Answer {
    /// Where.
    pub url: Url,
    /// The headers that a redirect may carry and its target does not: commit, etag, size.
    pub linked: Vec<(&'static str, String)>,
    /// The last answer.
    pub response: Response<Body>,
}

impl Answer {
    /// A header of the first answer that had it.
    pub fn header(&self, name: &str) -> Option<&str> {
        let linked = self.linked.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        linked.or_else(|| self.response.headers().get(name).and_then(|v| v.to_str().ok()))
    }
}

/// Headers that count wherever in a chain of redirects they stand.
const LINKED: [&str; 3] = ["x-repo-commit", "x-linked-etag", "x-linked-size"];

impl Question<'_> {
    /// The file's address.
    pub fn url(&self) -> Url {
        let mut url = self.hub.endpoint.clone();
        // Every http address has a path; a revision's slashes become %2F.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(self.repository.path().split('/')).push("resolve").push(self.revision).extend(self.file.split('/'));
        }
        url
    }

    /// Asks for the headers alone; a redirect to another host is an answer.
    pub fn head(&self) -> Result<Answer, Trouble> {
        self.ask(self.url(), true, None)
    }

    /// Asks `url` for bytes, all from `range.0` where the other end is open.
    pub fn get(&self, url: Url, range: (u64, Option<u64>)) -> Result<Answer, Trouble> {
        self.ask(url, false, Some(range))
    }

    fn ask(&self, url: Url, head: bool, range: Option<(u64, Option<u64>)>) -> Result<Answer, Trouble> {
        let mut tries = 0;
        loop {
            let trouble = match self.follow(url.clone(), head, range) {
                Ok(answer) => match answer.response.status().as_u16() {
                    500.. => Trouble::Said(self.refused(&answer, tries)),
                    // A mirror may say no more than the number.
                    404 if !["RepoNotFound", "RevisionNotFound"].contains(&answer.header("x-error-code").unwrap_or_default()) => {
                        return Err(Trouble::Absent);
                    }
                    416 => return Err(Trouble::Past),
                    400.. => return Err(Trouble::Said(self.refused(&answer, tries))),
                    // Where a redirect names no place, there is nothing to read.
                    300.. if !head => return Err(Trouble::Said(self.refused(&answer, tries))),
                    _ => return Ok(answer),
                },
                Err(lost @ Trouble::Unreachable(_)) => lost,
                Err(e) => return Err(e),
            };
            if tries == RETRIES {
                return Err(trouble);
            }
            pause(tries);
            tries += 1;
        }
    }

    /// The answer after all redirects.
    fn follow(&self, mut url: Url, head: bool, range: Option<(u64, Option<u64>)>) -> Result<Answer, Trouble> {
        let mut linked: Vec<(&str, String)> = Vec::new();
        for _ in 0..REDIRECTS {
            let mut request = if head { self.hub.agent.head(url.as_str()) } else { self.hub.agent.get(url.as_str()) };
            if let Some(token) = self.hub.token.as_ref().filter(|_| url.origin() == self.hub.endpoint.origin()) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some((from, to)) = range {
                request = request.header("range", format!("bytes={from}-{}", to.map_or(String::new(), |to| to.to_string())));
            }
            let lost = |e| Trouble::Unreachable(format!("{} does not answer ({e})", url.origin().ascii_serialization()));
            let response = request.call().map_err(lost)?;
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            let next = text("location").filter(|_| response.status().is_redirection()).map(|to| url.join(to).ok());
            let next = next.map(|to| to.filter(|to| ["http", "https"].contains(&to.scheme())));
            match next.map(|to| to.ok_or_else(|| self.said(format!("the hub sends to no address for {}", self.file)))) {
                Some(Err(e)) => return Err(e),
                // The host of the contents knows nothing about the repository; its address is only good for a while.
                Some(Ok(next)) if !head || next.origin() == url.origin() => {
                    linked.extend(LINKED.into_iter().filter_map(|name| Some((name, text(name)?.to_string()))));
                    url = next;
                }
                _ => return Ok(Answer { url, linked, response }),
            }
        }
        Err(self.said(format!("the hub sends from one address to the next more than {REDIRECTS} times for {}: try again later", self.file)))
    }

    /// The sentence for a status of 400 or more.
    fn refused(&self, answer: &Answer, tries: u32) -> Error {
        let (status, file) = (answer.response.status().as_u16(), self.file);
        let page = format!("https://huggingface.co/{}", self.repository.path());
        let looked = &self.hub.looked;
        let reason = match (status, answer.header("x-error-code")) {
            (404, Some("RevisionNotFound")) => format!("the hub has no revision {} of it (404): look at its spelling", self.revision),
            (404, _) => "the hub has no such repository (404), and there is no folder of that name: look at the spelling".into(),
            // To someone unknown, the hub says the same about what is not there and what is private.
            (401, Some("RepoNotFound")) => {
                format!("the hub has no such public repository (401): see {page}, or give a token that may read it ({looked})")
            }
            (401 | 403, _) => {
                format!("the hub refuses {file} ({status}): accept the conditions on {page} and give a token that may read it ({looked})")
            }
            (429, _) => {
                let wait =
                    answer.header("retry-after").and_then(|s| s.parse::<u32>().ok()).map_or("a few minutes".into(), |s| format!("{s} seconds"));
                format!("the hub got too many requests (429) at {file}: try again in {wait}, or give a token ({looked})")
            }
            (500.., _) => format!("the hub failed at {file} ({status}, {} tries): try again later", tries + 1),
            _ => format!("the hub refuses {file} ({status})"),
        };
        Error::Hub { repository: self.repository.id.clone(), reason }
    }

    /// A sentence about its repository.
    pub fn said(&self, reason: String) -> Trouble {
        Trouble::Said(Error::Hub { repository: self.repository.id.clone(), reason })
    }
}

/// The sentence for a file that a repository must have and has not.
pub fn absent(repository: &Repository, revision: &str, file: &str) -> Error {
    Error::Hub { repository: repository.id.clone(), reason: format!("the hub has no {file} at revision {revision} of it (404)") }
}

/// Waits a little longer each time.
pub fn pause(tries: u32) {
    thread::sleep(Duration::from_millis(200 << tries.min(4)));
}
