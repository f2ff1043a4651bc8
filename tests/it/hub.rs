//! Models from a hub: fetched whole or in parts, gone on with, refused, and found in the cache.
use crate::{
    cli::command,
    hub_server::{Ask, COMMIT, Fault, Server, sha256},
};
use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};
use ram_run::wikitext::{self, Joined};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

const ID: &str = "some-org/small-moe";
const SINGLE: &str = "tests/fixtures/qwen2-shared-bf16";
const SHARDED: &str = "tests/fixtures/mixtral-tied-f16";
const BUNDLED: &str = "models/tiny-qwen3-moe";
const WEIGHTS: &str = "model.safetensors";
const RUN: [&str; 6] = ["--dense", "generate", "a", "--max-tokens", "4", "--temp=0"];

/// A hub with one repository, and an empty cache.
struct World {
    server: Server,
    home: tempfile::TempDir,
}

fn files(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry"));
    entries.map(|e| (e.file_name().into_string().expect("UTF-8"), fs::read(e.path()).expect("a file"))).collect()
}

fn world(folder: &str) -> World {
    World { server: Server::start(ID, files(folder)), home: tempfile::tempdir().expect("a folder") }
}

impl World {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", format!("http://127.0.0.1:{}", self.server.port)).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// Runs the repository's model; what it says on stdout and stderr.
    fn runs(&self, args: &[&str]) -> (String, String) {
        let out = self.run(&[&["--model", ID], args].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        (text(&out.stdout), text(&out.stderr))
    }

    fn refused(&self, words: &[&str]) {
        refused(self.command(&[&["--model", ID][..], &RUN].concat()), words);
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub/models--some-org--small-moe")
    }

    fn snapshot(&self, file: &str) -> PathBuf {
        self.cache().join("snapshots").join(COMMIT).join(file)
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache().join("blobs")) else { return Vec::new() };
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
    }

    fn asked(&self) -> Vec<Ask> {
        self.server.state().asked.clone()
    }
}

/// Checks for exit code 5 and one line with every word; who did not forbid to ask the hub is not told to allow it.
fn refused(command: Command, words: &[&str]) {
    refused_with(command, 5, words);
}

fn refused_with(mut command: Command, code: i32, words: &[&str]) {
    let asks = command.get_args().all(|a| a != "--offline");
    let out = command.output().expect("the program starts");
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.trim_end().contains(char::is_control), "{text:?}");
    assert!(!asks || !text.contains("--offline"), "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not said: {text}");
    }
}

fn local(folder: &str, args: &[&str]) -> String {
    crate::cli::stdout(&[&["--model", folder], args].concat())
}

#[test]
fn fetched_once_and_run_from_the_cache() {
    let w = world(SHARDED);
    let (text, _) = w.runs(&RUN);
    assert_eq!(text, local(SHARDED, &RUN));
    assert_eq!(fs::read_to_string(w.cache().join("refs/main")).expect("a ref"), COMMIT);
    let shard = "model-00002-of-00003.safetensors";
    let link = fs::read_link(w.snapshot(shard)).expect("a link");
    assert_eq!(link, Path::new("../../blobs").join(sha256(&files(SHARDED)[shard])));
    assert!(!w.blobs().iter().any(|b| b.ends_with(".incomplete")), "{:?}", w.blobs());
    assert!(!w.asked().iter().any(|a| a.path.contains("reference")), "only what a run needs");
    w.server.faults(|_| None);
    assert_eq!(w.runs(&RUN).0, text);
    assert_eq!(w.asked().len(), 1, "one question, whether main has moved: {:?}", w.asked());
    w.server.faults(|_| None);
    let out = w.command(&[&["--model", ID][..], &RUN].concat()).env("HF_HUB_OFFLINE", "1").output().expect("the program starts");
    assert_eq!(String::from_utf8_lossy(&out.stdout), text);
    w.runs(&[&["--offline"], &RUN[..]].concat());
    w.runs(&[&["--revision", COMMIT], &RUN[..]].concat());
    assert!(w.asked().is_empty(), "{:?}", w.asked());
    // Without a hub the cache does.
    let mut command = w.command(&[&["--model", ID][..], &RUN].concat());
    assert!(command.env("HF_ENDPOINT", "http://127.0.0.1:1").output().expect("the program starts").status.success());
}

