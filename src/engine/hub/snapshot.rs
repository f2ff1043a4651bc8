//! A commit of a repository: which one it is, and the files of it that a run needs.
use super::{
    Hub, Progress, Remote, Repository, cache, download,
    http::{self, Trouble},
};
use crate::{
    Error,
    error::Setting,
    weight_files::{self, INDEX, SINGLE},
};
use std::path::{Path, PathBuf};

/// What a checkpoint may have beside its weights.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// A commit of a repository in the cache, on its way to be whole.
pub struct Snapshot<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    commit: String,
    silent: Option<Silent>,
}

/// Why the hub is not asked.
enum Silent {
    /// It is not to be.
    Forbidden,
    /// It does not answer: what the system said.
    Unreachable(String),
}

impl<'a> Snapshot<'a> {
    /// Finds out which commit the revision is; where the hub does not answer, the one that the cache knows.
    ///
    /// # Errors
    /// [`Error::Hub`] with what the hub says, or where it cannot be asked and the cache does not know.
    pub fn find(hub: &'a Hub, repository: &'a Repository, file: &str) -> Result<Snapshot<'a>, Error> {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
        if repository.revision.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains(odd)) {
            return Err(Error::setting(Setting::Revision, &repository.revision, "give a branch, a tag or a commit"));
        }
        let cache = cache::Folder::new(hub, repository);
        let known = cache.commit(&repository.revision);
        // A commit never changes: what the cache has of it needs no question.
        if let Some(commit) = known.clone().filter(|c| *c == repository.revision) {
            return Ok(Snapshot { hub, repository, commit, silent: hub.offline.then_some(Silent::Forbidden) });
        }
        let silent = if hub.offline {
            Silent::Forbidden
        } else {
            match download::head(hub, repository, &repository.revision, file) {
                Ok(Some(head)) => {
                    if known.is_none() {
                        cache.set_commit(&repository.revision, &head.commit)?;
                    }
                    return Ok(Snapshot { hub, repository, commit: head.commit, silent: None });
                }
                Err(Trouble::Unreachable(why)) => Silent::Unreachable(why),
                Err(Trouble::Said(e)) => return Err(e),
                Ok(None) | Err(Trouble::Absent | Trouble::Past) => return Err(http::absent(repository, &repository.revision, file)),
            }
        };
        match known {
            Some(commit) => Ok(Snapshot { hub, repository, commit, silent: Some(silent) }),
            None => Err(missing(hub, repository, &format!("revision {}", repository.revision), &silent)),
        }
    }

    /// A file's place in the cache, fetched where it is not there yet; nothing where the repository has no such file.
    ///
    /// # Errors
    /// [`Error::Hub`] where it cannot be had.
    pub fn optional(&self, file: &str, progress: Progress) -> Result<Option<PathBuf>, Error> {
        let cache = cache::Folder::new(self.hub, self.repository);
        if let Some(path) = cache.file(&self.commit, file) {
            return Ok(Some(path));
        }
        if cache.absent(&self.commit, file) {
            return Ok(None);
        }
        if let Some(why) = &self.silent {
            return Err(missing(self.hub, self.repository, file, why));
        }
        let fetched = download::fetch(self.hub, self.repository, &self.commit, file, progress).map_err(|trouble| match trouble {
            Trouble::Unreachable(why) => missing(self.hub, self.repository, file, &Silent::Unreachable(why)),
            Trouble::Said(e) => e,
            Trouble::Absent | Trouble::Past => http::absent(self.repository, &self.repository.revision, file),
        })?;
        Ok(fetched.map(|f| f.path))
    }

    /// The same for a file that must be there.
    ///
    /// # Errors
    /// [`Error::Hub`] where it cannot be had.
    pub fn file(&self, file: &str, progress: Progress) -> Result<PathBuf, Error> {
        self.optional(file, progress)?.ok_or_else(|| http::absent(self.repository, &self.repository.revision, file))
    }

    /// Its folder, with everything of a checkpoint but the weights, and the names of the files that hold these.
    ///
    /// # Errors
    /// [`Error::Hub`] where a file cannot be had, [`Error::File`] for an index that is none.
    pub fn texts(&self, progress: Progress) -> Result<(PathBuf, Vec<String>), Error> {
        let config = self.file("config.json", progress)?;
        self.file("tokenizer.json", progress)?;
        for file in OPTIONAL {
            // Without the hub a file that may be missing is taken to be missing.
            if self.silent.is_none() {
                self.optional(file, progress)?;
            }
        }
        let cache = cache::Folder::new(self.hub, self.repository);
        if self.silent.is_none() || cache.file(&self.commit, SINGLE).is_none() {
            self.optional(INDEX, progress)?;
        }
        let folder = config.parent().unwrap_or(Path::new(""));
        let weights = weight_files::shards(folder)?.into_iter().map(|(name, _)| name);
        Ok((folder.into(), weights.collect()))
    }

    /// Its folder with everything that a run needs.
    ///
    /// # Errors
    /// As [`Snapshot::texts`].
    pub fn whole(&self, progress: Progress) -> Result<PathBuf, Error> {
        let (folder, weights) = self.texts(progress)?;
        for file in weights {
            self.file(&file, progress)?;
        }
        self.keep()?;
        Ok(folder)
    }

    /// Whether the cache has all of the named files.
    pub fn has(&self, files: &[String]) -> bool {
        let cache = cache::Folder::new(self.hub, self.repository);
        files.iter().all(|file| cache.file(&self.commit, file).is_some())
    }

    /// A file at the hub, to be read in parts.
    ///
    /// # Errors
    /// [`Error::Hub`] where the hub does not have it or does not answer.
    pub fn remote(&self, file: &str) -> Result<Remote, Error> {
        if let Some(why) = &self.silent {
            return Err(missing(self.hub, self.repository, file, why));
        }
        Remote::open(self.hub, self.repository, &self.commit, file)
    }

    /// Makes this commit what the revision means in the cache: only now that all of it is there, so that a new commit does
    /// not hide a whole old one.
    ///
    /// # Errors
    /// [`Error::Hub`] where the cache cannot be written.
    pub fn keep(&self) -> Result<(), Error> {
        let cache = cache::Folder::new(self.hub, self.repository);
        if self.silent.is_some() || cache.commit(&self.repository.revision).as_ref() == Some(&self.commit) {
            return Ok(());
        }
        cache.set_commit(&self.repository.revision, &self.commit)
    }
}

/// The sentence for what the cache has not, where it cannot be fetched.
fn missing(hub: &Hub, repository: &Repository, what: &str, why: &Silent) -> Error {
    let (repository, cache) = (repository.id.clone(), hub.cache.clone());
    match why {
        Silent::Forbidden => Error::Offline { repository, what: what.into(), cache },
        Silent::Unreachable(why) => {
            Error::Hub { repository, reason: format!("{what} is not in the cache {} and {why}: {}", cache.display(), http::AGAIN) }
        }
    }
}
