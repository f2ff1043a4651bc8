//! A conversation in a program: the model's own template, and a session that computes only what is new.
//!
//!     cargo run --release --example chat_loop
use ram_run::{Checkpoint, Conversation, Error, Limit, Message, Model, Request, Sampling, Template, plan};

fn main() -> Result<(), Error> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe").as_ref())?;
    let request = Request { limit: Limit::Weights(7_000_000), ..Request::default() };
    let plan = plan(&checkpoint, &request, &|_| ())?;
    let model = Model::load(&checkpoint, &plan, &|_| ())?;
    let tokenizer = &model.tokenizer;
    let template = Template::new(tokenizer.chat_template.clone().ok_or_else(|| Error::Template("this model has none".into()))?);

    let (mut messages, mut session) = (Vec::new(), model.session(Sampling::default())?);
    for question in ["What is a river ?", "And a town ?"] {
        messages.push(Message::new("user", question));
        let text = template.render(&Conversation::new(&messages, true), &tokenizer.bos_text, &tokenizer.eos_text)?;
        // What it has in common with the text before is not computed again.
        session.prompt(&tokenizer.encode(&text, false)?)?;
        let mut decoder = tokenizer.stream(session.tokens());
        let mut answer = String::new();
        for token in model.generate(&mut session, 40) {
            answer += &decoder.push(token?)?;
        }
        answer += &decoder.finish()?;
        println!("{question}\n{answer}\n");
        messages.push(Message::new("assistant", &answer));
    }
    Ok(())
}
