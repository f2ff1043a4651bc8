//! What a run leaves out on this machine, and why: libtest keeps what a test prints to itself, so it is noted in a file, which
//! `tests/skipped.rs` prints when all is done.
use std::{fs, io::Write, path::Path, sync::OnceLock};

/// Notes that the test that calls this leaves something out.
pub fn skip(why: &str) {
    let path = begin();
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
    file.write_all(format!("{test}\t{why}\n").as_bytes()).expect("written");
}

/// The file, empty at the start of a run.
pub fn begin() -> &'static Path {
    static PATH: OnceLock<&Path> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/skipped"));
        fs::write(path, "").expect("written");
        path
    })
}

/// What other programs' clients `.ci/run` has installed, by the variable that says where.
pub fn installed(name: &str) -> Option<String> {
    let found = std::env::var(name).ok();
    if found.is_none() {
        skip(&format!("{name} names no clients (.ci/run installs them)"));
    }
    found
}
