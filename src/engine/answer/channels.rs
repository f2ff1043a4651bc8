//! Answers in channels (harmony, as gpt-oss writes them): what is thought, what is said and what is called, each a message with a header.
//!
//! `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...`; a call is
//! `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`.

/// What opens a header behind the one who speaks.
pub const CHANNEL: &str = "<|channel|>";
/// What ends a header.
pub const MESSAGE: &str = "<|message|>";
/// What says in what form a message is.
pub const CONSTRAIN: &str = "<|constrain|>";
/// What ends a message: the first are tokens that end an answer, too, and are not shown then.
pub const ENDS: [&str; 4] = ["<|return|>", "<|call|>", "<|end|>", "<|start|>"];
/// What a prompt ends with that asks for an answer in channels.
const ASKS: &str = "<|start|>assistant";

/// Where an answer to a prompt begins, where it is one in channels.
pub enum Begins {
    /// In a header.
    Header,
    /// In what is said: the prompt has begun it.
    Message,
}

/// How an answer to a prompt begins; `None` where it has no channels.
pub fn begins(prompt: &str) -> Option<Begins> {
    match prompt.rsplit_once(ASKS)? {
        (_, "") => Some(Begins::Header),
        (_, rest) if rest.contains(MESSAGE) && !ENDS.iter().any(|end| rest.contains(end)) => Some(Begins::Message),
        _ => None,
    }
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A thought.
    Analysis,
    /// What is meant for who asked.
    Final,
    /// A call of a function.
    Call(String),
}

/// What follows a header.
pub fn kind(header: &str) -> Kind {
    // A name ends at a space or at the next mark.
    let to = header.split_once("to=").and_then(|(_, to)| to.trim_start().split([' ', '\n', '<']).next());
    if let Some(name) = to.filter(|name| !name.is_empty()) {
        return Kind::Call(name.strip_prefix("functions.").unwrap_or(name).to_string());
    }
    let channel = header.rsplit_once(CHANNEL).map_or("", |(_, channel)| channel);
    if channel.trim_start().starts_with("analysis") { Kind::Analysis } else { Kind::Final }
}