#[test]
fn tokens_go_to_the_hub_alone() {
    let w = world(SINGLE);
    fs::write(w.home.path().join("token"), "hf_file\n").expect("written");
    w.runs(&RUN);
    let (contents, hub): (Vec<Ask>, Vec<Ask>) = w.asked().into_iter().partition(|a| a.path.starts_with("/cdn/"));
    assert!(!contents.is_empty() && contents.iter().all(|a| a.token.is_none()), "{contents:?}");
    assert!(hub.iter().all(|a| a.token.as_deref() == Some("Bearer hf_file")), "{hub:?}");
    w.server.faults(|_| Some(Fault::Status(429, ("Retry-After", "7"))));
    let mut command = w.command(&[&["--model", ID][..], &RUN].concat());
    command.env("HF_TOKEN", "hf_own").env("HF_HUB_CACHE", w.home.path().join("other"));
    refused(command, &["429", "HF_TOKEN found", "token found"]);
    assert_eq!(w.asked()[0].token.as_deref(), Some("Bearer hf_own"));
}

#[test]
fn short_names() {
    let w = world(SINGLE);
    for (name, command, means) in [
        ("mistralai/Mixtral-8x7B", "chat", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ("mistralai/Mixtral-8x7B", "plan", "mistralai/Mixtral-8x7B-v0.1"),
        ("Qwen/Qwen2-57B-A14B", "chat", "Qwen/Qwen2-57B-A14B-Instruct"),
        ("Qwen/Qwen1.5-MoE-A2.7B", "chat", "Qwen/Qwen1.5-MoE-A2.7B-Chat"),
        ("Qwen/Qwen3-30B-A3B", "chat", "Qwen/Qwen3-30B-A3B"),
    ] {
        w.server.faults(|_| None);
        let out = w.run(&["--model", name, command]);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(5), "{text}");
        assert_eq!(text.contains(&format!("{name} is {means} here")), name != means, "{text}");
        assert!(text.contains("no such repository"), "{text}");
        assert_eq!(w.asked()[0].path, format!("/{means}/resolve/main/config.json"));
    }
}

#[test]
fn cut_connections_are_gone_on_with() {
    let w = world(SINGLE);
    w.server.faults(|a| (a.is_get(WEIGHTS) && a.range == Some((0, None))).then_some(Fault::Cut(1000)));
    let (text, _) = w.runs(&RUN);
    assert_eq!(text, local(SINGLE, &RUN));
    assert!(w.asked().iter().any(|a| a.range == Some((1000, None))));
    // Every try ends at once: said, and the next run goes on.
    let w = world(SINGLE);
    w.server.faults(|a| a.is_get(WEIGHTS).then(|| Fault::Cut(if a.range == Some((0, None)) { 1000 } else { 0 })));
    w.refused(&[ID, WEIGHTS, "broke off after 1000 of", "run again"]);
    assert!(!w.snapshot(WEIGHTS).exists() && w.blobs().iter().any(|b| b.ends_with(".incomplete")));
    w.server.faults(|_| None);
    assert_eq!(w.runs(&RUN).0, text);
    let ranges: Vec<_> = w.asked().into_iter().filter(|a| a.is_get(WEIGHTS)).map(|a| a.range).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|r| *r == Some((1000, None))), "{ranges:?}");
}

