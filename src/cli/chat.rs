//! `ram-run chat`: a conversation through the model's own template.
mod command;
mod input;
mod thinking;

use super::{
    args::{Args, ChatArgs, Overflow, Think},
    generate, open, plan, print,
};
use crate::cli::Error;
use command::Command;
use input::Input;
use ram_run::{KvCache, Message, Model, Sampling, Template};
use std::{
    fs,
    io::IsTerminal,
    sync::atomic::{AtomicBool, Ordering},
};
use thinking::{Part, Thinking};

/// Set by Ctrl-C: the answer that streams ends.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A conversation and what it is computed with.
struct Session {
    model: Model,
    template: Template,
    cache: KvCache,
    /// Tokens that the cache holds.
    held: Vec<u32>,
    messages: Vec<Message>,
    sampling: Sampling,
    max_tokens: usize,
    think: Think,
    overflow: Overflow,
    /// Answers given, so that a retry is another one.
    answers: u64,
    summary: String,
}

/// Talks until the input ends or /exit.
pub fn run(args: &Args, a: &ChatArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let template = match &a.chat_template {
        Some(path) => Template::new(fs::read_to_string(path).map_err(Error::io(&path))?),
        None => Template::new(tokenizer.chat_template.clone().ok_or_else(|| {
            let folder = checkpoint.folder().display();
            Error::from(ram_run::Error::Template(format!("{folder} has none: use generate, an -Instruct model, or --chat-template FILE")))
        })?),
    };
    let plan = open::plan(&checkpoint, &open::request(args)?)?;
    let model = open::model(args, &checkpoint, &plan)?;
    let mut session = Session {
        cache: model.cache(),
        template,
        held: Vec::new(),
        messages: a.system.iter().map(|s| Message::new("system", s)).collect(),
        sampling: a.sampling.over(&Sampling::published(checkpoint.folder())?),
        max_tokens: a.sampling.max_tokens,
        think: a.think,
        overflow: a.overflow,
        answers: 0,
        summary: "no answer yet".into(),
        model,
    };
    let mut input = Input::open()?;
    if input.is_terminal() {
        eprintln!("{:.2} bits per weight, context {} tokens. /help lists commands.", plan.bits_per_weight, plan.context);
    }
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
    let mut prefilled = String::new();
    while let Some(line) = input.message(&std::mem::take(&mut prefilled))? {
        let done = match command::parse(&line) {
            Ok(None) if line.trim().is_empty() => Ok(()),
            Ok(None) => session.say(&line),
            Ok(Some(Command::Exit)) => break,
            Ok(Some(Command::Edit(text))) if text.is_empty() && input.is_terminal() => {
                prefilled = session.take_back().unwrap_or_default();
                Ok(())
            }
            Ok(Some(command)) => session.obey(command),
            Err(e) => Err(e),
        };
        match done {
            // A person can do something about it and goes on; a script must not miss it.
            Err(e) if input.is_terminal() && !e.is_broken_pipe() => eprintln!("{e}"),
            done => done?,
        }
    }
    Ok(())
}

impl Session {
    fn obey(&mut self, command: Command) -> Result<(), Error> {
        let nothing = || Error::Usage("there is no message yet".into());
        match command {
            Command::Help => eprint!("{}", command::HELP),
            Command::System(text) => {
                self.messages.retain(|m| m.role != "system");
                if !text.is_empty() {
                    self.messages.insert(0, Message::new("system", &text));
                }
            }
            Command::Clear => self.messages.retain(|m| m.role == "system"),
            Command::Undo => drop(self.take_back().ok_or_else(nothing)?),
            Command::Retry => {
                let last = self.take_back().ok_or_else(nothing)?;
                self.say(&last)?;
            }
            Command::Edit(text) => {
                self.take_back().ok_or_else(nothing)?;
                self.say(&text)?;
            }
            Command::Stats => {
                let (held, context) = (self.held.len(), self.cache.capacity());
                eprintln!("{} messages, {held} of {context} tokens of context; last answer: {}", self.messages.len(), self.summary);
            }
            Command::Set(name, value) => command::set(&name, &value, &mut self.sampling, &mut self.max_tokens, &mut self.think)?,
            Command::Save(path) => {
                let json = serde_json::to_string_pretty(&self.messages).map_err(|e| Error::Failed(e.to_string()))?;
                fs::write(&path, json + "\n").map_err(Error::io(path))?;
            }
            Command::Load(path) => {
                let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
                self.messages = serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is no conversation ({e})")))?;
            }
            Command::Plan => eprint!("{}", plan::table(&self.model.plan)),
            Command::Exit => {}
        }
        Ok(())
    }

