//! A folder that is there once it is whole: until then it lies beside its place, where a process that comes after one that was stopped goes on.
use crate::{Error, files};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Tells which export an unfinished folder is of.
const MARK: &str = "export-of";

/// Files beside the weights that are copied: tokenizer, templates, settings, licences.
const COPIED: [&str; 6] = ["json", "jinja", "model", "txt", "tiktoken", "md"];
/// Of these not what is written anew, or says how weights that are not there were coded.
const OWN: [&str; 6] =
    ["config.json", "model.safetensors.index.json", "quantize_config.json", "quant_config.json", "ram-run-export.json", "README.md"];

/// Whether a folder can be made.
///
/// # Errors
/// [`Error::File`] where there is something at its place, or nothing that it could be in.
pub fn check(out: &Path) -> Result<(), Error> {
    let bad = |reason: &str| Err(Error::File { path: out.into(), reason: reason.into() });
    if out.file_name().is_none() {
        return bad("is no name for a new folder");
    }
    if fs::symlink_metadata(out).is_ok() {
        return bad("is there already: give a folder that is not, or remove it");
    }
    if !files::parent(out).is_dir() {
        return bad("would be in a folder that is not there: make that first");
    }
    Ok(())
}

/// A folder on its way.
pub struct Unfinished {
    path: PathBuf,
    out: PathBuf,
    /// Locked while a process writes.
    mark: File,
}

impl Unfinished {
    /// Begins one, or goes on with one of the same `what`.
    ///
    /// # Errors
    /// Where it cannot be made, another process is at it, or one of something else was begun.
    pub fn open(out: &Path, what: &str) -> Result<Unfinished, Error> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let path = files::parent(out).join(format!(".{name}.unfinished"));
        let io = |source| Error::Io { path: path.clone(), source };
        let bad = |reason: String| Error::File { path: path.clone(), reason };
        let mark = path.join(MARK);
        fs::create_dir_all(&path).map_err(io)?;
        let mut file = File::options().read(true).append(true).create(true).open(&mark).map_err(io)?;
        if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            return Err(bad("is being written by another process: wait for it, or give another place".into()));
        }
        let found = fs::read_to_string(&mark).map_err(io)?;
        if found.is_empty() {
            file.write_all(what.as_bytes()).map_err(io)?;
        } else if found != what {
            return Err(bad("was begun for another plan and not finished: remove it, or give another place".into()));
        }
        Ok(Unfinished { path, out: out.into(), mark: file })
    }

    /// Writes a file, if it is not there.
    pub fn file(&self, name: &str, write: impl FnOnce(&Begun) -> Result<(), Error>) -> Result<(), Error> {
        let path = self.path.join(name);
        if path.is_file() {
            return Ok(());
        }
        let io = |source| Error::Io { path: self.out.join(name), source };
        let part = self.path.join(format!("{name}.part"));
        let begun = Begun { file: File::create(&part).map_err(io)?, place: self.out.join(name) };
        write(&begun)?;
        // A name must not come before the data.
        begun.file.sync_all().map_err(io)?;
        fs::rename(&part, &path).map_err(io)
    }

    /// Writes a small file, anew.
    pub fn text(&self, name: &str, text: &str) -> Result<(), Error> {
        fs::write(self.path.join(name), text).map_err(|source| Error::Io { path: self.out.join(name), source })
    }

    /// Gives the folder its name.
    pub fn finish(self) -> Result<(), Error> {
        let io = |source| Error::Io { path: self.out.clone(), source };
        check(&self.out)?;
        fs::remove_file(self.path.join(MARK)).map_err(io)?;
        fs::rename(&self.path, &self.out).map_err(io)?;
        drop(self.mark);
        Ok(())
    }

    /// Removes what was written.
    pub fn abandon(self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A file on its way.
pub struct Begun {
    file: File,
    /// What it is for, and what errors name.
    place: PathBuf,
}

impl Begun {
    /// Makes it as long as it will be.
    pub fn set_len(&self, bytes: u64) -> Result<(), Error> {
        self.file.set_len(bytes).map_err(|source| self.failed(source))
    }

    /// Writes where they belong.
    pub fn put(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, at).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { path: self.place.clone(), source }
    }
}

/// Copies what a checkpoint has beside its weights.
pub fn copy_others(from: &Path, to: &Unfinished) -> Result<(), Error> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        |source: io::Error| Error::Io { path, source }
    };
    let mut paths = fs::read_dir(from).map_err(io(from))?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(io(from))?;
    paths.sort();
    for path in paths {
        let (Some(name), ending) = (path.file_name().map(|n| n.to_string_lossy().into_owned()), path.extension().unwrap_or_default()) else {
            continue;
        };
        let wanted = COPIED.iter().any(|e| ending == *e) && !OWN.contains(&name.as_str()) || name.starts_with("LICENSE");
        let Ok(about) = fs::metadata(&path) else { continue };
        if wanted && about.is_file() && about.len() <= files::LONGEST {
            let bytes = fs::read(&path).map_err(io(&path))?;
            fs::write(to.path.join(&name), bytes).map_err(io(&to.out.join(&name)))?;
        }
    }
    Ok(())
}
