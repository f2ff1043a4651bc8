//! The cache that the hub's tools share: `models--ORG--NAME/{refs,blobs,snapshots,.no_exist}`. Files appear in it whole.
use super::{Hub, Repository};
use crate::Error;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// One repository's folder in the cache.
pub struct Folder<'a> {
    repository: &'a Repository,
    path: PathBuf,
    locks: PathBuf,
}

impl<'a> Folder<'a> {
    /// The folder, which may not be there yet.
    pub fn new(hub: &Hub, repository: &'a Repository) -> Folder<'a> {
        let name = repository.folder_name();
        Folder { repository, path: hub.cache.join(&name), locks: hub.cache.join(".locks").join(name) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The commit that a revision was when it was last asked for.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if let Ok(text) = fs::read_to_string(self.path.join("refs").join(revision)) {
            return Some(text.trim().to_string()).filter(|c| is_commit(c));
        }
        (is_commit(revision) && self.path.join("snapshots").join(revision).is_dir()).then(|| revision.into())
    }

    /// Says what a revision is from now on.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<(), Error> {
        self.write(&self.path.join("refs").join(revision), commit.as_bytes())
    }

    /// A file of a commit, where it is there.
    pub fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.path.join("snapshots").join(commit).join(file);
        path.is_file().then_some(path)
    }

    /// Whether the hub once said that a commit has no such file.
    pub fn absent(&self, commit: &str, file: &str) -> bool {
        self.path.join(".no_exist").join(commit).join(file).is_file()
    }

    /// Notes that a commit has no such file.
    pub fn set_absent(&self, commit: &str, file: &str) -> Result<(), Error> {
        self.write(&self.path.join(".no_exist").join(commit).join(file), &[])
    }

    /// Where a content is or will be.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.path.join("blobs").join(etag)
    }

    /// Where a content grows.
    pub fn growing(&self, etag: &str) -> PathBuf {
        self.path.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Waits until no other process fetches this content, and keeps others waiting while the file is open.
    pub fn lock(&self, etag: &str) -> Result<File, Error> {
        let path = self.locks.join(format!("{etag}.lock"));
        let file = self.done(&path, self.parent(&path).and_then(|()| File::create(&path)))?;
        self.done(&path, file.lock())?;
        Ok(file)
    }

    /// Puts a content in its place under its name, and a link to it under a commit's file.
    pub fn publish(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf, Error> {
        let (growing, blob) = (self.growing(etag), self.blob(etag));
        if !blob.exists() {
            self.done(&blob, fs::rename(&growing, &blob))?;
        }
        let path = self.path.join("snapshots").join(commit).join(file);
        // One step up for the commit's folder, one for `snapshots`, and one for every folder in the name.
        let up = "../".repeat(2 + file.matches('/').count());
        let temporary = path.with_file_name(format!(".{etag}.{}", std::process::id()));
        let linked = self.parent(&path).and_then(|()| std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &temporary));
        self.done(&path, linked.and_then(|()| fs::rename(&temporary, &path)))?;
        Ok(path)
    }

    /// Writes a small file at once.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let written = self.parent(path).and_then(|()| fs::write(&temporary, bytes)).and_then(|()| fs::rename(&temporary, path));
        self.done(path, written)
    }

    /// The folder of a file.
    pub fn parent(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), fs::create_dir_all)
    }

    /// What the system said about the cache, as a sentence.
    pub fn done<T>(&self, path: &Path, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|e| {
            let reason = format!("{} in the cache cannot be written ({e}): set HF_HOME to a folder that can be, with enough room", path.display());
            Error::Hub { repository: self.repository.id.clone(), reason }
        })
    }
}

/// 40 hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
