//! Files that must be files: what a path leads to is looked at before it is opened, since opening a FIFO waits for ever.
use crate::Error;
use std::{
    fs::{self, File, FileType, Permissions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

/// Bytes of a JSON or template file at most: the largest tokenizer.json known has 35 MB.
pub const LONGEST: u64 = 64 << 20;

/// Opens a regular file.
///
/// # Errors
/// [`Error::File`] for a directory, a FIFO, a device or a socket, [`Error::Io`] where the system refuses.
pub fn open(path: &Path) -> Result<File, Error> {
    let io = |source| Error::Io { path: path.into(), source };
    match not_a_file(fs::metadata(path).map_err(io)?.file_type()) {
        Some(what) => Err(Error::File { path: path.into(), reason: format!("is {what}, where a file is needed") }),
        None => File::open(path).map_err(io),
    }
}

fn not_a_file(kind: FileType) -> Option<&'static str> {
    match kind {
        k if k.is_file() => None,
        k if k.is_dir() => Some("a directory"),
        k if k.is_fifo() => Some("a FIFO"),
        k if k.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

/// The folder that a path lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The text of a file of at most `most` bytes.
///
/// # Errors
/// As [`open`], and [`Error::File`] for a file that is not there, that is larger or that is not UTF-8.
pub fn text(path: &Path, most: u64) -> Result<String, Error> {
    text_if_there(path, most)?.ok_or_else(|| Error::File { path: path.into(), reason: "is not there".into() })
}

/// The same; none where there is no such file.
pub(crate) fn text_if_there(path: &Path, most: u64) -> Result<Option<String>, Error> {
    let file = match open(path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let bad = |reason: String| Error::File { path: path.into(), reason };
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|source| Error::Io { path: path.into(), source })?;
    if bytes.len() as u64 > most {
        return Err(bad(format!("has more than {most} bytes, too many for what it should be")));
    }
    String::from_utf8(bytes).map(Some).map_err(|e| bad(format!("is no UTF-8 text (byte {})", e.utf8_error().valid_up_to())))
}

/// Writes a file whole or not at all: beside its place, then moved there. What is there and is no regular file (a device, a pipe, a
/// link to either, or to nothing yet) is written to and stays what it is.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let real = path.canonicalize().unwrap_or_else(|_| path.into());
    let written = || {
        if fs::symlink_metadata(&real).is_ok_and(|about| !about.is_file()) {
            return write(&mut File::create(&real)?);
        }
        // Those of the file that is there; else what the process' mask leaves of a new file's.
        let permissions = fs::metadata(&real).map_or_else(|_| Permissions::from_mode(0o666), |about| about.permissions());
        let mut file = tempfile::Builder::new().prefix(".ram-run-").permissions(permissions).tempfile_in(parent(&real))?;
        write(file.as_file_mut())?;
        file.persist(&real)?;
        Ok(())
    };
    written().map_err(|source| Error::Io { path: path.into(), source })
}

/// How files end that are being written into the cache, or were left by a process that is gone.
pub(crate) const UNFINISHED: &str = ".tmp";

/// Writes a file of the cache under another name, locked, and renames it once it is whole and on disk: a reader sees all of it or none.
pub(crate) fn keep(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        |source| Error::Io { path, source }
    };
    fs::create_dir_all(folder).map_err(io(folder))?;
    let written = || {
        let (name, mode) = (path.file_stem().unwrap_or_default(), Permissions::from_mode(0o666));
        let mut temporary = tempfile::Builder::new().prefix(name).suffix(UNFINISHED).permissions(mode).tempfile_in(folder)?;
        // Where a file system has no locks, `gc` finds none and removes nothing.
        let _ = temporary.as_file().lock();
        write(temporary.as_file_mut())?;
        // A rename must not come before the data: a machine that loses power would have a whole name on half a file.
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        Ok(())
    };
    written().map_err(io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_files_are_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        let said = |path: &Path| match open(path) {
            Err(Error::File { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(said(folder.path()).contains("directory"));
        assert!(said(Path::new("/dev/zero")).contains("device"));
        let _socket = UnixListener::bind(&path).expect("a socket");
        assert!(said(&path).contains("socket"));
        assert!(matches!(open(&folder.path().join("none")), Err(Error::Io { .. })));
        assert!(text_if_there(&folder.path().join("none"), 9).expect("none").is_none());
    }

    #[test]
    fn texts_are_utf8_and_not_too_long() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "häßlich").expect("written");
        assert_eq!(text(file.path(), 9).expect("read"), "häßlich");
        assert!(text(file.path(), 8).expect_err("long").to_string().contains("more than 8 bytes"));
        fs::write(file.path(), b"ab\xff").expect("written");
        assert!(text(file.path(), 8).expect_err("bytes").to_string().contains("no UTF-8 text (byte 2)"));
    }
}
