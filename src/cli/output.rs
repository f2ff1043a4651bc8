//! Files that a command writes where a person said.
use crate::cli::Error;
use std::{fs, io::Write, path::Path};

/// Writes a file whole or not at all: beside its place, then moved there. What is there and is no regular file (a device, a pipe, a
/// link to either, or to nothing yet) is written to and stays what it is.
///
/// # Errors
/// Where it cannot be written; a folder that is not there is named.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let real = path.canonicalize().unwrap_or_else(|_| path.into());
    if fs::symlink_metadata(&real).is_ok_and(|about| !about.is_file()) {
        return fs::write(&real, text).map_err(Error::io(path));
    }
    check(&real)?;
    let mut file =
        tempfile::Builder::new().prefix(".ram-run-").permissions(permissions(&real)).tempfile_in(folder(&real)).map_err(Error::io(path))?;
    file.write_all(text.as_bytes()).map_err(Error::io(path))?;
    file.persist(&real).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

/// Whether the folder is there, for work that takes long to know before it begins.
///
/// # Errors
/// Names the folder.
pub fn check(path: &Path) -> Result<(), Error> {
    let folder = folder(path);
    if folder.is_dir() {
        return Ok(());
    }
    Err(Error::Failed(format!("{}: there is no folder {}: make it first", path.display(), folder.display())))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Those of the file that is there; else what the process' mask leaves of a new file's.
fn permissions(path: &Path) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).map_or_else(|_| fs::Permissions::from_mode(0o666), |about| about.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};

    #[test]
    fn files_are_replaced_and_devices_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("a.html"), folder.path().join("b.html"));
        for text in ["one", "two"] {
            write(&file, text).expect("written");
            assert_eq!(fs::read_to_string(&file).expect("read"), text);
        }
        symlink(&file, &link).expect("linked");
        write(&link, "three").expect("written");
        assert_eq!(fs::read_to_string(&file).expect("read"), "three");
        assert!(link.is_symlink());
        let (new, dangling) = (folder.path().join("new.html"), folder.path().join("d.html"));
        symlink(&new, &dangling).expect("linked");
        write(&dangling, "four").expect("written");
        assert_eq!(fs::read_to_string(&new).expect("the target is made"), "four");
        assert!(dangling.is_symlink());
        write(Path::new("/dev/null"), "nothing").expect("written");
        assert!(write(Path::new("/dev/full"), "nothing").is_err());
        for device in ["/dev/null", "/dev/full"] {
            assert!(fs::metadata(device).expect("there").file_type().is_char_device(), "{device}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 4);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let e = write(&folder.path().join("none/a.html"), "x").expect_err("no folder");
        assert!(e.to_string().contains("there is no folder") && e.to_string().contains("/none"), "{e}");
        assert_eq!(e.exit_code(), 1);
        assert_eq!(write(folder.path(), "x").expect_err("a folder").exit_code(), 1);
    }
}
