//! The cache that the hub's tools share: `models--ORG--NAME/{refs,blobs,snapshots,.no_exist}`. Files appear in it whole.
use super::{Hub, Repository};
use crate::Error;
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// How the names of files begin that are not in their place yet.
const UNFINISHED: &str = ".ram-run-";

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
        let path = self.path.join("refs").join(revision);
        if path.is_file()
            && let Ok(text) = fs::read_to_string(path)
        {
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
        let file = self.done(&path, self.parent(&path).and_then(|_| File::create(&path)))?;
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
        let target = format!("{up}blobs/{etag}");
        let linked = self.parent(&path).and_then(|folder| {
            let link = tempfile::Builder::new().prefix(UNFINISHED).make_in(folder, |temporary| symlink(&target, temporary))?;
            Ok(link.into_temp_path().persist(&path)?)
        });
        self.done(&path, linked)?;
        Ok(path)
    }

    /// Writes a small file at once.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let written = self.parent(path).and_then(|folder| {
            // The cache is shared: others may read what the process' mask leaves them.
            let mode = Permissions::from_mode(0o666);
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).permissions(mode).tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        });
        self.done(path, written)
    }

    /// The folder of a file, made where it is not there.
    pub fn parent<'p>(&self, path: &'p Path) -> io::Result<&'p Path> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map(|()| folder)
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
