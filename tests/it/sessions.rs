//! Sessions: what they have in common is computed once, and nothing else of them is.
use ram_run::{Checkpoint, Error, KvElement, Limit, Model, Request, Sampling, Session, plan};
use std::{path::Path, time::Duration};

fn model(kv: KvElement) -> Model {
    model_of(BUNDLED, kv)
}

/// Folders, and bytes of weights.
const BUNDLED: (&str, u64) = ("models/tiny-qwen3-moe", 7_000_000);
/// With states that cannot be cut back to any place.
const STATES: (&str, u64) = ("tests/fixtures/qwen3-next-bf16", 350_000);
/// With latents.
const LATENTS: (&str, u64) = ("tests/fixtures/glm4-lite-bf16", 350_000);
/// With layers that hold a window alone.
const WINDOWS: (&str, u64) = ("tests/fixtures/gpt-oss-mxfp4", 500_000);

fn model_of((folder, weights): (&str, u64), kv: KvElement) -> Model {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("opens");
    let request = Request { limit: Limit::Weights(weights), context: Some(512), kv: Some(kv), ..Request::default() };
    let plan = plan(&checkpoint, &request, &|_| ()).expect("a plan");
    Model::load(&checkpoint, &plan, &|_| ()).expect("loads")
}

/// Choices that depend on the random numbers before them.
fn drawn() -> Sampling {
    Sampling { temperature: 0.9, seed: 7, ..Sampling::default() }
}

fn go_on(model: &Model, session: &mut Session, count: usize) -> Vec<u32> {
    (0..count).map(|_| model.next(session).expect("a token")).collect()
}

#[test]
fn only_what_is_new_is_computed() {
    fn shared<T: Send + Sync>(_: &T) {}
    fn sent<T: Send>(_: &T) {}
    let model = model(KvElement::F16);
    shared(&model);
    let tokens = |text: &str| model.tokenizer.encode(text, true).expect("encodes");
    let (first, second) = (tokens("The river flows through the town of"), tokens("The town was built in the year"));
    let answer = |session: &mut Session, prompt: &[u32]| {
        session.prompt(prompt).expect("fits");
        model.generate(session, 12).collect::<Result<Vec<u32>, _>>().expect("generates")
    };
    let [mut session, mut alone] = [(); 2].map(|()| model.session(Sampling::default()).expect("a session"));
    sent(&session);
    let want = answer(&mut alone, &second);
    answer(&mut session, &first);
    assert_eq!(answer(&mut session, &second), want);
    assert_ne!(answer(&mut session, &first), want);
    let mut longer = first.clone();
    longer.extend(&want);
    session.prompt(&longer).expect("fits");
    model.next(&mut session).expect("a token");
    assert!(session.stats.prompt_tokens <= longer.len() - first.len() && session.stats.generated == 1, "{:?}", session.stats);
    // The same text again: its last token alone is computed.
    session.prompt(&longer).expect("fits");
    model.next(&mut session).expect("a token");
    assert_eq!(session.stats.prompt_tokens, 1);
    // Nothing asked for, nothing generated; what does not fit is refused and changes nothing.
    session.prompt(&first).expect("fits");
    assert!(model.generate(&mut session, 0).next().is_none() && session.stats.generated == 0);
    assert!(matches!(session.prompt(&[]), Err(Error::Empty)));
    assert!(matches!(session.prompt(&[1; 513]), Err(Error::Context { tokens: 513, capacity: 512 })));
    assert_eq!(session.tokens(), first);
    let mut empty = model.session(Sampling::default()).expect("a session");
    assert!(matches!(model.next(&mut empty), Err(Error::Empty)));
    // A full context ends a generation, and is an error where one more is asked for.
    session.prompt(&[1; 512]).expect("fits");
    assert_eq!(model.generate(&mut session, 9).count(), 1);
    assert!(matches!(model.next(&mut session), Err(Error::Context { .. })));
    // It is saved and restored like any other.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("full.session");
    model.save(&session, &path).expect("saved");
    assert_eq!(model.restore(&path, Sampling::default()).expect("restored").tokens(), session.tokens());
}