#[test]
fn refusals_are_said() {
    let w = world(SINGLE);
    let page = format!("https://huggingface.co/{ID}");
    let says = |status: u16, header: (&'static str, &'static str), words: &[&str]| {
        w.server.faults(move |_| Some(Fault::Status(status, header)));
        w.refused(&[&[ID], words].concat());
    };
    let token = w.home.path().join("token");
    let looked = format!("{} not found", token.display());
    for status in [401, 403] {
        says(status, ("X-Error-Code", "GatedRepo"), &[&status.to_string(), &page, "HF_TOKEN not found", &looked, "accept"]);
    }
    says(401, ("X-Error-Code", "RepoNotFound"), &["401", "no such public repository", &page, &looked]);
    says(404, ("X-Error-Code", "RepoNotFound"), &["404", "no such repository"]);
    says(404, ("X-Error-Code", "RevisionNotFound"), &["404", "no revision main", "spelling"]);
    says(404, ("X-Error-Code", "EntryNotFound"), &["404", "no config.json"]);
    says(404, ("X-Nothing", ""), &["404", "no config.json"]);
    says(429, ("Retry-After", "120"), &["429", "120 seconds"]);
    assert_eq!(w.asked().len(), 1);
    says(503, ("X-Nothing", ""), &["503", "4 tries", "later"]);
    assert_eq!(w.asked().len(), 4);
    says(200, ("X-Nothing", ""), &["no etag", "proxy"]);
    assert!(w.blobs().is_empty());
    w.server.faults(|_| None);
    refused(w.command(&["--model", ID, "--revision", "v9", "plan"]), &["no revision v9"]);
    let out = w.run(&["--model", ID, "--revision", "../x", "plan"]);
    assert_eq!(out.status.code(), Some(2));
    refused(
        {
            let mut c = w.command(&["--model", ID, "plan"]);
            c.env("HF_ENDPOINT", "http://127.0.0.1:1");
            c
        },
        &["revision main is not in the cache", "127.0.0.1:1", "check the network and run again"],
    );
}

#[test]
fn a_failing_hub_is_asked_again() {
    let w = world(SINGLE);
    let failed = AtomicUsize::new(0);
    w.server.faults(move |_| (failed.fetch_add(1, SeqCst).is_multiple_of(3)).then_some(Fault::Status(500, ("X-Nothing", ""))));
    w.runs(&RUN);
}

#[test]
fn other_bytes_than_promised_are_not_kept() {
    let bytes = files(SINGLE)[WEIGHTS].clone();
    let mut other = bytes.clone();
    other[bytes.len() / 2] ^= 1;
    let size = bytes.len().to_string();
    for (sent, words) in [
        (bytes[..bytes.len() - 1].to_vec(), vec![size.as_str(), "bytes that were promised", "not kept"]),
        ([&bytes[..], &[0]].concat(), vec!["more than the", size.as_str(), "not kept"]),
        (other, vec!["sha256", "not kept"]),
    ] {
        let w = world(SINGLE);
        w.server.faults(move |a| a.is_get(WEIGHTS).then(|| Fault::Bytes(sent.clone())));
        w.refused(&[&[ID, WEIGHTS], &words[..]].concat());
        assert!(!w.snapshot(WEIGHTS).exists() && !w.blobs().iter().any(|b| b.len() >= 64), "{:?}", w.blobs());
        w.server.faults(|_| None);
        w.runs(&RUN);
    }
}

#[test]
fn a_half_filled_cache_without_a_network() {
    let w = world(SHARDED);
    w.runs(&RUN);
    let shard = "model-00003-of-00003.safetensors";
    for file in [shard, "tokenizer.json"] {
        fs::remove_file(w.snapshot(file)).expect("removed");
        refused(w.command(&[&["--offline", "--model", ID][..], &RUN].concat()), &[ID, file, "--offline", "run once"]);
        let mut command = w.command(&[&["--model", ID][..], &RUN].concat());
        command.env("HF_ENDPOINT", "http://127.0.0.1:1");
        refused(command, &[ID, file, "127.0.0.1:1", "check the network"]);
    }
    refused(w.command(&["--offline", "--model", "some-org/other", "plan"]), &["some-org/other", "not in the cache", "--offline"]);
    // What is there is not fetched again.
    w.server.faults(|_| None);
    w.runs(&RUN);
    assert!(w.asked().iter().all(|a| a.head), "the contents are in the cache: {:?}", w.asked());
}

#[test]
fn a_cache_that_cannot_be_written() {
    let w = world(SINGLE);
    let file = w.home.path().join("file");
    fs::write(&file, "no folder").expect("written");
    let mut command = w.command(&[&["--model", ID][..], &RUN].concat());
    command.env("HF_HUB_CACHE", file.join("hub"));
    refused(command, &[ID, "cache", "cannot be written", "HF_HOME"]);
}

