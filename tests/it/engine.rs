//! Many jobs on one engine: each has the tokens that it has alone, whatever else there is, whatever was kept, whoever gives way.
use ram_run::{Checkpoint, Done, Engine, Error, Event, Guide, Job, KvElement, Limit, Model, Protocol, Request, Sampling, Scored, plan};
use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

const CONTEXT: usize = 512;

fn model(kv: KvElement, sequences: usize, kv_tokens: usize) -> Arc<Model> {
    model_of(BUNDLED, kv, sequences, kv_tokens)
}

/// Folders, and bytes of weights.
const BUNDLED: (&str, u64) = ("models/tiny-qwen3-moe", 7_000_000);
/// With states that cannot be cut back to any place.
const STATES: (&str, u64) = ("tests/fixtures/qwen35-moe-bf16", 500_000);
/// With layers that look at pieces of a text.
const PIECES: (&str, u64) = ("tests/fixtures/llama4-pieces-bf16", 150_000);
/// With latents.
const LATENTS: (&str, u64) = ("tests/fixtures/deepseek3-fp8", 150_000);
/// With layers that hold a window alone.
const WINDOWS: (&str, u64) = ("tests/fixtures/gpt-oss-mxfp4", 500_000);

fn model_of((folder, weights): (&str, u64), kv: KvElement, sequences: usize, kv_tokens: usize) -> Arc<Model> {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("opens");
    let limit = Limit::Weights(weights);
    let request = Request { limit, context: Some(CONTEXT), kv: Some(kv), sequences, kv_tokens: Some(kv_tokens), ..Request::default() };
    let plan = plan(&checkpoint, &request, &|_| ()).expect("a plan");
    Arc::new(Model::load(&checkpoint, &plan, &|_| ()).expect("loads"))
}

fn sampled(seed: u64) -> Sampling {
    Sampling { temperature: 0.9, frequency_penalty: 0.2, seed, ..Sampling::default() }
}

fn text(from: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (from + i * 37) % 260).collect()
}

fn job(prompt: &[u32], tokens: usize, seed: u64) -> Job {
    Job { ignore_end: true, ..Job::new(prompt.to_vec(), tokens, sampled(seed)) }
}

/// What it has alone, without an engine.
fn alone(model: &Model, prompt: &[u32], tokens: usize, seed: u64) -> Vec<u32> {
    let mut session = model.session(sampled(seed)).expect("a session");
    session.prompt(prompt).expect("fits");
    (0..tokens.min(CONTEXT + 1 - prompt.len())).map(|_| model.next(&mut session).expect("a token")).collect()
}

fn submit(engine: &Engine, job: Job) -> (ram_run::Cancel, Receiver<Event>) {
    let (send, events) = channel();
    let cancel = engine.submit(job, Box::new(move |event| send.send(event).is_ok())).expect("taken");
    (cancel, events)
}

/// Its tokens, and how it ended.
fn result(events: &Receiver<Event>) -> (Vec<u32>, Done) {
    let mut tokens = Vec::new();
    loop {
        match events.recv_timeout(Duration::from_secs(300)).expect("an event") {
            Event::Token(t) => tokens.push(t.token),
            Event::End(done) => return (tokens, done),
            Event::Failed(e) => panic!("{e}"),
            Event::Prompt { .. } | Event::Scores(_) => {}
        }
    }
}

fn until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lengths of prompts, and tokens wanted: together far more than the memory holds.
const JOBS: [(u32, u32, usize); 12] = [
    (1, 10, 400),
    (2, 12, 350),
    (4, 14, 300),
    (0, 3, 60),
    (0, 450, 40),
    (7, 200, 100),
    (7, 260, 30),
    (0, 300, 1),
    (3, 1, 200),
    (0, 512, 9),
    (0, 451, 61),
    (9, 64, 64),
];

