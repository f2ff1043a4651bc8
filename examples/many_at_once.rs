//! Several texts at once in a program: an engine that computes them in batches, in as much memory as the plan says.
//!
//!     cargo run --release --example many_at_once
use ram_run::{Checkpoint, Engine, Error, Event, Job, Limit, Model, Request, Sampling, plan};
use std::sync::{Arc, mpsc::channel};

fn main() -> Result<(), Error> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe").as_ref())?;
    // Three at once, in the memory of two whole contexts: beginnings that they have in common are computed once.
    let request = Request { limit: Limit::Weights(7_000_000), context: Some(512), sequences: 3, kv_tokens: Some(1024), ..Request::default() };
    let plan = plan(&checkpoint, &request, &|_| ())?;
    let engine = Engine::start(Arc::new(Model::load(&checkpoint, &plan, &|_| ())?))?;

    let (send, events) = channel();
    for (n, text) in ["The river flows", "The river flows through", "A town in the"].iter().enumerate() {
        let prompt = engine.model().tokenizer.encode(text, true)?;
        let send = send.clone();
        // Called from the engine's thread: it passes on and does not wait.
        engine.submit(Job::new(prompt, 12, Sampling::default()), Box::new(move |event| send.send((n, event)).is_ok()))?;
    }
    drop(send);
    let mut answers = vec![Vec::new(); 3];
    for (n, event) in events {
        match event {
            Event::Token(chosen) => answers[n].push(chosen.token),
            Event::End(done) => println!("{n}: {:?} ({} of its prompt were there)", engine.model().tokenizer.decode(&answers[n])?, done.cached),
            Event::Failed(e) => return Err(e),
            Event::Prompt { .. } | Event::Scores(_) => {}
        }
    }
    println!("{} tokens in {} passes", engine.status().generated_tokens, engine.status().passes);
    Ok(())
}