#[test]
fn files_are_quantized_as_they_come_and_need_not_be_kept() {
    let args = ["--weights", "200kB", "--cache", "always", "generate", "a", "--max-tokens", "4", "--temp=0", "--no-survey"];
    let packed = tempfile::tempdir().expect("a folder");
    let w = world(SHARDED);
    let run = |args: &[&str]| {
        let out = w.command(&[&["--model", ID], args].concat()).env("RAM_RUN_CACHE", packed.path()).output().expect("runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let local = || {
        let out = command(&[&["--model", SHARDED], &args[..]].concat()).env("RAM_RUN_CACHE", packed.path().join("local")).output().expect("runs");
        out.stdout
    };
    let asked = || w.asked().iter().filter(|a| a.path.starts_with("/cdn/") && a.range.is_some_and(|(_, to)| to.is_none())).count();
    let left = || fs::read_dir(w.cache().join("blobs")).expect("a folder").flatten().filter(|e| e.file_name().len() == 64).count();
    let first = run(&[&["--no-keep"], &args[..]].concat());
    assert_eq!((first.clone(), asked(), left()), (local(), 3, 0), "three files came and went");
    // Packed weights know a checkpoint by its contents' names: nothing comes again.
    w.server.faults(|_| None);
    assert_eq!((run(&[&["--no-keep"], &args[..]].concat()), asked(), left()), (first.clone(), 0, 0));
    // Kept files are found again, and packed weights made without them are good with them too.
    let mut uncached = args;
    uncached[3] = "off";
    assert_eq!((run(&uncached), left()), (first.clone(), 3));
    w.server.faults(|_| None);
    assert_eq!(
        (run(&args), asked(), fs::read_dir(packed.path()).expect("a folder").flatten().filter(|e| e.path().is_file()).count()),
        (first.clone(), 0, 1)
    );
    // What was there before is not deleted.
    assert_eq!((run(&[&["--no-keep"], &uncached[..]].concat()), left()), (first, 3));
}

#[test]
fn contents_that_another_commit_stands_for_are_not_deleted() {
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";
    let w = world(SHARDED);
    let (text, _) = w.runs(&RUN);
    // The cache as it is once main has moved on to the same weights.
    let snapshots = w.cache().join("snapshots");
    let main_moved = || {
        fs::rename(snapshots.join(COMMIT), snapshots.join(OTHER)).expect("renamed");
        fs::write(w.cache().join("refs/main"), OTHER).expect("written");
        w.server.faults(|_| None);
    };
    main_moved();
    let no_keep = [&["--no-keep"], &RUN[..]].concat();
    let other = [&["--offline", "--revision", OTHER], &RUN[..]].concat();
    let fetched = || w.asked().iter().filter(|a| a.path.starts_with("/cdn/") && a.range.is_some_and(|(_, to)| to.is_none())).count();
    assert_eq!((w.runs(&no_keep).0, fetched()), (text.clone(), 0), "the weights are there under another commit");
    assert_eq!(w.runs(&other).0, text);
    // A content that comes now, while the name of the other commit waits for it.
    fs::remove_dir_all(snapshots.join(COMMIT)).expect("removed");
    let shard = "model-00002-of-00003.safetensors";
    fs::remove_file(w.cache().join("blobs").join(sha256(&files(SHARDED)[shard]))).expect("removed");
    w.server.faults(|_| None);
    assert_eq!((w.runs(&no_keep).0, fetched()), (text.clone(), 1));
    assert_eq!(w.runs(&other).0, text);
}

#[test]
fn addresses_work_like_names_and_paths_are_not_asked_for() {
    let w = world(SINGLE);
    let (text, _) = w.runs(&RUN);
    let own = format!("127.0.0.1:{}", w.server.port);
    for name in [
        format!("https://huggingface.co/{ID}"),
        format!("http://huggingface.co/{ID}/tree/main/"),
        format!("hf.co/{ID}/"),
        format!("http://{own}/{ID}"),
        format!("{own}/{ID}/tree/{COMMIT}"),
    ] {
        let out = w.run(&[&["--model", &name], &RUN[..]].concat());
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && !said.contains(ID) && out.stdout == text.as_bytes(), "{name}: {said}");
    }
    refused(w.command(&["--model", &format!("hf.co/{ID}/tree/v9"), "plan"]), &[ID, "no revision v9"]);
    refused(w.command(&["--model", "hf.co/models/qwen", "plan"]), &["models/qwen", "no such repository"]);
    w.server.faults(|_| None);
    for name in ["models/qwen", "tests/none", "checkpoints/qwen"] {
        refused_with(w.command(&["--model", name, "plan"]), 4, &[name, "no such folder", &format!("hf.co/{name}")]);
    }
    for name in ["https://example.com/a/b", "hf.co/a/b/blob/main/config.json", "hf.co/datasets/a/b"] {
        refused_with(w.command(&["--model", name, "plan"]), 4, &[name, "ORG/NAME"]);
    }
    let out = w.run(&["--model", &format!("hf.co/{ID}/tree/v1"), "--revision", "v2", "plan"]);
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(w.asked().is_empty(), "{:?}", w.asked());
    for endpoint in ["no address", "localhost:1", "ftp://a/b"] {
        let mut command = w.command(&["--model", ID, "plan"]);
        command.env("HF_ENDPOINT", endpoint);
        refused_with(command, 2, &["HF_ENDPOINT", endpoint]);
    }
}

