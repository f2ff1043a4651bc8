//! The model that runs where none is named: it is in the program, so that a program that was copied alone has it too.
use crate::cli::Error;
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// A file, and what it holds.
type Part = (&'static str, &'static [u8]);

macro_rules! part {
    ($name:literal) => {
        ($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe/", $name)))
    };
}

const NAME: &str = "tiny-qwen3-moe";
static PARTS: [Part; 6] = [
    part!("LICENSE.md"),
    part!("config.json"),
    part!("generation_config.json"),
    part!("model.safetensors"),
    part!("tokenizer.json"),
    part!("tokenizer_config.json"),
];

/// The folder of the bundled model: beside the sources, where they still are; else one that it is unpacked into, once, in the cache or
/// where that cannot be written in the folder for temporary files.
///
/// # Errors
/// Where it cannot be unpacked anywhere.
pub fn folder() -> Result<PathBuf, Error> {
    let sources = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models")).join(NAME);
    let temporary = std::env::temp_dir().join("ram-run");
    find(sources, ram_run::packed::folder().as_deref().unwrap_or(&temporary), &temporary)
}

fn find(sources: PathBuf, cache: &Path, temporary: &Path) -> Result<PathBuf, Error> {
    if is_whole(&sources) {
        return Ok(sources);
    }
    // Another version of the model has another name.
    let bytes: usize = PARTS.iter().map(|(_, bytes)| bytes.len()).sum();
    let at = |place: &Path| {
        let folder = place.join(format!("{NAME}-{bytes}"));
        if is_whole(&folder) { Ok(folder) } else { unpack(place, &folder).map(|()| folder) }
    };
    at(cache).or_else(|_| at(temporary)).map_err(|e| {
        let [cache, temporary] = [cache, temporary].map(Path::display);
        Error::Failed(format!("the bundled model cannot be unpacked into {cache} or {temporary} ({e}): name a model with --model"))
    })
}

/// Whether every file is there with its size.
fn is_whole(folder: &Path) -> bool {
    PARTS.iter().all(|(name, bytes)| folder.join(name).metadata().is_ok_and(|about| about.len() == bytes.len() as u64))
}

/// Writes all files beside their place and moves them there together.
fn unpack(place: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let whole = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(place)?;
    for (name, bytes) in PARTS {
        let mut file = File::create(whole.path().join(name))?;
        copy(bytes, &mut file)?;
        file.sync_all()?;
    }
    // Not whole, or another process was faster.
    if folder.exists() && !is_whole(folder) {
        fs::remove_dir_all(folder)?;
    }
    match fs::rename(whole.path(), folder) {
        Err(e) if !is_whole(folder) => Err(e),
        _ => Ok(()),
    }
}

/// Copies what is in this program from the program's file: reading it in place would make 25 MB of it resident, which no budget counts.
fn copy(bytes: &[u8], to: &mut File) -> io::Result<()> {
    let Some(program) = place_in_program(bytes.as_ptr() as u64) else { return to.write_all(bytes) };
    let len = bytes.len() as u64;
    let copied = io::copy(&mut program.take(len), to)?;
    if copied == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// This program's file, at what lies at an address of its memory.
fn place_in_program(address: u64) -> Option<File> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let at = maps.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let offset = number(words.nth(1)?)?;
        let (from, to) = (number(from)?, number(to)?);
        (from..to).contains(&address).then(|| address - from + offset)
    })?;
    let mut file = File::open("/proc/self/exe").ok()?;
    file.seek(SeekFrom::Start(at)).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_unpacks_whole_and_over_what_is_half() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("model");
        unpack(place.path(), &folder).expect("unpacked");
        assert!(is_whole(&folder));
        for (name, bytes) in PARTS {
            assert!(fs::read(folder.join(name)).expect("read") == bytes, "{name}");
        }
        fs::write(folder.join("config.json"), "{").expect("written");
        assert!(!is_whole(&folder));
        for _ in 0..2 {
            unpack(place.path(), &folder).expect("unpacked");
            assert!(is_whole(&folder));
            assert_eq!(fs::read_dir(place.path()).expect("read").count(), 1, "nothing half-written stays");
        }
    }

    #[test]
    fn it_is_found_where_the_sources_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let [gone, file, other] = ["gone", "file", "other"].map(|name| folder.path().join(name));
        fs::write(&file, "no folder").expect("written");
        let found = find(gone.clone(), &file, &other).expect("found");
        assert!(found.starts_with(&other) && is_whole(&found));
        assert_eq!(find(found.clone(), &gone, &gone).expect("found"), found);
        let e = find(gone, &file, &file).expect_err("no place");
        assert!(e.to_string().contains("--model") && e.exit_code() == 1, "{e}");
    }
}
