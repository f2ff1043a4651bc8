//! Files that a command writes where a person said.
use crate::cli::Error;
use ram_run::files;
use std::{io::Write, path::Path};

/// Writes a text to a file, whole or not at all.
///
/// # Errors
/// Where it cannot be written; a folder that is not there is named.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    check(path)?;
    Ok(files::write_whole(path, |file| file.write_all(text.as_bytes()))?)
}

/// Whether the folder is there, for work that takes long to know before it begins.
///
/// # Errors
/// Names the folder.
pub fn check(path: &Path) -> Result<(), Error> {
    let folder = files::parent(path);
    if folder.is_dir() {
        return Ok(());
    }
    Err(Error::Failed(format!("{}: there is no folder {}: make it first", path.display(), folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, symlink},
    };

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