#[test]
fn each_has_what_it_has_alone() {
    for (folder, kv, sequences) in [
        (BUNDLED, KvElement::F16, 4),
        (BUNDLED, KvElement::Q4, 4),
        (STATES, KvElement::F16, 2),
        (LATENTS, KvElement::Q8, 4),
        (PIECES, KvElement::F16, 3),
        (WINDOWS, KvElement::Q4, 3),
    ] {
        // Room for one whole context and a little: most of them have to give way to others.
        let model = model_of(folder, kv, sequences, CONTEXT + 128);
        let want: Vec<Vec<u32>> = JOBS.iter().zip(0..).map(|((from, len, tokens), seed)| alone(&model, &text(*from, *len), *tokens, seed)).collect();
        let engine = Engine::start(model).expect("starts");
        for round in 0..2 {
            let jobs: Vec<_> =
                JOBS.iter().zip(0..).map(|((from, len, tokens), seed)| submit(&engine, job(&text(*from, *len), *tokens, seed))).collect();
            for (n, ((_, events), want)) in jobs.iter().zip(&want).enumerate() {
                let (tokens, done) = result(events);
                assert_eq!(&tokens, want, "{kv:?}: job {n} of round {round}");
                assert!(!done.ended && done.generated == want.len());
            }
        }
        let status = engine.status();
        assert!(status.preempted > 0 && status.cached_tokens > 0, "{status:?}");
        assert!(status.kv_active == 0 && status.kv_kept <= status.kv_tokens && status.kv_kept > 0, "{status:?}");
        assert_eq!((status.running, status.waiting, status.ended, status.failed), (0, 0, 24, 0));
    }
}

#[test]
fn what_begins_alike_is_computed_once() {
    for folder in [BUNDLED, STATES, LATENTS, PIECES, WINDOWS] {
        begin_alike(&Engine::start(model_of(folder, KvElement::F16, 4, 4 * CONTEXT)).expect("starts"));
    }
}

fn begin_alike(engine: &Engine) {
    let prompt = text(5, 400);
    // At once: the others wait for the first one's beginning.
    let four: Vec<_> = (0..4).map(|seed| submit(engine, job(&prompt, 8, seed))).collect();
    let cached: Vec<usize> = four.iter().map(|(_, events)| result(events).1.cached).collect();
    assert_eq!(cached, [0, 399, 399, 399]);
    // Something else in between, and then the conversation goes on.
    let (said, _) = result(&submit(engine, job(&prompt, 30, 1)).1);
    result(&submit(engine, job(&text(77, 300), 5, 1)).1);
    let longer = [prompt.clone(), said, text(1, 20)].concat();
    let (_, done) = result(&submit(engine, job(&longer, 5, 1)).1);
    assert!(done.cached >= prompt.len() + 29, "{done:?}");
    // Not for others.
    let (tokens, done) = result(&submit(engine, Job { owner: 1, ..job(&longer, 5, 1) }).1);
    assert_eq!(done.cached, 0);
    assert_eq!(result(&submit(engine, job(&longer, 5, 1)).1).0, tokens);
}

#[test]
fn a_short_one_does_not_wait_for_a_long_one() {
    let engine = Engine::start(model(KvElement::F16, 2, 2 * CONTEXT)).expect("starts");
    // It decodes until it is cancelled.
    let (stop, long) = submit(&engine, job(&text(0, 100), CONTEXT, 0));
    while !matches!(long.recv().expect("an event"), Event::Token(_)) {}
    let (_, short) = submit(&engine, job(&text(8, 30), 2, 0));
    result(&short);
    assert!(long.try_iter().all(|event| matches!(event, Event::Token(_))), "the long one is over before the short one");
    stop.cancel();
    until("cancelled", || engine.status().cancelled == 1 && engine.status().running == 0);
}

#[test]
fn nobody_listens_or_somebody_cancels() {
    let engine = Engine::start(model(KvElement::F16, 2, CONTEXT)).expect("starts");
    let want = alone(engine.model(), &text(0, 300), 20, 3);
    for wait in 0..20 {
        let (cancel, events) = submit(&engine, job(&text(wait, 400), 100, 0));
        let (_, waits) = submit(&engine, job(&text(wait + 1, 400), 100, 0));
        drop(waits);
        std::thread::sleep(Duration::from_micros(u64::from(wait) * 700));
        if wait % 2 == 0 { cancel.cancel() } else { drop(events) }
    }
    until("all are gone", || engine.status().running == 0 && engine.status().waiting == 0);
    assert_eq!(engine.status().cancelled, 40);
    assert_eq!(result(&submit(&engine, job(&text(0, 300), 20, 3)).1).0, want);
    drop(engine);
}

