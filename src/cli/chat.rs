//! `ram-run chat`: a conversation through the model's own template.
use super::{
    args::{Args, ChatArgs},
    generate, open, print,
};
use ram_run::{Error, Message, render};
use std::io::{BufRead, IsTerminal};

/// Talks until the input ends or /exit.
pub fn run(args: &Args, a: &ChatArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let folder = checkpoint.folder().display();
    let none = || Error::Template(format!("{folder} has none (chat_template in tokenizer_config.json): use generate, or an -Instruct model"));
    let template = tokenizer.chat_template.clone().ok_or_else(none)?;
    let mut messages: Vec<Message> = Vec::new();
    messages.extend(a.system.iter().map(|s| message("system", s)));
    let plan = open::plan(&checkpoint, &args.request()?)?;
    let model = open::model(&checkpoint, &plan)?;
    let mut cache = model.cache();
    let mut held: Vec<u32> = Vec::new();
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("{:.2} bits per weight. /exit or Ctrl-D ends.", plan.bits_per_weight);
    }
    for (turn, line) in lines(terminal).enumerate() {
        let line = line?;
        match line.trim() {
            "" => continue,
            "/exit" => break,
            _ => messages.push(message("user", &line)),
        }
        let text = render(&template, &messages, &model.tokenizer.bos_text, &model.tokenizer.eos_text)?;
        // The template writes special tokens itself.
        let tokens = model.tokenizer.encode(&text, false)?;
        let common = held.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        cache.truncate(common);
        let mut sampling = a.sampling.sampling();
        sampling.seed = sampling.seed.wrapping_add(turn as u64);
        let mut generator = model.generate(&mut cache, tokens.clone(), sampling, a.sampling.max_tokens)?;
        let answer = generate::stream(&model, &mut generator, &tokens, true)?;
        print("\n")?;
        if terminal {
            eprintln!("\x1b[2m{}\x1b[0m", generate::summary(&model, &generator));
        }
        held = generator.tokens().to_vec();
        held.truncate(cache.len());
        messages.push(message("assistant", answer.trim()));
    }
    Ok(())
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

/// Lines of stdin, with a prompt on a terminal.
fn lines(terminal: bool) -> impl Iterator<Item = Result<String, Error>> {
    std::iter::from_fn(move || {
        if terminal {
            eprint!("> ");
        }
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line.trim_end_matches(['\n', '\r']).to_string())),
            Err(source) => Some(Err(Error::Io { path: "stdin".into(), source })),
        }
    })
}
