//! Work that several machines share: the parts put together are what one machine makes, bit for bit.
use crate::{
    cli::{command, ram_run, stdout},
    parity::{fixtures, shared},
    skips::installed,
};
use ram_run::{Checkpoint, Effort, Limit, MeasuredParts, PartOf, Request, Survey, choose, measure, measure_part};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Measures all parts into files.
fn measured(folder: &Path, checkpoint: &Checkpoint, request: &Request, of: usize) -> Vec<PathBuf> {
    let each = (1..=of).map(|number| {
        let path = folder.join(format!("curves-{number}-of-{of}"));
        let part = PartOf::new(number, of).unwrap();
        measure_part(checkpoint, request, part, &|_| ()).unwrap().write(&path).unwrap();
        path
    });
    each.collect()
}

/// Every family, published densely or in codes of 8 or 4 bits, in one file or in several; with and without a survey.
#[test]
fn parts_plan_what_the_whole_does() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let trained = shared().into_iter().map(|shared| shared.join("models/tiny-mixtral"));
    for model in fixtures().into_iter().chain(trained).chain([here.join("models/tiny-qwen3-moe")]) {
        let checkpoint = Checkpoint::open(&model).unwrap();
        let survey = Survey::possible(&checkpoint).then(|| Survey::measure(&checkpoint, &|_| ()).unwrap());
        for survey in [None, survey] {
            let request = Request { survey: survey.map(Into::into), context: Some(64), effort: Effort::Fast, ..Request::default() };
            let whole = measure(&checkpoint, &request, &|_| ()).unwrap();
            let (least, most) = whole.range();
            let folder = tempfile::tempdir().unwrap();
            let mut paths = measured(folder.path(), &checkpoint, &request, 3);
            paths.rotate_left(1);
            let parts = MeasuredParts::read(&paths).unwrap();
            parts.check(&checkpoint).unwrap();
            let together = parts.measured(&request).unwrap();
            for limit in [least, (2 * least + most) / 3, most].map(Limit::Weights) {
                let [a, b] = [&whole, &together].map(|measured| serde_json::to_string(&choose(measured, limit).unwrap()).unwrap());
                assert!(a == b, "{} at {limit:?}", model.display());
            }
        }
    }
}

/// Every tensor is in one part, and no part has much more work than the others.
#[test]
fn parts_divide_what_there_is() {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-qwen3-moe")).unwrap();
    let work = |spec: &ram_run::TensorSpec| spec.shape.iter().product::<usize>() as u64;
    for of in [1, 2, 5, 1000] {
        let parts: Vec<_> = (1..=of).map(|number| PartOf::new(number, of).unwrap().tensors(&checkpoint, &work)).collect();
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), checkpoint.specs().len());
        let each: Vec<u64> = parts.iter().map(|part| checkpoint.specs().iter().filter(|s| part.contains(s.name.as_str())).map(work).sum()).collect();
        let (total, largest) = (each.iter().sum::<u64>(), checkpoint.specs().iter().map(work).max().unwrap());
        assert!(each.iter().all(|work| *work <= total / of as u64 + largest), "{each:?}");
    }
}

const MODEL: &str = "models/tiny-qwen3-moe";
const SIZE: [&str; 4] = ["--model", MODEL, "--weights", "6MB"];

fn with(more: &[&str]) -> Vec<String> {
    SIZE.iter().chain(more).map(|word| word.to_string()).collect()
}

