//! Answers that keep to a form: JSON of a schema, a call of a function. What may come next is for the llguidance crate to say.
use crate::problem::Problem;
pub use llguidance::Matcher;
use llguidance::{
    ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie},
};
use ram_engine::{Calls, Guide, Tokenizer};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// Bytes of a schema, and how deep it may be.
const SCHEMA: usize = 64 << 10;
const DEPTH: usize = 64;
/// States of a lexer, of up to 2 kB each.
const STATES: usize = 2000;
/// Memory that one answer's rules may take.
pub const BYTES: u64 = 2 * 1024 * STATES as u64;
/// A form that an answer has to keep to.
pub enum Form {
    /// JSON of a schema.
    Json(Value),
    /// A call of one of these functions; of several, one after the other, where that is allowed.
    Calls(Calls, Vec<Value>, bool),
}

/// How thoughts begin and end, and how long they may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thoughts {
    /// Whether the prompt has begun one.
    pub begun: bool,
    /// The tokens that begin and end one, where there are such and the model may think.
    pub marks: Option<(u32, u32)>,
    /// Tokens of one at the most.
    pub most: Option<usize>,
}

/// Makes rules for one vocabulary.
#[derive(Default)]
pub struct Grammars {
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
}

impl Grammars {
    /// The rules of a form, once for each answer; `channels` where answers come in such. What cannot be kept to is said now.
    pub fn rules(&self, tokenizer: &Tokenizer, bytes: &[Vec<u8>], form: &Form, channels: bool) -> Result<Matcher, Problem> {
        let factory = self.factory.get_or_init(|| factory(tokenizer, bytes).map(Arc::new).map_err(|e| e.to_string()));
        let factory = factory.as_ref().map_err(|e| Problem::fault(format!("No rules can be made for this vocabulary: {e}")))?;
        let (param, grammar) = match form {
            Form::Json(schema) => {
                let schema = spaced(bounded("response_format", schema)?);
                let grammar = if channels {
                    let [channel, message] = ["<|channel|>", "<|message|>"].map(|mark| special(tokenizer, mark));
                    TopLevelGrammar::from_lark(format!("start: {channel} \"final\" {message} json\njson: %json {schema}\n"))
                } else {
                    TopLevelGrammar::from_json_schema(schema)
                };
                ("response_format", grammar)
            }
            Form::Calls(calls, tools, several) => ("tools", TopLevelGrammar::from_lark(lark(tokenizer, *calls, tools, *several)?)),
        };
        let matcher = Matcher::new(factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(matcher),
            Some(why) => {
                let line = why.lines().next().unwrap_or_default();
                Err(Problem::invalid(param, format!("{param} asks for a form that cannot be kept to: {line}")))
            }
        }
    }
}

fn factory(tokenizer: &Tokenizer, bytes: &[Vec<u8>]) -> Result<ParserFactory, Box<dyn std::error::Error + Send + Sync>> {
    // A special token is its name behind a byte that no text has.
    let word = |(token, bytes): (u32, &Vec<u8>)| if tokenizer.is_special(token) { [&[0xff], &bytes[..]].concat() } else { bytes.clone() };
    let words: Vec<Vec<u8>> = (0..).zip(bytes).map(word).collect();
    let ends: Vec<u32> = tokenizer.eos.iter().copied().filter(|token| (*token as usize) < words.len()).collect();
    let first = *ends.first().ok_or("the tokenizer has no end token")?;
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words).with_eos_tokens(&ends);
    let mut factory = ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits { max_lexer_states: STATES, verbose_errors: false, ..ParserLimits::default() };
    Ok(factory)
}

