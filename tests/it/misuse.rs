//! The library called wrongly from safe code: an error that names what does not belong together, never a panic or a wrong answer.
use ram_run::{Checkpoint, Error, Method, Model, Plan, Protocol, Request, Setting, load, packed, plan};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn opened(folder: &Path, method: Method) -> (Checkpoint, Plan) {
    let checkpoint = Checkpoint::open(folder).expect("opens");
    let plan = plan(&checkpoint, &Request { method, ..Request::default() }, &|_| ()).expect("a plan");
    (checkpoint, plan)
}

fn dense(folder: &Path) -> Model {
    let (checkpoint, plan) = opened(folder, Method::Dense);
    Model::load(&checkpoint, &plan, &|_| ()).expect("loads")
}

fn mismatch<T>(result: Result<T, Error>, words: &str) {
    match result {
        Err(Error::Mismatch(said)) => assert!(said.contains(words), "{said}"),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("what does not belong together was taken"),
    }
}

#[test]
fn a_plan_is_for_its_checkpoint() {
    let (a, own) = opened(&fixture("mixtral-bf16"), Method::Kl);
    let (_, other) = opened(&fixture("qwen3-bias-f32"), Method::Kl);
    let weights = load(&a, &own, &|_| ()).expect("loads");
    mismatch(load(&a, &other, &|_| ()), "was not made for");
    mismatch(Model::new(&a, &other, &weights), "was not made for");
    let changed = |change: &dyn Fn(&mut Plan)| {
        let mut plan = own.clone();
        change(&mut plan);
        mismatch(load(&a, &plan, &|_| ()), "was changed");
    };
    changed(&|p| drop(p.entries.pop()));
    changed(&|p| p.entries.swap(0, 1));
    changed(&|p| p.entries[0].bytes += 16);
    changed(&|p| p.entries[1].spec.shape.push(4));
    changed(&|p| p.entries[0].spec.name.push('x'));
    changed(&|p| p.entries[0].format = "a2g32".parse().expect("a format"));
    // Packed weights of another plan are not taken for this one's.
    let folder = tempfile::tempdir().expect("a folder");
    let path = packed::path(folder.path(), &a, &own).expect("a path");
    packed::write(&path, &a, &own, &weights, &|_| ()).expect("written");
    let b = Checkpoint::open(&fixture("qwen3-bias-f32")).expect("opens");
    assert!(matches!(packed::read(&path, &other, &|_| ()).expect("read"), packed::Found::Damaged(_)));
    mismatch(Model::new(&b, &own, &weights), "was not made for");
}

#[test]
fn protocols_that_score_nothing_are_refused() {
    let model = dense(&fixture("mixtral-bf16"));
    let text = "the river flows through a town ".repeat(30);
    let setting = |protocol: Protocol, most: Option<usize>, setting: Setting| match model.perplexity(&text, &protocol, most, None, &mut |_| ()) {
        Err(Error::Setting { setting: found, .. }) => assert_eq!(found, setting),
        other => panic!("{protocol:?}: {:?}", other.map(|r| r.perplexity)),
    };
    let windows = Protocol::windows(16, 16);
    for score_from in [0, 16, 17, usize::MAX] {
        setting(Protocol { score_from, ..windows.clone() }, None, Setting::ScoreFrom);
        setting(Protocol { score_from, stride: 4, ..windows.clone() }, None, Setting::ScoreFrom);
    }
    for window in [0, 1] {
        setting(Protocol { window, ..windows.clone() }, None, Setting::Window);
    }
    for stride in [0, 17, usize::MAX] {
        setting(Protocol { stride, ..windows.clone() }, None, Setting::Stride);
    }
    setting(windows.clone(), Some(0), Setting::MaxWindows);
    let last = Protocol { score_from: 15, ..windows };
    assert_eq!(model.perplexity(&text, &last, Some(2), None, &mut |_| ()).expect("scores").tokens_scored, 2);
}

#[test]
fn distributions_over_other_vocabularies_are_not_compared() {
    let [model, same, larger] = ["mixtral-bf16", "mixtral-bf16", "qwen2-shared-bf16"].map(|name| dense(&fixture(name)));
    let text = "the river flows through a town ".repeat(30);
    let windows = Protocol::windows(16, 16);
    mismatch(model.perplexity(&text, &windows, Some(1), Some(&larger), &mut |_| ()), "vocabularies of 264 and 272");
    assert_eq!(model.perplexity(&text, &windows, Some(1), Some(&same), &mut |_| ()).expect("scores").kl, Some(0.0));
}
