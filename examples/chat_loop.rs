//! A conversation in a program: the model's own template, and a KV cache that only sees what is new.
//!
//!     cargo run --release --example chat_loop
use ram_run::{Checkpoint, Error, Limit, Message, Model, Request, Sampling, Template, plan};

fn main() -> Result<(), Error> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe").as_ref())?;
    let request = Request { limit: Limit::Weights(7_000_000), ..Request::default() };
    let plan = plan(&checkpoint, &request, &|_| ())?;
    let model = Model::load(&checkpoint, &plan, &|_| ())?;
    let tokenizer = &model.tokenizer;
    let template = Template::new(tokenizer.chat_template.clone().ok_or_else(|| Error::Template("this model has none".into()))?);

    let (mut messages, mut cache, mut held) = (Vec::new(), model.cache(), Vec::new());
    for question in ["What is a river ?", "And a town ?"] {
        messages.push(Message::new("user", question));
        let text = template.render(&messages, &tokenizer.bos_text, &tokenizer.eos_text, true)?;
        let tokens = tokenizer.encode(&text, false)?;
        // What both have in common is not computed again.
        cache.truncate(tokens.iter().zip(&held).take_while(|(a, b)| a == b).count());
        let mut generator = model.generate(&mut cache, tokens.clone(), Sampling::default(), 40)?;
        let mut decoder = tokenizer.stream(&tokens);
        let mut answer = String::new();
        for token in &mut generator {
            answer += &decoder.push(token?)?;
        }
        answer += &decoder.finish()?;
        held = generator.tokens().to_vec();
        println!("{question}\n{answer}\n");
        messages.push(Message::new("assistant", &answer));
    }
    Ok(())
}