#[test]
fn what_cannot_be_is_refused() {
    let engine = Engine::start(model(KvElement::F16, 1, CONTEXT)).expect("starts");
    let refused = |job: Job| engine.submit(job, Box::new(|_| true)).map(drop).expect_err("refused");
    assert!(matches!(refused(job(&[], 1, 0)), Error::Empty));
    assert!(matches!(refused(job(&text(0, 513), 1, 0)), Error::Context { tokens: 513, capacity: 512 }));
    assert!(matches!(refused(job(&[1 << 30], 1, 0)), Error::Mismatch(_)));
    let bad = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(matches!(refused(Job::new(vec![1], 1, bad)), Error::Setting { .. }));
    let (tokens, done) = result(&submit(&engine, job(&text(0, 9), 0, 0)).1);
    assert!(tokens.is_empty() && done.generated == 0 && !done.ended);
}

/// The same as `eval-ppl` finds, and the probabilities are those that are chosen by.
#[test]
fn scores_are_those_of_perplexity() {
    let engine = Engine::start(model(KvElement::F16, 2, 2 * CONTEXT)).expect("starts");
    let model = engine.model();
    let words = "The river flows through the town of the county , and the church was built in the year . ".repeat(12);
    let tokens = model.tokenizer.encode(&words, false).expect("encodes");
    let window = tokens.len().min(CONTEXT);
    let report = model.perplexity(&words, &Protocol::windows(window, window), Some(1), None, &mut |_| ()).expect("scored");
    // Beside something else.
    let (stop, _other) = submit(&engine, job(&text(0, 100), CONTEXT, 0));
    let scored = Job { top: Some(3), score_prompt: true, ..Job::new(tokens[..window].to_vec(), 0, Sampling::default()) };
    let (_, events) = submit(&engine, scored);
    let mut scores: Vec<Scored> = Vec::new();
    loop {
        match events.recv().expect("an event") {
            Event::Scores(some) => scores.extend(some),
            Event::End(done) => break assert_eq!(done.generated, 0),
            Event::Prompt { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    stop.cancel();
    assert_eq!(scores.iter().map(|s| s.token).collect::<Vec<_>>(), tokens[1..window]);
    let nll = -scores.iter().map(|s| f64::from(s.logprob)).sum::<f64>() / scores.len() as f64;
    assert!((nll - report.mean_nll).abs() < 1e-5, "{nll} for {}", report.mean_nll);
    assert!(scores.iter().all(|s| s.top.len() == 3 && s.top[0].1 >= s.logprob && s.top.is_sorted_by(|a, b| a.1 >= b.1)));
    // Greedy: what is chosen is the likeliest.
    let (_, events) = submit(&engine, Job { top: Some(2), ignore_end: true, ..Job::new(tokens[..50].to_vec(), 10, Sampling::default()) });
    let told: Vec<Scored> = events.iter().filter_map(|e| if let Event::Token(t) = e { Some(t) } else { None }).collect();
    assert!(told.len() == 10 && told.iter().all(|t| t.top[0] == (t.token, t.logprob)), "{told:?}");
}

/// Only even numbers, and then what cannot be.
struct Even {
    left: usize,
}

impl Guide for Even {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        logits.iter_mut().skip(1).step_by(2).for_each(|l| *l = f32::NEG_INFINITY);
        if self.left == 0 { Err("six are enough".into()) } else { Ok(()) }
    }
    fn chosen(&mut self, token: u32) -> Result<(), String> {
        assert_eq!(token % 2, 0);
        self.left -= 1;
        Ok(())
    }
}

#[test]
fn rules_are_kept_and_fail_alone() {
    let engine = Engine::start(model(KvElement::F16, 2, 2 * CONTEXT)).expect("starts");
    let want = alone(engine.model(), &text(0, 40), 30, 2);
    let (_, beside) = submit(&engine, job(&text(0, 40), 30, 2));
    let (_, events) = submit(&engine, Job { guide: Some(Box::new(Even { left: 6 })), ..job(&text(1, 40), 30, 2) });
    let mut tokens = Vec::new();
    let why = loop {
        match events.recv().expect("an event") {
            Event::Token(t) => tokens.push(t.token),
            Event::Failed(e) => break e,
            Event::Prompt { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(tokens.len() == 6 && why.to_string().contains("six are enough"), "{tokens:?} {why}");
    assert_eq!(result(&beside).0, want);
}
