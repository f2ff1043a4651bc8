//! A sampler of one's own: the logits of what comes next, and a rule that no flag has. Here no token may come twice
//! within eight.
//!
//!     cargo run --release --example custom_sampler
use ram_run::{Checkpoint, Error, Limit, Model, Request, Sampling, plan};

fn main() -> Result<(), Error> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe").as_ref())?;
    let request = Request { limit: Limit::Weights(7_000_000), ..Request::default() };
    let model = Model::load(&checkpoint, &plan(&checkpoint, &request, &|_| ())?, &|_| ())?;

    let mut session = model.session(Sampling::default())?;
    session.prompt(&model.tokenizer.encode("The river", true)?)?;
    for _ in 0..30 {
        let recent = session.tokens()[session.tokens().len().saturating_sub(8)..].to_vec();
        let logits = model.logits(&mut session)?;
        let allowed = logits.iter().zip(0u32..).filter(|(_, token)| !recent.contains(token));
        let Some((_, token)) = allowed.max_by(|a, b| a.0.total_cmp(b.0)) else { break };
        if model.tokenizer.eos.contains(&token) {
            break;
        }
        session.push(token);
    }
    println!("{}", model.tokenizer.decode(session.tokens())?);
    Ok(())
}
