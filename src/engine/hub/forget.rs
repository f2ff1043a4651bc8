//! A fetched file that a run need not keep. The cache is shared: only a content that this run brought, and that nothing else
//! stands for, is deleted.
use super::{Hub, Repository, cache::Folder};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A file in the cache.
#[derive(Debug)]
pub struct Fetched {
    pub(super) path: PathBuf,
    brought: Option<Brought>,
}

/// What this run put into the cache.
#[derive(Debug)]
struct Brought {
    hub: Hub,
    repository: Repository,
    etag: String,
    /// The link's inode: whoever else fetches the file puts a link of their own there.
    link: u64,
}

impl Fetched {
    /// A file that was there.
    pub(super) fn here(path: PathBuf) -> Fetched {
        Fetched { path, brought: None }
    }

    /// A file whose content came just now.
    pub(super) fn brought(path: PathBuf, hub: &Hub, repository: &Repository, etag: &str) -> Fetched {
        let own = |about: fs::Metadata| Brought { hub: hub.clone(), repository: repository.clone(), etag: etag.into(), link: about.ino() };
        Fetched { brought: path.symlink_metadata().ok().map(own), path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes its name and its content where this run brought both and no other name stands for the content. What cannot be
    /// deleted stays.
    pub(crate) fn forget(self) {
        let Some(own) = self.brought else { return };
        let folder = Folder::new(&own.hub, &own.repository);
        // Nobody links to the content meanwhile.
        let Ok(_lock) = folder.lock(&own.etag) else { return };
        let blob = folder.blob(&own.etag);
        let still_own = self.path.symlink_metadata().is_ok_and(|about| about.ino() == own.link);
        if still_own && matches!(stands_for(&folder.path().join("snapshots"), &blob, &self.path), Ok(false)) {
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(&blob);
        }
    }
}

/// Whether anything below a folder but `own` is a link to a content.
fn stands_for(folder: &Path, blob: &Path, own: &Path) -> io::Result<bool> {
    let blob = blob.canonicalize()?;
    let mut rest = vec![folder.to_path_buf()];
    while let Some(folder) = rest.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                rest.push(path);
            } else if path != own && path.canonicalize().is_ok_and(|target| target == blob) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const ETAG: &str = "ab12";

    /// What is left of a fetched file and its content once it is forgotten, and another link to it where there is one.
    fn left(brought: bool, meanwhile: impl Fn(&Path, &Path)) -> (bool, bool) {
        let home = tempfile::tempdir().expect("a folder");
        let hub = Hub { cache: home.path().into(), ..Hub::from_env(true).expect("a hub") };
        let repository = Repository { id: "a/b".into(), revision: "main".into(), dataset: false };
        let folder = Folder::new(&hub, &repository);
        let growing = folder.growing(ETAG);
        folder.parent(&growing).expect("a folder");
        fs::write(growing, "content").expect("written");
        let path = folder.publish(ETAG, "0123", "weights/file").expect("published");
        let fetched = if brought { Fetched::brought(path.clone(), &hub, &repository, ETAG) } else { Fetched::here(path.clone()) };
        meanwhile(&path, &folder.path().join("snapshots/4567"));
        fetched.forget();
        (path.symlink_metadata().is_ok(), folder.blob(ETAG).exists())
    }

    #[test]
    fn only_what_this_run_brought_and_nothing_else_stands_for_goes() {
        let link = |to: &str, at: PathBuf| {
            fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
            symlink(to, at).expect("linked");
        };
        assert_eq!(left(true, |_, _| ()), (false, false));
        assert_eq!(left(false, |_, _| ()), (true, true));
        assert_eq!(left(true, |_, other| link("../../blobs/ab12", other.join("file"))), (true, true));
        assert_eq!(left(true, |_, other| link("../../../blobs/ab12", other.join("deep/er"))), (true, true));
        assert_eq!(left(true, |_, other| link("../../blobs/ab1", other.join("file"))), (false, false));
        // Another run that fetched the same file put its own link there.
        let replaced = left(true, |path, _| {
            let own = path.with_extension("own");
            symlink("../../../blobs/ab12", &own).expect("linked");
            fs::rename(own, path).expect("renamed");
        });
        assert_eq!(replaced, (true, true));
    }
}
