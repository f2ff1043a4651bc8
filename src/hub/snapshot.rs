//! A commit of a repository: which one it is, and the files of it that a run needs.
use super::{
    Hub, Progress, Remote, Repository, cache,
    download::{self, Trouble},
    http,
};
use crate::{
    Error,
    checkpoint::{INDEX, SINGLE},
    error::Setting,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What a checkpoint may have beside its weights.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// A commit of a repository in the cache, on its way to be whole.
pub struct Snapshot<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    commit: String,
    /// The hub is not to be asked, or does not answer: why.
    unreachable: Option<String>,
}

impl<'a> Snapshot<'a> {
    /// Finds out which commit the revision is; where the hub does not answer, the one that the cache knows.
    ///
    /// # Errors
    /// [`Error::Hub`] with what the hub says, or where it cannot be asked and the cache does not know.
    pub fn find(hub: &'a Hub, repository: &'a Repository, file: &str) -> Result<Snapshot<'a>, Error> {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c));
        if repository.revision.is_empty()
            || repository.revision.contains(odd)
            || repository.revision.contains("..")
            || repository.revision.starts_with('/')
        {
            return Err(Error::setting(Setting::Revision, &repository.revision, "give a branch, a tag or a commit"));
        }
        let cache = cache::Folder::new(hub, repository);
        let known = cache.commit(&repository.revision);
        // A commit never changes: what the cache has of it needs no question.
        if let Some(commit) = known.clone().filter(|c| *c == repository.revision) {
            return Ok(Snapshot { hub, repository, commit, unreachable: hub.offline.then(offline) });
        }
        let asked = if hub.offline { Err(Trouble::Unreachable(offline())) } else { download::head(hub, repository, &repository.revision, file) };
        match (asked, known) {
            (Ok(Some(head)), known) => {
                if known.is_none() {
                    cache.set_commit(&repository.revision, &head.commit)?;
                }
                Ok(Snapshot { hub, repository, commit: head.commit, unreachable: None })
            }
            (Ok(None), _) => Err(http::absent(repository, &repository.revision, file)),
            (Err(Trouble::Unreachable(why)), Some(commit)) => Ok(Snapshot { hub, repository, commit, unreachable: Some(why) }),
            (Err(Trouble::Unreachable(why)), None) => {
                let reason = format!("is not in the cache {} and {why}: {HOW}", hub.cache.display());
                Err(Error::Hub { repository: repository.id.clone(), reason })
            }
            (Err(Trouble::Said(e)), _) => Err(e),
            (Err(Trouble::Absent | Trouble::Past), _) => Err(http::absent(repository, &repository.revision, file)),
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
        let lost = |why: &str| {
            let reason = format!("{file} is not in the cache {} and {why}: {HOW}", cache.path().display());
            Error::Hub { repository: self.repository.id.clone(), reason }
        };
        if let Some(why) = &self.unreachable {
            return Err(lost(why));
        }
        download::fetch(self.hub, self.repository, &self.commit, file, progress).map_err(|trouble| match trouble {
            Trouble::Unreachable(why) => lost(&why),
            Trouble::Said(e) => e,
            Trouble::Absent | Trouble::Past => http::absent(self.repository, &self.repository.revision, file),
        })
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
            if self.unreachable.is_none() {
                self.optional(file, progress)?;
            }
        }
        let cache = cache::Folder::new(self.hub, self.repository);
        let single = self.unreachable.is_some() && cache.file(&self.commit, SINGLE).is_some();
        let weights = match if single { None } else { self.optional(INDEX, progress)? } {
            Some(index) => shards(&index)?,
            None => vec![SINGLE.into()],
        };
        Ok((config.parent().unwrap_or(Path::new("")).into(), weights))
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
        if let Some(why) = &self.unreachable {
            let reason = format!("{file} is not in the cache {} and {why}: {HOW}", self.hub.cache.display());
            return Err(Error::Hub { repository: self.repository.id.clone(), reason });
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
        if self.unreachable.is_some() || cache.commit(&self.repository.revision).as_ref() == Some(&self.commit) {
            return Ok(());
        }
        cache.set_commit(&self.repository.revision, &self.commit)
    }
}

const HOW: &str = "run once without --offline and HF_HUB_OFFLINE, with a network, to fetch it";

fn offline() -> String {
    "--offline or HF_HUB_OFFLINE forbids to ask the hub".into()
}

/// The files that an index names; that each is a plain name is checked here, before one is fetched.
fn shards(index: &Path) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |reason: String| Error::File { path: index.into(), reason };
    let text = fs::read_to_string(index).map_err(|source| Error::Io { path: index.into(), source })?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| bad(format!("is no index of tensors ({e})")))?;
    let files: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match files.iter().find(|f| f.contains(['/', '\\', '?', '#', '%']) || f.starts_with('.')) {
        Some(file) => Err(bad(format!("names a file outside the folder ({file})"))),
        None => Ok(files.into_iter().collect()),
    }
}