/// A schema that is not too large.
fn bounded(param: &str, schema: &Value) -> Result<Value, Problem> {
    fn depth(value: &Value) -> usize {
        1 + match value {
            Value::Array(all) => all.iter().map(depth).max().unwrap_or(0),
            Value::Object(all) => all.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    if depth(schema) > DEPTH || schema.to_string().len() > SCHEMA {
        return Err(Problem::invalid(param, format!("The schema has more than {SCHEMA} bytes or {DEPTH} levels")));
    }
    if !schema.is_object() && !schema.is_boolean() {
        return Err(Problem::invalid(param, "The schema must be an object"));
    }
    Ok(schema.clone())
}

/// The same with spaces as Python writes them, which is how templates show JSON to models. Where any spaces may stand, models that are not
/// sure of what comes next write line after line.
fn spaced(mut schema: Value) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.insert("x-guidance".into(), json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}));
    }
    schema
}

/// A mark as rules name it: its token, where it is one of its own.
fn special(tokenizer: &Tokenizer, mark: &str) -> String {
    match tokenizer.token(mark).filter(|token| tokenizer.is_special(*token)) {
        Some(token) => format!("<[{token}]>"),
        None => Value::from(mark).to_string(),
    }
}

/// Calls as the model's template writes them.
fn lark(tokenizer: &Tokenizer, calls: Calls, tools: &[Value], several: bool) -> Result<String, Problem> {
    let mut each = Vec::with_capacity(tools.len());
    for tool in tools {
        let function = &tool["function"];
        let arguments = match &function["parameters"] {
            Value::Null => json!({"type": "object"}),
            schema => bounded("tools", schema)?,
        };
        if matches!(calls, Calls::Channels | Calls::Sections(_) | Calls::Quoted) {
            each.push(spaced(arguments));
            continue;
        }
        // What arguments refer to stays where they look for it.
        let definitions = arguments.get("$defs").cloned();
        let mut call = json!({
            "type": "object", "properties": {"name": {"const": function["name"]}, "arguments": arguments}, "required": ["name", "arguments"],
            "additionalProperties": false,
        });
        if let Some(definitions) = definitions {
            call["$defs"] = definitions;
        }
        each.push(spaced(call));
    }
    let names: Vec<String> = (0..each.len()).map(|n| format!("call{n}")).collect();
    let rules: String = each.iter().zip(&names).map(|(schema, name)| format!("{name}: %json {schema}\n")).collect();
    let any = names.join(" | ");
    // A rule for each function in which its name stands before its arguments, and what is any of them.
    let by_name = |one: &dyn Fn(&str, &str) -> String| {
        let own = names.iter().zip(tools).map(|(rule, tool)| (rule, tool["function"]["name"].as_str().unwrap_or_default()));
        let all: String = own.map(|(rule, name)| format!("for_{rule}: {}\n", one(rule, name))).collect();
        (all, names.iter().map(|rule| format!("for_{rule}")).collect::<Vec<_>>().join(" | "))
    };
    Ok(match calls {
        Calls::Tagged => {
            let more = if several { " (\"\\n\" one){0,7}" } else { "" };
            format!("start: one{more}\none: \"<tool_call>\\n\" ({any}) \"\\n</tool_call>\"\n{rules}")
        }
        // Arguments as JSON, which is read too.
        Calls::Quoted => {
            let [open, close] = ["<|tool_call>", "<tool_call|>"].map(|mark| special(tokenizer, mark));
            let (all, any) = by_name(&|rule, name| format!("{open} {} {rule} {close}", Value::from(format!("call:{name}"))));
            let more = if several { " any{0,7}" } else { "" };
            format!("start: any{more}\nany: {any}\n{all}{rules}")
        }
        Calls::Invoked => {
            let more = if several { " (\"\\n</minimax:tool_call>\\n<minimax:tool_call>\\n\" any){0,7}" } else { "" };
            format!("start: \"<minimax:tool_call>\\n\" any{more} \"\\n</minimax:tool_call>\"\nany: {any}\n{rules}")
        }
        Calls::Sections(section) => {
            let mark = |mark| special(tokenizer, mark);
            let ([open, close], [begin, end], between) = (section.all.map(mark), section.each.map(mark), mark(section.between));
            let named = |name: &str| Value::from(format!("{}{name}{}", section.name[0], section.name[1]));
            let (all, any) = by_name(&|rule, name| format!("{begin} {} {between} {rule} {end}", named(name)));
            let more = if several { " any{0,7}" } else { "" };
            format!("start: {open} any{more} {close}\nany: {any}\n{all}{rules}")
        }
        Calls::Listed => {
            let mark = special(tokenizer, calls.opens().unwrap_or_default());
            let more = if several { " (\", \" one){0,7}" } else { "" };
            format!("start: {mark} \" \"? \"[\" one{more} \"]\"\none: {any}\n{rules}")
        }
        // One at a time: its end ends the answer.
        Calls::Channels => {
            let [channel, constrain, message] = ["<|channel|>", "<|constrain|>", "<|message|>"].map(|mark| special(tokenizer, mark));
            let to = |name: &str| Value::from(format!("commentary to=functions.{name} "));
            let (all, any) = by_name(&|rule, name| format!("{channel} {} {constrain} \"json\" {message} {rule}", to(name)));
            format!("start: {any}\n{all}{rules}")
        }
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// A thought may begin, or what is meant to be said.
    Start,
    Thinking,
    Saying,
}

/// Rules at work: none while the model thinks, but that it comes to an end.
pub struct Ruled {
    matcher: Option<Matcher>,
    thoughts: Thoughts,
    place: Place,
    thought: usize,
}

impl Ruled {
    /// Those of a form, where there is one, and of thoughts.
    pub fn new(matcher: Option<Matcher>, thoughts: Thoughts) -> Ruled {
        let place = match thoughts.marks {
            None => Place::Saying,
            Some(_) if thoughts.begun => Place::Thinking,
            Some(_) => Place::Start,
        };
        Ruled { matcher, thoughts, place, thought: 0 }
    }
}

fn forbid(logits: &mut [f32], allowed: impl Fn(usize) -> bool) {
    logits.iter_mut().enumerate().filter(|(token, _)| !allowed(*token)).for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
}

impl Guide for Ruled {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let (open, close) = self.thoughts.marks.map_or((None, None), |(open, close)| (Some(open as usize), Some(close as usize)));
        if self.place == Place::Thinking {
            if self.thoughts.most.is_some_and(|most| self.thought >= most) {
                forbid(logits, |token| Some(token) == close);
            }
            return Ok(());
        }
        let Some(matcher) = &mut self.matcher else { return Ok(()) };
        let mask = matcher.compute_mask_or_eos().map_err(|e| e.to_string().lines().next().unwrap_or_default().to_string())?;
        let begins = if self.place == Place::Start { open } else { None };
        forbid(logits, |token| (token < mask.len() && mask.get(token)) || Some(token) == begins);
        Ok(())
    }

    fn chosen(&mut self, token: u32) -> Result<(), String> {
        let marks = self.thoughts.marks;
        match self.place {
            Place::Start if marks.is_some_and(|(open, _)| token == open) => {
                self.place = Place::Thinking;
                return Ok(());
            }
            Place::Thinking => {
                self.thought += 1;
                if marks.is_some_and(|(_, close)| token == close) {
                    self.place = Place::Saying;
                }
                return Ok(());
            }
            Place::Start | Place::Saying => self.place = Place::Saying,
        }
        match &mut self.matcher {
            Some(matcher) if !matcher.is_stopped() => matcher.consume_token(token).map_err(|e| e.to_string()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tokenizer() -> (Tokenizer, Vec<Vec<u8>>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3-moe");
        let tokenizer = Tokenizer::open(&folder, usize::MAX).expect("opens");
        let bytes = tokenizer.bytes();
        (tokenizer, bytes)
    }

    /// What comes of logits that like each token as much as its number is odd: nonsense, within the rules.
    fn written(matcher: Matcher, thoughts: Thoughts, seed: usize) -> String {
        let (tokenizer, bytes) = tokenizer();
        let mut ruled = Ruled::new(Some(matcher), thoughts);
        let mut out = Vec::new();
        for step in 0..3000 {
            let mut logits: Vec<f32> = (0..bytes.len()).map(|token| ((token * 7919 + step * 104_729 + seed) % 65_537) as f32).collect();
            ruled.restrict(&mut logits).expect("rules");
            let (best, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a token");
            assert!(logits[best].is_finite());
            if tokenizer.eos.contains(&(best as u32)) {
                return String::from_utf8_lossy(&out).into_owned();
            }
            ruled.chosen(best as u32).expect("allowed");
            out.extend_from_slice(&bytes[best]);
        }
        panic!("no end: {}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn nonsense_keeps_to_schemas() {
        let (tokenizer, bytes) = tokenizer();
        let grammars = Grammars::default();
        let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"$ref": "#/$defs/B"}},
            "required": ["a", "n", "b"], "additionalProperties": false, "$defs": {"B": {"type": "boolean"}}});
        for seed in 0..20 {
            let matcher = grammars.rules(&tokenizer, &bytes, &Form::Json(schema.clone()), false).expect("rules");
            let text = written(matcher, Thoughts::default(), seed);
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(
                ["x", "y"].contains(&value["a"].as_str().expect("a text")) && value["n"].as_u64() <= Some(9) && value["b"].is_boolean(),
                "{text}"
            );
        }
    }

    /// JSON for whoever asked, in the channel for that.
    #[test]
    fn nonsense_keeps_to_a_schema_in_its_channel() {
        let (tokenizer, bytes) = tokenizer();
        let form = Form::Json(json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false}));
        let text = written(Grammars::default().rules(&tokenizer, &bytes, &form, true).expect("rules"), Thoughts::default(), 1);
        let mut answer = ram_engine::Answer::to("<|start|>assistant");
        let parts = [answer.push(&text), answer.finish()].concat();
        let said: String = parts.iter().map(|part| if let ram_engine::Part::Said(text) = part { text.as_str() } else { "?" }).collect();
        assert!(serde_json::from_str::<Value>(&said).is_ok_and(|value| value["a"] == 1 || value["a"] == 2), "{text}");
    }

    #[test]
    fn nonsense_calls_what_may_be_called() {
        let (tokenizer, bytes) = tokenizer();
        let tools = ["f", "g"].map(|name| json!({"function": {"name": name, "parameters": {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": false}}}));
        let of = |mark: &str| Calls::of(&format!("tools {mark}")).expect("a way to write calls");
        let ways =
            ["<tool_call>", "<|tool_call>", "[TOOL_CALLS]", "<minimax:tool_call>", "<|tool_calls_section_begin|>", "<｜tool▁calls▁begin｜>"].map(of);
        for (calls, several) in ways.into_iter().flat_map(|calls| [(calls, false), (calls, true)]).chain([(Calls::Channels, false)]) {
            let form = Form::Calls(calls, tools.to_vec(), several);
            let matcher = Grammars::default().rules(&tokenizer, &bytes, &form, false).expect("rules");
            let text = written(matcher, Thoughts::default(), 3);
            let prompt = if calls == Calls::Channels { "<|start|>assistant" } else { "" };
            let mut answer = ram_engine::Answer::to(prompt).calling(calls, tools.to_vec());
            let parts = [answer.push(&text), answer.finish()].concat();
            assert!(
                !parts.is_empty() && parts.iter().all(|part| matches!(part, ram_engine::Part::Call(c) if ["f", "g"].contains(&c.name.as_str()))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_kept_to_is_said() {
        let (tokenizer, bytes) = tokenizer();
        let deep = (0..100).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
        for schema in [json!({"type": "wizard"}), json!({"$ref": "#/nowhere"}), deep, json!({"type": "string", "pattern": "("}), json!(7)] {
            let problem =
                Grammars::default().rules(&tokenizer, &bytes, &Form::Json(schema.clone()), false).err().unwrap_or_else(|| panic!("{schema}"));
            assert!(problem.status == 400 && problem.param.is_some(), "{problem:?}");
        }
    }
}