    /// Removes the last message of the user and what came after it.
    fn take_back(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|m| m.role == "user")?;
        self.messages.drain(at..).next().map(|m| m.content)
    }

    /// Adds a message and streams the answer; a message that cannot be answered is taken back.
    fn say(&mut self, text: &str) -> Result<(), Error> {
        self.messages.push(Message::new("user", text));
        let answered = self.answer();
        if answered.is_err() {
            self.messages.pop();
        }
        answered
    }

    /// The conversation as tokens, with the text it ends with; what does not fit is dropped or refused.
    fn prompt(&mut self) -> Result<(String, Vec<u32>), Error> {
        loop {
            let t = &self.model.tokenizer;
            let text = self.template.render(&self.messages, &t.bos_text, &t.eos_text, self.think != Think::Off)?;
            // The template writes special tokens itself.
            let tokens = t.encode(&text, false)?;
            let capacity = self.cache.capacity();
            // Sliding leaves room for an answer too: a quarter of the context, or what an answer may have.
            let slides = self.overflow == Overflow::Slide;
            let room = if slides { self.max_tokens.min(capacity / 4) } else { 1 };
            if tokens.len() + room <= capacity {
                return Ok((text, tokens));
            }
            let first = self.messages.iter().position(|m| m.role != "system").unwrap_or(0);
            let next = self.messages.iter().skip(first + 1).position(|m| m.role == "user").map(|n| first + 1 + n);
            match next {
                Some(next) if slides => drop(self.messages.drain(first..next)),
                _ => {
                    let advice = if slides { "shorten the message or raise --ctx" } else { "/undo, /clear, --overflow slide or a larger --ctx" };
                    return Err(Error::Usage(format!("the conversation has {} tokens, the context {capacity}: {advice}", tokens.len())));
                }
            }
        }
    }

    fn answer(&mut self) -> Result<(), Error> {
        let (text, tokens) = self.prompt()?;
        let common = self.held.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        self.cache.truncate(common);
        self.held.truncate(common);
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(self.answers);
        self.answers += 1;
        INTERRUPTED.store(false, Ordering::Relaxed);
        let mut generator = self.model.generate(&mut self.cache, tokens.clone(), sampling, self.max_tokens)?;
        let mut thinking = Thinking::begun(&text);
        let (dim, think) = (std::io::stdout().is_terminal(), self.think);
        let mut said = String::new();
        let mut show = |part: Part| match part {
            Part::Thought(t) if think == Think::On && dim => print(&format!("\x1b[2m{t}\x1b[0m")),
            Part::Thought(t) if think == Think::On => print(&t),
            Part::Thought(_) => Ok(()),
            Part::Said(mut t) => {
                // A template ends a thought with empty lines.
                if said.is_empty() {
                    t = t.trim_start().to_string();
                }
                said.push_str(&t);
                print(&t)
            }
        };
        let stop = || INTERRUPTED.load(Ordering::Relaxed);
        let streamed =
            generate::stream(&self.model, &mut generator, &tokens, stop, &mut |piece| thinking.push(piece).into_iter().try_for_each(&mut show));
        streamed?;
        thinking.finish().map_or(Ok(()), &mut show)?;
        print("\n")?;
        self.summary = generate::summary(&self.model, &generator);
        let generated = generator.tokens().to_vec();
        let full = generated.len() > self.cache.capacity();
        self.held = generated;
        self.held.truncate(self.cache.len());
        self.messages.push(Message::new("assistant", said.trim()));
        if std::io::stderr().is_terminal() {
            let full = if full { "; the context is full" } else { "" };
            eprintln!("\x1b[2m{}{full}\x1b[0m", self.summary);
        }
        Ok(())
    }
}
