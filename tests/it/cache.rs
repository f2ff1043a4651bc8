//! Packed weights that are kept: right after a kill, damage, a full disk and a race.
use crate::cli::command;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

const ARGS: [&str; 11] = ["--weights", "6MB", "--cache", "always", "generate", "The town of", "--temp", "0", "--max-tokens", "12", "--no-survey"];

fn with(folder: &Path, args: &[&str]) -> Command {
    let mut command = command(args);
    command.env("RAM_RUN_CACHE", folder);
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    with(folder, args).output().expect("runs")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map_or(Vec::new(), |entries| entries.flatten().map(|e| e.path()).collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_survey_is_kept_and_damage_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = &ARGS[..10];
    let first = run(folder.path(), args);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let kept: Vec<PathBuf> = files(folder.path()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "survey")).collect();
    assert_eq!((kept.len(), files(folder.path()).len()), (1, 2));
    let listed = text(&run(folder.path(), &["cache", "ls"]).stdout);
    assert!(listed.contains("survey of ") && listed.contains("2 entries"), "{listed}");
    let again = run(folder.path(), args);
    assert!(again.stdout == first.stdout, "{}", text(&again.stderr));
    // A byte of the metadata, one of a scale, half a file: what cannot be read is looked at again.
    let whole = fs::read(&kept[0]).expect("a survey");
    for (at, cut) in [(20, whole.len()), (whole.len() - 1, whole.len()), (0, whole.len() / 2)] {
        let mut bytes = whole[..cut].to_vec();
        bytes[at] ^= 0xff * u8::from(cut == whole.len());
        fs::write(&kept[0], bytes).expect("written");
        assert_eq!(run(folder.path(), &["cache", "verify"]).status.code(), Some(1));
        let again = run(folder.path(), args);
        assert!(again.stdout == first.stdout, "{}", text(&again.stderr));
        assert_eq!(fs::read(&kept[0]).expect("a survey"), whole);
    }
    assert!(run(folder.path(), &["cache", "rm", "--all"]).status.success() && files(folder.path()).is_empty());
}

#[test]
fn a_second_start_reads_what_the_first_one_packed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut uncached = ARGS;
    uncached[3] = "off";
    let plain = run(folder.path(), &uncached);
    assert!(plain.status.success() && files(folder.path()).is_empty());
    let first = run(folder.path(), &ARGS);
    let kept = files(folder.path());
    assert_eq!((&first.stdout, kept.len()), (&plain.stdout, 1), "{}", text(&first.stderr));
    assert_eq!(run(folder.path(), &ARGS).stdout, plain.stdout);
    let listed = text(&run(folder.path(), &["cache", "ls"]).stdout);
    assert!(listed.contains("tiny-qwen3-moe") && listed.contains("1 entries"), "{listed}");
    // One byte in the weights, one in the header, and a file that ends early: each is found, said and made again.
    let whole = fs::read(&kept[0]).expect("an entry");
    for (at, cut) in [(whole.len() / 2, whole.len()), (5, whole.len()), (0, whole.len() / 2)] {
        let mut bytes = whole[..cut].to_vec();
        bytes[at] ^= u8::from(cut == whole.len());
        fs::write(&kept[0], bytes).expect("written");
        let verified = run(folder.path(), &["cache", "verify"]);
        assert!(verified.status.code() == Some(1) && text(&verified.stdout).contains("damaged"));
        let again = run(folder.path(), &ARGS);
        assert!(text(&again.stderr).contains("quantizing again"), "{}", text(&again.stderr));
        assert_eq!(again.stdout, plain.stdout);
        assert_eq!(run(folder.path(), &["cache", "verify"]).status.code(), Some(0));
    }
    // Weights of another effort are other weights.
    let fast = run(folder.path(), &[&["--effort", "fast"], &ARGS[..]].concat());
    assert!(fast.status.success() && files(folder.path()).len() == 2, "{}", text(&fast.stderr));
    assert!(run(folder.path(), &["cache", "rm", "nothing"]).status.code() == Some(2));
    assert!(run(folder.path(), &["cache", "rm", "--all"]).status.success() && files(folder.path()).is_empty());
}

