//! From what is asked to tokens, on threads that may wait: templates are strangers' programs, and long texts take their time.
use crate::{Ready, Shared, problem::Problem};
use ram_engine::{Conversation, Error};
use serde_json::Value;
use std::sync::Arc;

/// A prompt as the model gets it.
#[derive(Clone)]
pub struct Prompt {
    /// As text.
    pub text: String,
    /// As tokens.
    pub tokens: Vec<u32>,
}

/// Does what takes time elsewhere.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(e) => Err(Problem::fault(format!("A fault while the prompt was made: {e}"))),
    }
}

/// The text that the model's template makes of a conversation.
pub async fn rendered(shared: &Shared, ready: &Arc<Ready>, conversation: Conversation) -> Result<String, Problem> {
    let none = "This model has no chat template: ask /v1/completions, or start the server with --chat-template FILE";
    let template = ready.served.template.clone().ok_or_else(|| Problem::invalid("messages", none))?;
    let Ok(_turn) = shared.rendering.acquire().await else { return Err(Problem::unavailable("The server is about to end")) };
    let (tokenizer, renderer) = (ready.tokenizer.clone(), shared.options.renderer);
    apart(move || {
        let render = |conversation: &Conversation| template.render_apart(renderer(), conversation, &tokenizer.bos_text, &tokenizer.eos_text);
        match (render(&conversation), without_system(&conversation)) {
            // Some templates know no system message: then it is the beginning of the first that the user says.
            (Err(Error::Template(why)), Some(other)) => render(&other).map_err(|_| Error::Template(why)),
            (done, _) => done,
        }
    })
    .await
}

/// The same as tokens.
pub async fn of_conversation(shared: &Shared, ready: &Arc<Ready>, conversation: Conversation) -> Result<Prompt, Problem> {
    let text = rendered(shared, ready, conversation).await?;
    // The template writes special tokens itself.
    of_text(ready, text, false).await
}

/// A text as it is, with BOS in front if `special` and the tokenizer is made to.
pub async fn of_text(ready: &Arc<Ready>, text: String, special: bool) -> Result<Prompt, Problem> {
    let (tokenizer, context) = (ready.tokenizer.clone(), ready.served.engine.model().plan.context);
    apart(move || {
        let tokens = tokenizer.encode_at_most(&text, special, context)?;
        Ok(Prompt { text, tokens })
    })
    .await
}

/// How models are told of a text with a hole in it: the tokens before what comes first, before what comes after the hole, and before what is wanted
/// (as Qwen's coders, StarCoder and DeepSeek were trained; in this order, prefix, suffix, middle: <https://arxiv.org/abs/2207.14255>).
const HOLES: [[&str; 3]; 3] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
];

/// What is asked of a model that is to write what stands between two texts.
pub fn with_hole(ready: &Ready, prefix: &str, suffix: &str) -> Result<String, Problem> {
    let known = |marks: &&[&str; 3]| marks.iter().all(|mark| ready.tokenizer.token(mark).is_some());
    let none =
        "This model has no tokens for a text with a hole (<|fim_prefix|> and the like): leave suffix out, or serve one that was trained for it";
    let [first, second, third] = HOLES.iter().find(known).ok_or_else(|| Problem::invalid("suffix", none))?;
    Ok(format!("{first}{prefix}{second}{suffix}{third}"))
}

/// The conversation with its system message as the beginning of the first message of the user's.
fn without_system(conversation: &Conversation) -> Option<Conversation> {
    let first = conversation.messages.first().filter(|m| m["role"] == "system")?["content"].as_str()?;
    let mut messages = conversation.messages[1..].to_vec();
    let user = messages.iter_mut().find(|m| m["role"] == "user")?;
    let said = user["content"].as_str()?;
    user["content"] = Value::from(format!("{first}\n\n{said}"));
    Some(Conversation { messages, ..conversation.clone() })
}
