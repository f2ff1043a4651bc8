//! Conversations as text, by the model's own Jinja template.
mod apart;
mod conversation;
mod tojson;

use crate::Error;
pub use conversation::{Conversation, Message};
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde};
use regex::Regex;
use std::{borrow::Cow, sync::LazyLock};

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

    /// The conversation as the model wants it, ending where its answer begins, or goes on.
    ///
    /// What a template does is bounded, but not how deep its values are, nor what it takes to print or compare them: one that
    /// means harm can end the process. [`Template::render_apart`] is for those.
    ///
    /// # Errors
    /// [`Error::Template`] where the template is none, raises, or does not end.
    pub fn render(&self, conversation: &Conversation, bos: &str, eos: &str) -> Result<String, Error> {
        if self.text.len() > LONGEST {
            return Err(Error::Template(format!("it has {} bytes: {LONGEST} are read at most", self.text.len())));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::Template(e.to_string()))?);
        env.set_fuel(Some(FUEL + conversation.bytes() as u64));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let raise = |message: String| -> Result<String, minijinja::Error> { Err(minijinja::Error::new(ErrorKind::InvalidOperation, message)) };
        env.add_filter("tojson", tojson::tojson);
        // As Python has it: what is none has nothing to go through.
        env.add_test("iterable", |value: &Value| !value.is_none() && minijinja::tests::is_iterable(value));
        env.add_function("raise_exception", raise);
        env.add_function("strftime_now", strftime_now);
        let sentence = |e: minijinja::Error| match e.kind() {
            ErrorKind::OutOfFuel => Error::Template("it does not come to an end".into()),
            _ => Error::Template(e.detail().map_or_else(|| e.to_string(), String::from)),
        };
        let text = untracked(&self.text);
        env.add_template("chat", &text).map_err(sentence)?;
        let chat = env.get_template("chat").map_err(sentence)?;
        let Conversation { messages, tools, variables, continues } = conversation;
        // None and not undefined, as transformers has it: templates ask for both.
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let own = context! { messages => Serde(messages), tools, bos_token => bos, eos_token => eos, add_generation_prompt => !continues };
        let text = chat.render(context! { ..own, ..Value::from(Serde(variables)) }).map_err(sentence)?;
        if *continues { within_last(text, messages) } else { Ok(text) }
    }
}

/// A template without what marks a model's own words for training (transformers' `generation` blocks): they are written as they stand there.
fn untracked(text: &str) -> Cow<'_, str> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("an expression"));
    TAG.replace_all(text, |tag: &regex::Captures| {
        let what = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {what} {}%}}", &tag[1], &tag[3])
    })
}

/// The text up to the end of what the last message says: what a template writes after it would end it.
fn within_last(mut text: String, messages: &[serde_json::Value]) -> Result<String, Error> {
    let last = messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default();
    // Many templates trim what they are given.
    let end = [last, last.trim()].iter().find_map(|said| text.rfind(said).map(|at| at + said.len()));
    let end = end.ok_or_else(|| Error::Template("it does not write the last message as it is, so that message cannot go on".into()))?;
    text.truncate(end);
    Ok(text)
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
        let conversation = Conversation::new(&[Message::new("user", " Hello ")], false);
        Template::new(text.into()).render(&conversation, "<s>", "</s>")
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
    fn tools_are_written_as_python_writes_them() {
        let line = r#"{"type": "function", "function": {"name": "f", "description": "<b> & 'é'", "parameters": {"a": [1, 2.5, null], "b": {}}}}"#;
        let said =
            |text: &str, tools: Vec<serde_json::Value>| Template::new(text.into()).render(&Conversation { tools, ..Conversation::default() }, "", "");
        let tool = serde_json::from_str(line).expect("JSON");
        assert_eq!(said("{% for t in tools %}{{ t | tojson }}{% endfor %}", vec![tool]).expect("renders"), line);
        let lines = "{\n    \"x\": [\n        1\n    ]\n}";
        assert_eq!(said("{{ {'x': [1]} | tojson(indent=4) }}", vec![]).expect("renders"), lines);
        assert_eq!(said("{{ tools is none }}{% if tools %}x{% endif %}", vec![]).expect("renders"), "True");
        assert_eq!(said("{% if tools is iterable and tools | length > 0 %}x{% endif %}.", vec![]).expect("renders"), ".");
        let escaped = r#"{{ {"a": "é, 😀"} | tojson(ensure_ascii=True) }}"#;
        assert_eq!(said(escaped, vec![]).expect("renders"), r#"{"a": "\u00e9, \ud83d\ude00"}"#);
    }

    /// What marks a model's words for training changes nothing but the space around it that it says to strip.
    #[test]
    fn words_of_the_model_are_not_tracked() {
        let text = "{% for m in messages %}\n  [\n  {%- generation -%}\n {{ m.content }} {% endgeneration %}\n]{% endfor %}";
        assert_eq!(render(text).expect("renders"), "  [ Hello  ]");
    }

    #[test]
    fn a_message_goes_on_where_it_stops() {
        let text = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        let mut conversation = Conversation::new(&[Message::new("user", "a"), Message::new("assistant", " One, two, ")], false);
        conversation.continues = true;
        let said = |text: &str| Template::new(text.into()).render(&conversation, "", "");
        assert_eq!(said(text).expect("renders"), "[user]a</s>[assistant]One, two,");
        assert!(said("{{ messages|length }}").is_err());
    }

    #[test]
    fn templates_know_the_date() {
        let year = render("{{ strftime_now('%Y') }}").expect("renders");
        assert!(year.parse::<u32>().is_ok_and(|y| y >= 2025), "{year}");
        assert!(render("{{ strftime_now('%Q%!') }}").is_err());
    }
}
