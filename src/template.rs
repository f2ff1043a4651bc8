//! Conversations as text, by the model's own Jinja template.
use crate::Error;
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;

/// One turn of a conversation.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Message {
    /// system, user or assistant.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Steps that a template may take; real ones take some hundreds per message.
const FUEL: u64 = 10_000_000;

/// The conversation as the model wants it, ending where its answer begins.
///
/// # Errors
/// [`Error::Template`] where the template is none, raises, or does not end.
pub fn render(template: &str, messages: &[Message], bos: &str, eos: &str) -> Result<String, Error> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let raise = |message: String| -> Result<String, minijinja::Error> { Err(minijinja::Error::new(ErrorKind::InvalidOperation, message)) };
    env.add_function("raise_exception", raise);
    let sentence = |e: minijinja::Error| match e.kind() {
        ErrorKind::OutOfFuel => Error::Template("it does not come to an end".into()),
        _ => Error::Template(e.detail().map_or_else(|| e.to_string(), String::from)),
    };
    env.add_template("chat", template).map_err(sentence)?;
    let chat = env.get_template("chat").map_err(sentence)?;
    chat.render(context! { messages, bos_token => bos, eos_token => eos, add_generation_prompt => true }).map_err(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        vec![Message { role: "user".into(), content: " Hello ".into() }]
    }

    #[test]
    fn templates_render_and_fail_with_a_sentence() {
        let text = "{{ bos_token }}{% for m in messages %}\n[{{ m['role'] }}]{{ m.content.strip() }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        assert_eq!(render(text, &messages(), "<s>", "</s>").expect("renders"), "<s>[user]Hello\n>");
        let raised = render("{{ raise_exception('no system here') }}", &messages(), "", "").expect_err("raises").to_string();
        assert_eq!(raised, "chat template: no system here");
        assert!(render("{% for", &messages(), "", "").is_err());
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(endless, &messages(), "", "").expect_err("stops").to_string().contains("end"));
    }
}