#[test]
fn a_hostile_hub_is_not_believed() {
    let w = world(SHARDED);
    let config = |fault: fn() -> Fault, words: &[&str]| {
        w.server.faults(move |a| a.path.ends_with("/config.json").then(fault));
        w.refused(&[&[ID, "config.json"], words].concat());
        assert!(w.asked().len() <= 9 && w.blobs().is_empty(), "{:?} {:?}", w.asked(), w.blobs());
    };
    config(|| Fault::Status(302, ("Location", "config.json")), &["one address to the next"]);
    config(|| Fault::Status(302, ("Location", "/a/config.json")), &["one address to the next"]);
    config(|| Fault::Status(302, ("Location", "file:///etc/config.json")), &["no address"]);
    config(|| Fault::Status(302, ("Location", "http://")), &["no address"]);
    config(|| Fault::Says("ETag", "\"../../x\"".into()), &["no etag"]);
    config(|| Fault::Says("ETag", "a/b".into()), &["no etag"]);
    config(|| Fault::Says("ETag", "..".into()), &["no etag"]);
    config(|| Fault::Says("ETag", "a".repeat(300)), &["no etag"]);
    config(|| Fault::Says("ETag", String::new()), &["no etag"]);
    config(|| Fault::Says("X-Repo-Commit", "main".into()), &["no commit"]);
    config(|| Fault::Says("X-Repo-Commit", "../../../../../../../../../../../tmp/xxxx".into()), &["no commit"]);
    config(|| Fault::Says("X-Linked-Size", "-1".into()), &["no size"]);
    config(|| Fault::Says("X-Linked-Size", "18446744073709551616".into()), &["no size"]);
    config(|| Fault::Says("X-Linked-Size", "1000000000".into()), &["1000000000 bytes"]);
    config(|| Fault::Says("Content-Length", "1000000000".into()), &["1000000000 bytes"]);
    config(|| Fault::Says("X-Linked-Size", "10".into()), &["more than the 10 bytes", "not kept"]);
    config(|| Fault::Bytes(b"\n <!doctype html><title>Log in</title>".into()), &["no JSON", "login", "not kept"]);
    // A hub that sends the headers and then for ever to the next address, or nowhere.
    for (status, words) in [((302, ("Location", "/a/config.json")), "one address"), ((304, ("X-Nothing", "")), "304")] {
        w.server.faults(move |a| a.is_get("/config.json").then_some(Fault::Status(status.0, status.1)));
        w.refused(&[ID, "config.json", words]);
    }
    // Weights that are said to be larger or smaller than they are, and an answer that says less than it sends.
    let shard = "model-00002-of-00003.safetensors";
    for (size, words) in [(u64::MAX.to_string(), "bytes that were promised"), ("9".into(), "more than the 9 bytes")] {
        let fault = move |a: &Ask| a.path.ends_with(shard).then(|| Fault::Says("X-Linked-Size", size.clone()));
        w.server.faults(fault.clone());
        refused_with(w.command(&["--model", ID, "plan"]), 4, &[shard, "fetch it again"]);
        w.server.faults(fault);
        w.refused(&[ID, shard, words, "not kept"]);
    }
    w.server.faults(|a| (a.is_get(shard) && a.range == Some((0, None))).then(|| Fault::Says("Content-Length", "100".into())));
    w.runs(&RUN);
}

