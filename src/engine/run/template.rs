//! Conversations as text, by the model's own Jinja template.
mod apart;

use crate::Error;
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Message {
    /// system, user or assistant.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A chat template.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
}

/// Bytes of a template at most; the longest published ones have some 50 kB.
const LONGEST: usize = 1 << 20;
/// Steps that a template may take besides one per byte of the conversation; real ones take some hundreds per message.
const FUEL: u64 = 10_000_000;

impl Template {
    /// The template that `text` is; whether it is one shows when it is used.
    pub fn new(text: String) -> Template {
        Template { text }
    }

    /// The conversation as the model wants it, ending where its answer begins. `think` is what Qwen3's template calls
    /// `enable_thinking`.
    ///
    /// What a template does is bounded, but not how deep its values are, nor what it takes to print or compare them: one that
    /// means harm can end the process. [`Template::render_apart`] is for those.
    ///
    /// # Errors
    /// [`Error::Template`] where the template is none, raises, or does not end.
    pub fn render(&self, messages: &[Message], bos: &str, eos: &str, think: bool) -> Result<String, Error> {
        if self.text.len() > LONGEST {
            return Err(Error::Template(format!("it has {} bytes: {LONGEST} are read at most", self.text.len())));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::Template(e.to_string()))?);
        env.set_fuel(Some(FUEL + conversation_bytes(messages) as u64));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let raise = |message: String| -> Result<String, minijinja::Error> { Err(minijinja::Error::new(ErrorKind::InvalidOperation, message)) };
        env.add_function("raise_exception", raise);
        env.add_function("strftime_now", strftime_now);
        let sentence = |e: minijinja::Error| match e.kind() {
            ErrorKind::OutOfFuel => Error::Template("it does not come to an end".into()),
            _ => Error::Template(e.detail().map_or_else(|| e.to_string(), String::from)),
        };
        env.add_template("chat", &self.text).map_err(sentence)?;
        let chat = env.get_template("chat").map_err(sentence)?;
        let turn = |m: &Message| Value::from_pairs([("role", &m.role), ("content", &m.content)].map(|(k, v)| (k, Value::from(v.as_str()))));
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let context = context! { messages => turns, bos_token => bos, eos_token => eos, add_generation_prompt => true, enable_thinking => think };
        chat.render(context).map_err(sentence)
    }
}

/// Bytes of a message besides its words.
const MESSAGE: usize = 64;

/// Bytes of a conversation, which what a template may take depends on.
pub fn conversation_bytes(messages: &[Message]) -> usize {
    messages.iter().map(|m| m.role.len() + m.content.len() + MESSAGE).sum()
}

/// The local time, as C's strftime writes it.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut out = String::new();
    let written = std::fmt::Write::write_fmt(&mut out, format_args!("{}", chrono::Local::now().format(format)));
    written.map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot write '{format}'")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, Error> {
        let messages = [Message::new("user", " Hello ")];
        Template::new(text.into()).render(&messages, "<s>", "</s>", false)
    }

    #[test]
    fn templates_render_and_fail_with_a_sentence() {
        let text = "{{ bos_token }}{% for m in messages %}\n[{{ m['role'] }}]{{ m.content.strip() }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        assert_eq!(render(text).expect("renders"), "<s>[user]Hello\n>");
        assert_eq!(render("{% if not enable_thinking %}{% if tools %}x{% endif %}no{% endif %}").expect("renders"), "no");
        let raised = render("{{ raise_exception('no system here') }}").expect_err("raises").to_string();
        assert_eq!(raised, "chat template: no system here");
        assert!(render("{% for").is_err());
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(endless).expect_err("stops").to_string().contains("end"));
    }

    #[test]
    fn templates_know_the_date() {
        let year = render("{{ strftime_now('%Y') }}").expect("renders");
        assert!(year.parse::<u32>().is_ok_and(|y| y >= 2025), "{year}");
        assert!(render("{{ strftime_now('%Q%!') }}").is_err());
    }
}