/// Sessions that step together, one of them through a long prompt, have the tokens that each has alone.
#[test]
fn sessions_together_are_as_they_are_alone() {
    for (folder, kv) in
        [(BUNDLED, KvElement::F16), (BUNDLED, KvElement::Q4), (STATES, KvElement::F16), (LATENTS, KvElement::Q4), (WINDOWS, KvElement::Q8)]
    {
        let model = model_of(folder, kv);
        let prompts: Vec<Vec<u32>> = [3usize, 450, 40, 1].iter().map(|n| (0..*n as u32).map(|i| i * 37 % 260).collect()).collect();
        let new = |prompt: &[u32]| {
            let mut session = model.session(drawn()).expect("a session");
            session.prompt(prompt).expect("fits");
            session
        };
        let want: Vec<Vec<u32>> = prompts.iter().map(|prompt| go_on(&model, &mut new(prompt), 6)).collect();
        let mut sessions: Vec<Session> = prompts.iter().map(|prompt| new(prompt)).collect();
        let mut found = vec![Vec::new(); sessions.len()];
        while found.iter().any(|tokens| tokens.len() < 6) {
            let given = model.step(&mut sessions.iter_mut().collect::<Vec<_>>()).expect("a step");
            found.iter_mut().zip(given).for_each(|(tokens, token)| tokens.extend(token));
        }
        for (i, (found, want)) in found.iter().zip(&want).enumerate() {
            assert_eq!(found[..6], want[..], "{kv:?}, session {i}");
        }
    }
}

#[test]
fn forks_and_saved_sessions_go_on_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.session");
    for (folder, kv) in [
        (BUNDLED, KvElement::F16),
        (BUNDLED, KvElement::Q8),
        (BUNDLED, KvElement::Q4),
        (STATES, KvElement::Q8),
        (LATENTS, KvElement::Q8),
        (WINDOWS, KvElement::Q4),
    ] {
        let model = model_of(folder, kv);
        let mut session = model.session(drawn()).expect("a session");
        session.prompt(&(0..100).map(|i| i * 37 % 260).collect::<Vec<u32>>()).expect("fits");
        go_on(&model, &mut session, 5);
        model.save(&session, &path).expect("saved");
        let mut fork = session.fork(usize::MAX);
        let mut again = model.restore(&path, drawn()).expect("restored");
        assert_eq!((again.tokens(), again.computed()), (session.tokens(), session.computed()));
        let want = go_on(&model, &mut session, 10);
        assert_eq!(go_on(&model, &mut fork, 10), want);
        assert_eq!(go_on(&model, &mut again, 10), want);
        // From an earlier place, as one does that never went further.
        let mut early = session.fork(90);
        let mut alone = model.session(drawn()).expect("a session");
        early.sample_by(drawn()).expect("in range");
        alone.prompt(&session.tokens()[..90]).expect("fits");
        assert_eq!((early.computed(), early.tokens()), (if folder == STATES { 0 } else { 90 }, alone.tokens()));
        assert_eq!(go_on(&model, &mut early, 10), go_on(&model, &mut alone, 10));

        let bytes = std::fs::read(&path).expect("read");
        let other = model_of(folder, if kv == KvElement::F16 { KvElement::Q8 } else { KvElement::F16 });
        let said = |model: &Model| match model.restore(&path, drawn()) {
            Err(Error::File { path: named, reason }) if named == path => reason,
            other => panic!("{other:?}"),
        };
        assert!(said(&other).contains("keys and values, this is"));
        type Change<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
        let changes: [Change; 6] = [
            ("ends too early", &|b| b.truncate(b.len() / 2)),
            ("its checksum is wrong", &|b| b.truncate(b.len() - 1)),
            ("its checksum is wrong", &|b| b.push(0)),
            ("its checksum is wrong", &|b| {
                let at = b.len() - 2000;
                b[at] ^= 1;
            }),
            ("no saved session", &|b| b.clear()),
            ("no saved session", &|b| b[0] = b'['),
        ];
        for (words, change) in changes {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            std::fs::write(&path, bytes).expect("written");
            let reason = said(&model);
            assert!(reason.contains(words), "{kv:?}: {reason} is not {words}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 1);
}

/// Another thread ends a long prompt between two layers; it goes on from where it was.
#[test]
fn a_session_is_cancelled_while_it_computes() {
    let model = model(KvElement::F16);
    let prompt: Vec<u32> = (0..500).map(|i| i * 37 % 500).collect();
    let mut session = model.session(drawn()).expect("a session");
    session.prompt(&prompt).expect("fits");
    let want = go_on(&model, &mut session.fork(usize::MAX), 3);
    let cancel = session.cancel();
    for wait in [0, 1, 2, 5] {
        cancel.renew();
        session.prompt(&prompt).expect("fits");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(wait));
                cancel.cancel();
            });
            while !cancel.is_cancelled() {
                let _ = model.next(&mut session);
            }
        });
        session.prompt(&prompt).expect("fits");
        assert!(matches!(model.next(&mut session), Err(Error::Cancelled)));
    }
    cancel.renew();
    session.sample_by(drawn()).expect("in range");
    session.prompt(&prompt).expect("fits");
    assert_eq!(go_on(&model, &mut session, 3), want);
}