#[test]
fn a_hostile_index_names_no_file_that_is_asked_for() {
    let index = "model.safetensors.index.json";
    let many: BTreeMap<String, String> = (0..20_000).map(|i| (format!("t{i}"), format!("{i}.safetensors"))).collect();
    let one = |file: &str| BTreeMap::from([("t".to_string(), file.to_string())]);
    for (map, words) in [(many, ["20000 files", index]), (one("../../x"), ["outside", index]), (one("a\u{1b}[2Jb"), ["outside", index])] {
        let w = world(SHARDED);
        let bytes = serde_json::json!({ "weight_map": map }).to_string().into_bytes();
        w.server.faults(move |a| a.path.ends_with(index).then(|| Fault::Bytes(bytes.clone())));
        refused_with(w.command(&[&["--model", ID][..], &RUN].concat()), 4, &words);
        assert!(!w.asked().iter().any(|a| a.path.ends_with(".safetensors")), "{:?}", w.asked());
    }
}

#[test]
fn a_part_asks_for_its_own_files() {
    let w = world(SHARDED);
    let names: Vec<String> = files(SHARDED).into_keys().filter(|name| name.starts_with("model-")).collect();
    let out = w.home.path().join("curves");
    let each = ["1/2", "2/2"].map(|part| {
        w.server.faults(|_| None);
        w.runs(&["measure", "--part", part, "--out", out.to_str().expect("UTF-8")]);
        let asked = w.asked();
        names.iter().map(|name| asked.iter().filter(|a| a.is_get(name)).count()).collect::<Vec<_>>()
    });
    // Of files of the other part just the headers.
    let header = each.iter().flatten().copied().min().expect("files");
    let [first, second] = &each;
    let last = names.len() - 1;
    assert!(last > 1 && first[last] == header && second[0] == header, "{each:?}");
    assert!(first[0] > 2 * header && second[last] > 2 * header, "{each:?}");
}

#[test]
fn packed_parts_run_without_a_weight_file() {
    let w = world(BUNDLED);
    let [curves, one, two] = ["curves", "one", "two"].map(|name| w.home.path().join(name).to_str().expect("UTF-8").to_string());
    let flags = ["--weights", "6MB", "--no-keep", "--cache", "always"];
    let with = |more: &[&str]| w.runs(&[&flags[..], more].concat()).0;
    w.runs(&["measure", "--out", &curves]);
    let pack = |more: &[&str]| w.runs(&[&["--weights", "6MB", "pack", "--curves", &curves], more].concat());
    pack(&["--part", "1/2", "--out", &one]);
    pack(&["--part", "2/2", "--out", &two]);
    pack(&["--parts", &one, &two]);
    w.server.faults(|_| None);
    let generate = ["generate", "The river", "--max-tokens", "8", "--temp=0"];
    let text = with(&[&generate[..], &["--curves", &curves]].concat());
    let asked: Vec<_> = w.asked().into_iter().filter(|a| a.is_get(WEIGHTS)).map(|a| a.range).collect();
    assert!(asked.iter().all(|range| range.is_some_and(|(_, to)| to.is_some_and(|to| to < 1 << 20))), "more than the header: {asked:?}");
    assert_eq!(text, local(BUNDLED, &[&["--weights", "6MB", "--no-survey"], &generate[..]].concat()));
}

#[test]
fn plans_are_made_from_parts() {
    let w = world(BUNDLED);
    // A survey needs all weights.
    let args = ["--weights", "6MB", "--no-survey", "plan", "--json"];
    let (plan, said) = w.runs(&args);
    assert_eq!(plan, local(BUNDLED, &args));
    let size = files(BUNDLED)[WEIGHTS].len();
    let read = w.server.state().body_bytes;
    eprintln!("{read} of {size} bytes in {} questions: {said}", w.asked().len());
    assert!(read < size / 2, "{read} of {size}");
    assert!(said.contains("fetched") && said.contains(&format!("of {size} bytes")), "{said}");
    assert!(!w.snapshot(WEIGHTS).exists());
    // Addresses that expire are asked for anew.
    let count = AtomicUsize::new(0);
    w.server.faults(move |a| {
        let n = count.fetch_add(1, SeqCst);
        (a.path.starts_with("/cdn/") && n % 100 == 99).then_some(Fault::Status(403, ("X-Nothing", "")))
    });
    assert_eq!(w.runs(&args).0, plan);
    w.server.faults(|a| (a.is_get(WEIGHTS) && a.range.is_some_and(|(from, _)| from > 1_000_000)).then_some(Fault::Cut(1)));
    refused(w.command(&[&["--model", ID][..], &args].concat()), &[ID, WEIGHTS, "broke off", "run again"]);
}

