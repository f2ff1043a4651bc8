//! Error feedback for the inputs that a model's own text gives.
use crate::{cli, memory::watch, parity::shared};
use ram_run::{Checkpoint, Error, Method, Model, Plan, Protocol, Request, Survey, load, plan, refined};
use std::{collections::HashSet, fs, path::Path, process::Stdio, sync::Arc, time::Duration};

#[test]
fn feedback_for_its_own_text_makes_a_model_better() -> Result<(), Error> {
    let Some(shared) = shared() else { return Ok(()) };
    let text = std::fs::read_to_string(shared.join("data/wikitext-2-raw/wiki.test.raw")).expect("the text");
    // Measured are 0.52, 0.38 and 0.51.
    for model in ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"] {
        let [plain, fed] = losses(&Checkpoint::open(&shared.join("models").join(model))?, &text)?;
        eprintln!("{model}: KL {plain} without feedback, {fed} with");
        assert!(fed < 0.7 * plain, "{model}: {fed} with feedback, {plain} without");
    }
    Ok(())
}

/// KL divergence of a model in 3 bits without and with feedback.
fn losses(checkpoint: &Checkpoint, text: &str) -> Result<[f64; 2], Error> {
    let mut request = Request { method: Method::Uniform("t3g64".parse().expect("a format")), ..Request::default() };
    request.survey = Some(Arc::new(Survey::measure(checkpoint, &|_| ())?));
    let plain = plan(checkpoint, &request, &|_| ())?;
    assert!(plain.survey.text().is_none());
    let survey = refined(checkpoint, &request, &|_, _| ())?;
    let own: HashSet<&[u32]> = survey.text().expect("a text").iter().map(Vec::as_slice).collect();
    assert_eq!((own.len(), survey.text().map(|text| text[0].len())), (64, Some(256)), "sequences that differ");
    request.survey = Some(Arc::new(survey));
    let fed = plan(checkpoint, &request, &|_| ())?;
    assert!(fed.survey.text().is_some() && fed.weight_bytes == plain.weight_bytes && fed.fingerprint != plain.fingerprint);
    let dense = plan(checkpoint, &Request { method: Method::Dense, ..Request::default() }, &|_| ())?;
    let model = |plan: &Plan| Model::new(checkpoint, plan, &load(checkpoint, plan, &|_| ())?);
    let reference = model(&dense)?;
    let protocol = Protocol::windows(256, 256);
    let kl = |plan: &Plan| {
        let report = model(plan)?.perplexity(text, &protocol, Some(16), Some(&reference), &mut |_| ())?;
        Ok::<_, Error>(report.kl.expect("against the dense model"))
    };
    Ok([kl(&plain)?, kl(&fed)?])
}

/// What the bundled model says once it is refined.
fn generate(cache: &Path, more: &[&str]) -> std::process::Command {
    let mut command = cli::command(&["--refine", "--weights", "6MB", "generate", "The river", "--temp", "0", "--max-tokens", "20"]);
    command.args(more).env("RAM_RUN_CACHE", cache).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn ending(folder: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let each = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut found: Vec<_> = each.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    found.sort();
    found
}

#[test]
fn a_refinement_that_was_stopped_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, stopped] = ["whole", "stopped"].map(|name| folder.path().join(name));
    let said = generate(&whole, &[]).output().expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let packed = |folder: &Path| ending(folder, ".packed").iter().map(|path| fs::read(path).expect("a file")).collect::<Vec<_>>();
    assert_eq!((packed(&whole).len(), ending(&whole, ".survey").len(), ending(&whole, ".tmp").len()), (1, 1, 0), "the model, its text, nothing else");

    let mut running = generate(&stopped, &["--threads", "1"]).spawn().expect("it starts");
    let journal = || ending(&stopped, ".refining.tmp").first().and_then(|path| path.metadata().ok()).map_or(0, |about| about.len());
    while journal() < 1_000_000 && running.try_wait().expect("a state").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    running.kill().expect("it runs still");
    running.wait().expect("it ends");
    assert!(packed(&stopped).is_empty() && journal() > 0, "stopped in the middle");
    let again = generate(&stopped, &[]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&again.stdout));
    assert!(packed(&stopped) == packed(&whole) && ending(&stopped, ".tmp").is_empty(), "the same bytes, and no journal");
    // From what is kept now.
    let kept = generate(&stopped, &[]).output().expect("it runs");
    assert_eq!(said.stdout, kept.stdout);
}

#[test]
fn refining_keeps_to_its_budget() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = crate::bad_input::copy("qwen2-shared-bf16");
    for (model, threads) in [(None, "2"), (None, "16"), (copy.path.to_str(), "2")] {
        let run = |budget: u64| {
            let mut command = cli::command(&["--refine", "--budget", &budget.to_string()]);
            command.args(model.iter().flat_map(|m| ["--model", m])).args(["generate", "The river", "--max-tokens", "8", "--ctx", "256"]);
            command.env("RAYON_NUM_THREADS", threads).env("RAM_RUN_CACHE", folder.path().join(threads));
            watch(command)
        };
        let (refused, _) = run(1000);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{text}");
        let least: u64 = text.rsplit_once("--budget ").and_then(|(_, rest)| rest.trim().trim_end_matches(')').parse().ok()).expect("a number");
        let (kept, seen) = run(least);
        assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
        assert!(seen > least / 4 && seen < least, "{model:?}, {threads} threads: {seen} of {least}");
        eprintln!("{model:?}, {threads} threads: {seen} of {least}");
    }
}

#[test]
fn what_cannot_be_refined_is_refused() {
    cli::refused(&["--refine", "generate", "x"], 2, &["--refine", "--budget SIZE"]);
    cli::refused(&["--refine", "--weights", "6MB", "--objective", "ram", "generate", "x"], 2, &["--refine", "objective ram"]);
    cli::refused(&["--refine", "--no-survey", "--weights", "6MB", "generate", "x"], 2, &["--refine", "--no-survey"]);
}

#[test]
fn a_plan_that_loses_much_is_said_what_refining_takes() {
    let said = |flags: &[&str]| {
        let out = cli::ram_run(&[flags, &["--no-survey", "generate", "The river", "--max-tokens", "2"]].concat());
        assert!(out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let hint = said(&["--weights", "3.8MB"]);
    assert!(hint.contains("--refine") && hint.contains("0.041") && hint.contains("about a minute"), "{hint}");
    assert!(!said(&["--weights", "6MB"]).contains("--refine"));
    assert!(!said(&["--weights", "3.8MB", "--quiet"]).contains("--refine"));
}