#[test]
fn whatever_lies_there_is_said_and_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = [&["--model", "tests/fixtures/mixtral-tied-f16", "--weights", "200kB"], &ARGS[2..]].concat();
    let wanted = run(folder.path(), &args).stdout;
    let [path] = &files(folder.path())[..] else { panic!("one entry") };
    let whole = fs::read(path).expect("an entry");
    let end = whole.iter().position(|b| *b == b'\n').expect("a header");
    let header: serde_json::Value = serde_json::from_slice(&whole[..end]).expect("JSON");
    let with = |key: &str, value: serde_json::Value| {
        let mut header = header.clone();
        header[key] = value;
        [header.to_string().as_bytes(), b"\n", &whole[end + 1..]].concat()
    };
    let again = |what: &str| {
        let out = run(folder.path(), &args);
        assert!(text(&out.stderr).contains("quantizing again"), "{what}: {}", text(&out.stderr));
        assert_eq!(out.stdout, wanted, "{what}");
    };
    let damaged = [
        ("a huge arena", with("arena", u64::MAX.into())),
        ("an arena of another size", with("arena", (1u64 << 40).into())),
        ("lengths that wrap", with("vectors", serde_json::json!([u64::MAX, u64::MAX]))),
        ("a huge length", with("vectors", serde_json::json!([1u64 << 61, 4]))),
        ("no checksums", with("checksums", serde_json::json!([]))),
        ("numbers below zero", with("arena", (-1).into())),
        ("no bytes", Vec::new()),
        ("one byte", b"\n".to_vec()),
        ("no end", vec![b'['; 1 << 20]),
        ("bytes behind its end", [&whole[..], &[0]].concat()),
    ];
    for (what, bytes) in damaged {
        fs::write(path, bytes).expect("written");
        assert!(run(folder.path(), &["cache", "ls"]).status.success(), "{what}");
        assert_eq!(run(folder.path(), &["cache", "verify"]).status.code(), Some(1), "{what}");
        again(what);
    }
    fs::write(path, with("model", "a\u{1b}[2Jb".into())).expect("written");
    let listed = run(folder.path(), &["cache", "ls"]).stdout;
    assert!(!text(&listed).contains('\u{1b}') && text(&listed).contains("[2Jb"), "{}", text(&listed));
    // A pipe is not waited for.
    let cache = |args: &[&str]| assert!(run(folder.path(), &[&["cache"], args].concat()).status.success(), "{args:?}");
    for (what, command) in [("a folder", "mkdir"), ("a pipe", "mkfifo")] {
        for name in [path.clone(), folder.path().join("x.tmp")] {
            let _ = fs::remove_file(&name);
            assert!(Command::new(command).arg(&name).status().expect("runs").success());
        }
        for args in [&["ls"][..], &["verify"], &["gc"]] {
            cache(args);
        }
        again(what);
        let _ = fs::remove_dir(path);
        let _ = fs::remove_dir(folder.path().join("x.tmp"));
    }
    cache(&["verify"]);
}

#[test]
fn a_folder_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a file");
    fs::write(&file, "").expect("written");
    for args in [&["ls"][..], &["verify"], &["gc"], &["gc", "--keep", "1GB"], &["rm", "--all"], &["rm", "x"]] {
        let out = run(&file, &[&["cache"], args].concat());
        let said = text(&out.stderr);
        assert_eq!((out.status.code(), said.lines().count()), (Some(1), 1), "{args:?}: {said}");
        assert!(said.contains("a file"), "{said}");
    }
}

#[test]
fn a_checkpoint_that_changed_is_packed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    for file in files(&from) {
        fs::copy(&file, model.join(file.file_name().expect("a name"))).expect("a copy");
    }
    let cache = folder.path().join("cache");
    let args = [&["--model", model.to_str().expect("UTF-8")][..], &ARGS].concat();
    assert!(run(&cache, &args).status.success() && files(&cache).len() == 1);
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&weights, bytes).expect("written");
    assert!(run(&cache, &args).status.success());
    assert_eq!(files(&cache).len(), 2, "other weights, another entry");
}

#[test]
fn killed_at_any_moment_nothing_half_written_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut wanted = ARGS;
    wanted[3] = "off";
    let wanted = run(folder.path(), &wanted).stdout;
    for i in 0..12 {
        let mut child = with(folder.path(), &ARGS).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(25 * i));
        // KILL cannot be handled, TERM and HUP (a terminal that closes) are not: all of them end a run at once.
        let signal = ["-KILL", "-TERM", "-HUP"][i as usize % 3];
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        child.wait().expect("ends");
        assert_eq!(run(folder.path(), &["cache", "verify"]).status.code(), Some(0), "killed after {} ms", 25 * i);
        assert!(run(folder.path(), &["cache", "rm", "--all"]).status.success());
    }
    fs::write(folder.path().join("0123.4000000.tmp"), "left by a process that is gone").expect("written");
    assert!(run(folder.path(), &["cache", "gc"]).status.success());
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    // What is being written stays.
    let growing = File::create(folder.path().join("0123.tmp")).expect("created");
    growing.lock().expect("locked");
    assert!(run(folder.path(), &["cache", "gc"]).status.success());
    assert_eq!(files(folder.path()).len(), 1);
    drop(growing);
    assert!(run(folder.path(), &["cache", "gc"]).status.success());
    assert!(files(folder.path()).is_empty());
    assert_eq!(run(folder.path(), &ARGS).stdout, wanted);
}

#[test]
fn two_at_once_do_not_harm_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || with(folder.path(), &ARGS).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    let both = [start(), start()].map(|child| child.wait_with_output().expect("ends"));
    assert!(both.iter().all(|o| o.status.success() && o.stdout == both[0].stdout));
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(run(folder.path(), &["cache", "verify"]).status.code(), Some(0));
}

#[test]
fn without_room_or_rights_a_run_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocked = folder.path().join("a file");
    fs::write(&blocked, "").expect("written");
    let out = run(&blocked.join("cache"), &ARGS);
    assert!(out.status.success() && text(&out.stderr).contains("not kept"), "{}", text(&out.stderr));
    let small = folder.path().join("small");
    fs::create_dir(&small).expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&small).stderr(Stdio::null()).status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("skipped: a full disk needs the right to mount a small one");
        return;
    }
    let out = run(&small, &ARGS);
    let left = files(&small);
    let _ = Command::new("umount").arg(&small).status();
    assert!(out.status.success() && text(&out.stderr).contains("not kept"), "{}", text(&out.stderr));
    assert!(left.is_empty(), "{left:?}");
}