/// Rows that take turns, experts that are cut out of one tensor, floats of 4 and of 8 bits with their scales, what latents have by head: from far
/// away as from here. Of what lies by columns no part is asked for.
#[test]
fn other_layouts_come_from_the_hub_too() {
    let all = [("gpt-oss-mxfp4", "90kB"), ("granite-bf16", "60kB"), ("qwen3-fp8", "60kB"), ("deepseek3-fp8", "150kB")];
    for (name, weights) in all {
        let folder = &format!("tests/fixtures/{name}");
        let w = world(folder);
        let plan = ["--weights", weights, "--no-survey", "plan", "--json"];
        assert_eq!(w.runs(&plan).0, local(folder, &plan), "{folder}");
        let asked = w.asked().len();
        assert!(asked < 400, "{folder}: {asked} questions");
        let generate = ["--weights", weights, "--no-survey", "generate", "a", "--max-tokens", "8", "--temp=0"];
        assert_eq!(w.runs(&generate).0, local(folder, &generate), "{folder}");
    }
    let w = world("tests/fixtures/llama4-pieces-bf16");
    refused_with(w.command(&["--model", ID, "--no-survey", "--weights", "90kB", "plan"]), 4, &["gate_proj", "inputs first", "fetch the model"]);
}

/// A parquet file with one column of texts.
fn table(rows: &[&str]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type("message schema { optional binary text (UTF8); }").expect("a schema"));
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).expect("a writer");
    for rows in rows.chunks(1000) {
        let mut group = writer.next_row_group().expect("a group");
        let mut column = group.next_column().expect("no fault").expect("a column");
        let values: Vec<ByteArray> = rows.iter().map(|r| ByteArray::from(*r)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&vec![1; rows.len()]), None).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
    }
    writer.into_inner().expect("written")
}

#[test]
fn wikitext_rows_are_the_published_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.parquet");
    let rows = ["", " = A title = \n", "", " Words . \n"];
    fs::write(&path, table(&rows)).expect("written");
    let read = wikitext::rows(&path).expect("rows");
    assert_eq!(read, rows);
    assert_eq!(wikitext::join(&read), (rows.join("\n\n"), Joined::Guide));
    fs::write(&path, "no table").expect("written");
    assert!(wikitext::rows(&path).expect_err("no table").to_string().contains("rows.parquet"));
    // With any byte changed it is a table or a sentence, and never a panic.
    let whole = table(&rows);
    for at in 0..whole.len() {
        for change in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            fs::write(&path, bytes).expect("written");
            let _ = wikitext::rows(&path);
        }
    }

    let Some(shared) = crate::parity::shared() else { return };
    let raw = fs::read_to_string(shared.join("data/wikitext-2-raw/wiki.test.raw")).expect("the text");
    let rows: Vec<&str> = raw.split_inclusive('\n').map(|line| if line.trim().is_empty() { "" } else { line }).collect();
    let file = "wikitext-2-raw-v1/test-00000-of-00001.parquet".to_string();
    let server = Server::start("datasets/Salesforce/wikitext", BTreeMap::from([(file.clone(), table(&rows))]));
    let w = World { server, home: tempfile::tempdir().expect("a folder") };
    let args = ["--weights", "6MB", "eval-ppl", "wikitext2", "--window", "64", "--max-windows", "2", "--json"];
    let out = w.run(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(report["text_sha256"], sha256(raw.as_bytes()));
    assert!(report["text_is"].as_str().is_some_and(|s| s.contains("wiki.test.raw")), "{}", report["text_is"]);
    assert!(w.home.path().join("hub/datasets--Salesforce--wikitext/snapshots").join(COMMIT).join(file).is_file());
    w.server.faults(|_| None);
    assert!(w.run(&[&["--offline"], &args[..]].concat()).status.success() && w.asked().is_empty());
}