fn run(args: &[String]) -> Output {
    ram_run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The packed file that a command leaves in an empty cache.
fn cached(args: &[String]) -> Vec<u8> {
    let cache = tempfile::tempdir().unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = command(&args).env("RAM_RUN_CACHE", cache.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut packed: Vec<PathBuf> = fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().path()).collect();
    packed.retain(|path| path.extension().is_some_and(|e| e == "packed"));
    assert_eq!(packed.len(), 1);
    fs::read(&packed[0]).unwrap()
}

/// Parts of measurements and of packed weights in a folder, by a survey.
fn made(folder: &Path, of: usize) -> [Vec<String>; 2] {
    let text = |path: PathBuf| path.to_str().unwrap().to_string();
    let survey = text(folder.join("survey"));
    stdout(&["--model", MODEL, "survey", &survey]);
    let curves: Vec<String> = (1..=of).map(|i| text(folder.join(format!("curves-{i}")))).collect();
    for (i, path) in (1..).zip(&curves) {
        stdout(&["--model", MODEL, "--survey", &survey, "measure", "--part", &format!("{i}/{of}"), "--out", path]);
    }
    let packed: Vec<String> = (1..=of).map(|i| text(folder.join(format!("packed-{i}")))).collect();
    for (i, path) in (1..).zip(&packed) {
        let part = format!("{i}/{of}");
        let args = with(&["--survey", &survey, "pack", "--part", &part, "--out", path, "--curves"]);
        let out = run(&[args, curves.clone()].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    [curves, packed]
}

#[test]
fn packed_parts_are_the_packed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [_, mut packed] = made(folder.path(), 3);
    packed.reverse();
    let whole = cached(&with(&["pack"]));
    assert!(whole.len() > 5_900_000);
    assert!(cached(&[with(&["pack", "--parts"]), packed].concat()) == whole);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let [curves, packed] = made(folder.path(), 2);
    let survey = at("survey");
    let measure = |name: &str, more: &[&str]| {
        let path = at(name);
        stdout(&[more, &["measure", "--out", &path]].concat());
        path
    };
    let others = measure("others", &["--model", "tests/fixtures/olmoe-bf16"]);
    let plain = measure("plain", &["--model", MODEL, "--effort", "fast"]);
    let third = measure("third", &["--model", MODEL, "--survey", &survey]);
    // A digit, where nothing but a checksum can tell.
    let damaged = at("damaged");
    let text = fs::read_to_string(&curves[0]).unwrap();
    let digit = text.rfind("0.0").unwrap() + 3;
    fs::write(&damaged, [&text[..digit], if text[digit..].starts_with('1') { "2" } else { "1" }, &text[digit + 1..]].concat()).unwrap();
    let cut = at("cut");
    fs::write(&cut, &fs::read(&packed[1]).unwrap()[..100_000]).unwrap();
    let flipped = at("flipped");
    let mut bytes = fs::read(&packed[1]).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::write(&flipped, bytes).unwrap();
    let (one, two) = (curves[0].as_str(), curves[1].as_str());
    let plan = |files: &[&str], more: &[&str]| -> Vec<String> {
        [&["--weights", "6MB", "plan", "--curves"][..], files, more].concat().into_iter().map(String::from).collect()
    };
    let given: &[&str] = &["--survey", &survey];
    let pack = |files: &[&str]| with(&[&["--survey", &survey, "pack", "--parts"][..], files].concat());
    let cases: &[(Vec<String>, i32, &[&str])] = &[
        (plan(&[one], given), 4, &["curves-1", "part 2 is not given", "--part 2/2"]),
        (plan(&[one, two, one], given), 4, &["curves-1", "part 1 of 2, and so is"]),
        (plan(&[one, &others], given), 4, &["others", "another checkpoint"]),
        (plan(&[one, &third], given), 4, &["third", "one division"]),
        (plan(&[one, &plain], given), 4, &["plain", "--effort"]),
        (plan(&[&damaged, two], given), 4, &["damaged"]),
        (plan(&[&survey], given), 4, &["survey"]),
        (plan(&[one, two], &[]), 2, &["measured by a survey"]),
        (plan(&[one, "chat"], &[]), 4, &["chat", "are files"]),
        (plan(&[one, two], &["--survey", one]), 4, &["curves-1", "no survey"]),
        (plan(&[&plain], &[]), 2, &["effort fast"]),
        (plan(&[one, two], &["--survey", &survey, "--pin", "lm_head=a4g64"]), 2, &["not measured in a4g64"]),
        (plan(&[one, two], &["--survey", &survey, "--model", "tests/fixtures/olmoe-bf16"]), 2, &["another checkpoint"]),
        (pack(&[&packed[0]]), 4, &["packed-1", "part 2 is not given"]),
        (pack(&[&packed[0], &packed[0]]), 4, &["packed-1", "and so is"]),
        (pack(&[&packed[0], &cut]), 4, &["is in none of the parts"]),
        (pack(&[&packed[0], &flipped]), 4, &["flipped", "damaged"]),
        (pack(&[one, two]), 4, &["curves-1", "no part"]),
        ([&with(&["--pin", "lm_head=t8g64"])[..], &pack(&[&packed[0], &packed[1]])[SIZE.len()..]].concat(), 4, &["packed-1", "of the plan"]),
        (with(&["--refine", "pack", "--part", "1/2", "--out", &at("never")]), 2, &["--refine"]),
        (["pack"].map(String::from).to_vec(), 2, &["--budget"]),
        (
            ["measure", "--model", "tests/fixtures/quantized/gptq-qwen3", "--out"].map(String::from).into_iter().chain([at("never")]).collect(),
            2,
            &["quantized already"],
        ),
    ];
    for (args, code, words) in cases {
        let out = run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(*code), "{args:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{args:?}: {said}");
        assert!(out.stdout.is_empty(), "{args:?}");
    }
    assert!(!folder.path().join("never").exists());
}

/// The example for a cluster, on several workers of this machine, one of which is killed at its work.
#[test]
fn ray_plans_and_packs_though_a_worker_dies() {
    let Some(python) = installed("RAM_RUN_CLIENTS") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (program, died, out) = (folder.path().join("ram-run"), folder.path().join("died"), folder.path().join("out"));
    let real = env!("CARGO_BIN_EXE_ram-run");
    // The second part's first task takes its worker with it.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *'measure --part 2/3'*) mkdir '{}' 2>/dev/null && kill -9 $PPID && exit 9;; esac\nexec '{real}' \"$@\"\n",
        died.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = here.join(MODEL);
    let done = Command::new(python)
        .arg(here.join("examples/ray/plan.py"))
        .args(["--parts", "3", "--survey", "--pack", "--program"])
        .arg(&program)
        .arg("--out")
        .arg(&out)
        .args(["--", "--weights", "6MB", "--model"])
        .arg(&model)
        .env("RAM_RUN_CACHE", folder.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(died.exists());
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert!(read("plan.json") == stdout(&[&SIZE[..], &["plan", "--json"]].concat()), "another plan than on one machine");
    let parts = (1..=3).map(|i| out.join(format!("packed-{i}-of-3")).to_str().unwrap().to_string());
    assert!(cached(&with(&["pack", "--parts"]).into_iter().chain(parts).collect::<Vec<_>>()) == cached(&with(&["pack"])));
}
