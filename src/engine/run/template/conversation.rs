//! What a chat template is given: messages, tools, and variables of its own.
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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

/// What a template makes a text of, as transformers' `apply_chat_template` has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// Objects with `role` and `content`, and whatever else templates know: `tool_calls`, `tool_call_id`, `reasoning_content`.
    pub messages: Vec<Value>,
    /// Functions that may be called, as their authors describe them; a template is told of none where there are none.
    pub tools: Vec<Value>,
    /// Other variables: `enable_thinking` is what Qwen3's template asks for.
    pub variables: Map<String, Value>,
    /// Whether the text ends within the last message, which goes on, and not where an answer to it begins.
    pub continues: bool,
}

/// Bytes of a value besides its words.
const VALUE: usize = 64;

fn bytes(value: &Value) -> usize {
    VALUE
        + match value {
            Value::String(s) => s.len(),
            Value::Array(all) => all.iter().map(bytes).sum(),
            Value::Object(all) => all.iter().map(|(key, value)| key.len() + bytes(value)).sum(),
            _ => 0,
        }
}

impl Conversation {
    /// Messages, and whether the model may think before it answers.
    pub fn new(messages: &[Message], think: bool) -> Conversation {
        let message = |m: &Message| {
            let pairs = [("role", &m.role), ("content", &m.content)].map(|(key, text)| (key.to_string(), Value::from(text.as_str())));
            Value::Object(pairs.into_iter().collect())
        };
        let variables = [("enable_thinking".to_string(), Value::Bool(think))].into_iter().collect();
        Conversation { messages: messages.iter().map(message).collect(), tools: Vec::new(), variables, continues: false }
    }

    /// Its size, which what a template may take depends on: bytes of all words, and some for every value.
    pub fn bytes(&self) -> usize {
        self.messages.iter().chain(&self.tools).chain(self.variables.values()).map(bytes).sum()
    }
}
