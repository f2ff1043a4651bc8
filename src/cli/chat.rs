//! `ram-run chat`: a conversation through the model's own template.
mod command;
mod input;
mod typing;

use super::{
    args::{Args, ChatArgs, Overflow, Think},
    escape, generate, open, output, plan, print, print_pale, prompt,
};
use crate::cli::{Error, note, note_pale, renderer};
use command::{Command, Settings};
use input::Input;
use ram_run::{Answer, Cancel, Conversation as Talk, Message, Model, Part, Sampling, Session, Template, files};
use std::{io::IsTerminal, path::Path, sync::LazyLock};

/// Ctrl-C: the answer that is computed ends.
static INTERRUPTED: LazyLock<Cancel> = LazyLock::new(Cancel::default);

/// Bytes per token of context that a conversation may have: texts have 2 to 6.
const PER_TOKEN: usize = 16;

/// Bytes of a conversation that may fit `context` tokens; memory is kept for rendering so many.
fn most_bytes(context: usize) -> usize {
    context.saturating_mul(PER_TOKEN)
}

/// For /stats, before there is one to tell of.
const NO_ANSWER: &str = "none";

/// A conversation and what it is computed with.
struct Conversation {
    model: Model,
    template: Template,
    session: Session,
    messages: Vec<Message>,
    settings: Settings,
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
        Some(path) => Template::new(files::text(path, 1 << 20)?),
        None => Template::new(tokenizer.chat_template.clone().ok_or_else(|| {
            let folder = checkpoint.folder().display();
            Error::from(ram_run::Error::Template(format!("{folder} has none: use generate, an -Instruct model, or --chat-template FILE")))
        })?),
    };
    let mut request = open::request(args)?;
    request.reserved = Template::rendering_bytes(most_bytes(request.context_for(checkpoint.description())));
    let plan = open::planned(args, &checkpoint, request)?;
    let model = open::model(args, &checkpoint, &plan)?;
    let sampling = a.sampling.over(&Sampling::published(checkpoint.folder())?);
    let mut session = model.session(sampling.clone())?;
    session.cancelled_by(INTERRUPTED.clone());
    let mut conversation = Conversation {
        session,
        template,
        messages: a.system.iter().map(|s| Message::new("system", s)).collect(),
        settings: Settings { sampling, max_tokens: a.sampling.max_tokens, think: a.think, stats: !args.quiet },
        overflow: a.overflow,
        answers: 0,
        summary: NO_ANSWER.into(),
        model,
    };
    let mut input = Input::open(prompt::most(plan.context))?;
    if input.is_terminal() && !args.quiet {
        note(&format!("{:.2} bits per weight, context {} tokens. /help lists commands.", plan.bits_per_weight, plan.context));
    }
    let _ = ctrlc::set_handler(|| INTERRUPTED.cancel());
    loop {
        INTERRUPTED.renew();
        let Some(line) = input.message()? else { break };
        if !input.edits() {
            // What came while it waited for a line is not meant for the answer.
            INTERRUPTED.renew();
        }
        let before = conversation.messages.clone();
        match conversation.turn(&mut input, &line) {
            Ok(true) => {}
            Ok(false) => break,
            // A person can do something about it and goes on where it was; a script must not miss it.
            Err(e) if input.is_terminal() && !e.is_broken_pipe() => {
                conversation.messages = before;
                note(&e.to_string());
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Conversation {
    /// Does what a line asks for; whether the conversation goes on.
    fn turn(&mut self, input: &mut Input, line: &str) -> Result<bool, Error> {
        match command::parse(line)? {
            None if line.trim().is_empty() => {}
            None => self.say(line)?,
            Some(Command::Exit) => return Ok(false),
            Some(Command::Edit(text)) if text.is_empty() && input.is_terminal() => {
                let last = self.messages.iter().rfind(|m| m.role == "user").ok_or_else(no_message)?;
                match input.edited(&escape::clean(&last.content))?.filter(|text| !text.trim().is_empty()) {
                    None => note("the message stays as it was"),
                    Some(text) if matches!(command::parse(&text), Ok(None)) => self.obey(Command::Edit(text))?,
                    Some(command) => return self.turn(input, &command),
                }
            }
            Some(command) => self.obey(command)?,
        }
        Ok(true)
    }

    /// Does what a command says, and says so.
    fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Help => note(command::HELP.trim_end()),
            Command::System(text) => {
                self.messages.retain(|m| m.role != "system");
                if text.is_empty() {
                    note("there is no system message now");
                } else {
                    self.messages.insert(0, Message::new("system", &text));
                    note("the system message is set");
                }
            }
            Command::Clear => {
                self.messages.retain(|m| m.role == "system");
                self.summary = NO_ANSWER.into();
                note(if self.messages.is_empty() {
                    "the conversation is forgotten"
                } else {
                    "the conversation is forgotten, the system message stays"
                });
            }
            Command::Undo => {
                let text = self.take_back()?;
                let line = text.lines().next().unwrap_or_default();
                let rest = if line.chars().count() > 60 || line.len() < text.len() { " ..." } else { "" };
                note(&format!("taken back: {}{rest}", line.chars().take(60).collect::<String>()));
            }
            Command::Retry => {
                let last = self.take_back()?;
                self.say(&last)?;
            }
            Command::Edit(text) if text.is_empty() => return Err(Error::Usage("/edit needs a text".into())),
            Command::Edit(text) => {
                self.take_back()?;
                self.say(&text)?;
            }
            Command::Stats => {
                // Counted anew: what the cache holds may belong to what was taken back or forgotten.
                let text = if self.messages.iter().any(|m| m.role == "user") { self.text()? } else { Ok(String::new()) };
                let held = text.map_or_else(Ok, |text| self.model.tokenizer.encode(&text, false).map(|tokens| tokens.len().to_string()))?;
                let (messages, context) = (self.messages.len(), self.session.capacity());
                note(&format!("{messages} messages, {held} of {context} tokens of context; last answer: {}", self.summary));
            }
            Command::Set(name, value) => {
                self.settings.set(&name, &value)?;
                note(&format!("{name} is {value}"));
            }
            Command::Save { path, replace } => {
                if !replace && path.is_file() {
                    return Err(Error::Usage(format!("/save {0}: that file exists; /save! {0} replaces it", path.display())));
                }
                let json = serde_json::to_string_pretty(&self.messages).map_err(|e| Error::Failed(e.to_string()))?;
                output::write(&path, &(json + "\n"))?;
                note(&format!("saved {} messages in {}", self.messages.len(), path.display()));
            }
            Command::Load(path) => {
                self.messages = load(&path, prompt::most(self.session.capacity()))?;
                self.summary = NO_ANSWER.into();
                note(&format!("loaded {} messages from {}", self.messages.len(), path.display()));
            }
            Command::Plan => note(plan::table(&self.model.plan).trim_end()),
            Command::Exit => {}
        }
        Ok(())
    }

    /// Removes the last message of the user and what came after it.
    fn take_back(&mut self) -> Result<String, Error> {
        let at = self.messages.iter().rposition(|m| m.role == "user").ok_or_else(no_message)?;
        Ok(self.messages.drain(at..).next().map_or_else(String::new, |m| m.content))
    }

    /// Adds a message and streams the answer.
    fn say(&mut self, text: &str) -> Result<(), Error> {
        self.messages.push(Message::new("user", text));
        self.answer()
    }

    /// The conversation as the template writes it, or why it is too long for that.
    fn text(&self) -> Result<Result<String, String>, Error> {
        let talk = Talk::new(&self.messages, self.settings.think != Think::Off);
        let bytes = talk.bytes();
        if bytes > most_bytes(self.session.capacity()) {
            return Ok(Err(format!("{bytes} bytes")));
        }
        let t = &self.model.tokenizer;
        Ok(Ok(self.template.render_apart(renderer(), &talk, &t.bos_text, &t.eos_text)?))
    }

    /// The conversation as tokens, with the text it ends with; what does not fit is dropped or refused.
    fn prompt(&mut self) -> Result<(String, Vec<u32>), Error> {
        loop {
            let capacity = self.session.capacity();
            // Sliding leaves room for an answer too: a quarter of the context, or what an answer may have.
            let slides = self.overflow == Overflow::Slide;
            let room = if slides { self.settings.max_tokens.min(capacity / 4) } else { 1 };
            let length = match self.text()? {
                Err(length) => length,
                // The template writes special tokens itself.
                Ok(text) => match self.model.tokenizer.encode_at_most(&text, false, capacity - room) {
                    Ok(tokens) => return Ok((text, tokens)),
                    Err(ram_run::Error::Context { tokens, .. }) => format!("at least {tokens} tokens"),
                    Err(e) => return Err(e.into()),
                },
            };
            let first = self.messages.iter().position(|m| m.role != "system").unwrap_or(0);
            let next = self.messages.iter().skip(first + 1).position(|m| m.role == "user").map(|n| first + 1 + n);
            match next {
                Some(next) if slides => drop(self.messages.drain(first..next)),
                _ => {
                    let advice =
                        if next.is_none() { "shorten the message or raise --ctx" } else { "/undo, /clear, --overflow slide or a larger --ctx" };
                    return Err(Error::Usage(format!("the conversation has {length}, the context {capacity} tokens: {advice}")));
                }
            }
        }
    }

    fn answer(&mut self) -> Result<(), Error> {
        let (text, tokens) = self.prompt()?;
        let mut sampling = self.settings.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(self.answers);
        self.answers += 1;
        self.session.sample_by(sampling)?;
        self.session.prompt(&tokens)?;
        let mut answer = Answer::to(&text);
        let think = self.settings.think;
        let mut said = String::new();
        let mut show = |part: Part| match part {
            Part::Thought(t) if think == Think::On => print_pale(&t),
            Part::Thought(_) => Ok(()),
            Part::Said(t) => {
                said.push_str(&t);
                print(&t)
            }
            // No tools are given.
            Part::Call(_) => Ok(()),
        };
        let most = self.settings.max_tokens;
        let streamed = generate::stream(&self.model, &mut self.session, most, &mut |piece| answer.push(piece).into_iter().try_for_each(&mut show));
        if let Err(e) = streamed {
            print("\n")?;
            return Err(e);
        }
        answer.finish().into_iter().try_for_each(&mut show)?;
        print("\n")?;
        self.summary = generate::summary(&self.model, &self.session.stats);
        let full = self.session.is_full();
        self.messages.push(Message::new("assistant", said.trim()));
        if self.settings.stats && std::io::stderr().is_terminal() {
            let full = if full { "; the context is full" } else { "" };
            note_pale(&format!("{}{full}", self.summary));
        }
        Ok(())
    }
}

fn no_message() -> Error {
    Error::Usage("there is no message yet".into())
}

/// A saved conversation.
fn load(path: &Path, most: usize) -> Result<Vec<Message>, Error> {
    let text = files::text(path, most as u64)?;
    let messages: Vec<Message> = serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is no conversation ({e})")))?;
    match messages.iter().find(|m| !["system", "user", "assistant", "tool"].contains(&&*m.role)) {
        Some(m) => Err(Error::file(path, format!("is no conversation (a message is by '{}')", m.role))),
        None => Ok(messages),
    }
}
