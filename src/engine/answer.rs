//! What a model says, as it comes, divided into what it thinks, what it says, and the functions that it calls.
mod calls;
mod channels;
mod quoted;

pub use calls::{Call, Calls, Section};
use channels::{Begins, ENDS, Kind, MESSAGE};
use serde_json::Value;

/// Special tokens that divide an answer.
pub(crate) fn marks() -> impl Iterator<Item = &'static str> {
    let sections = [calls::KIMI, calls::DEEPSEEK].into_iter().flat_map(|s| [s.all, s.each].into_iter().flatten().chain([s.between]));
    let quoted = calls::QUOTED.into_iter().chain([quoted::QUOTE]).chain(THOUGHTS[1].tokens);
    let channels = [channels::CHANNEL, MESSAGE, channels::CONSTRAIN].into_iter().chain(ENDS);
    ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"].into_iter().chain(channels).chain(sections).chain(quoted)
}

/// How thoughts are written.
#[derive(Debug, PartialEq, Eq)]
pub struct Thinking {
    /// Before one.
    opens: &'static str,
    /// Behind it.
    closes: &'static str,
    /// What tokens both begin with.
    pub tokens: [&'static str; 2],
}

/// As most models write them, and as Gemma-4 does.
pub const THOUGHTS: [Thinking; 2] = [
    Thinking { opens: "<think>", closes: "</think>", tokens: ["<think>", "</think>"] },
    Thinking { opens: "<|channel>thought", closes: "<channel|>", tokens: ["<|channel>", "<channel|>"] },
];

/// What has begun a thought at the end of a prompt.
pub fn thinks_after(prompt: &str) -> Option<&'static Thinking> {
    THOUGHTS.iter().find(|thinking| prompt.trim_end().ends_with(thinking.opens))
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Between marks as in [`THOUGHTS`], where an answer begins so; or in a channel of its own.
    Thought(String),
    /// What is meant for who asked.
    Said(String),
    /// A function to be called; it comes when all of it is there.
    Call(Call),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but spaces was there yet.
    Start,
    Thinking,
    Saying,
    Calling,
    /// Before a message of a channel.
    Header,
    /// Behind a stop string.
    Stopped,
}

/// An answer that comes in pieces, cut anywhere.
#[derive(Debug)]
pub struct Answer {
    place: Place,
    /// How the thought is written that it is within.
    thinking: &'static Thinking,
    /// Whether it is in channels.
    channels: bool,
    /// The function that a message in a channel is for.
    called: String,
    /// What is not given yet.
    waiting: String,
    calls: Option<(Calls, Vec<Value>)>,
    stops: Vec<String>,
    /// Whether something is said that is more than spaces.
    said: bool,
    /// Whether spaces that come now are left out: behind a thought or a call.
    skips: bool,
    stopped: Option<String>,
}

impl Answer {
    /// One to a prompt: it begins within a thought where the template itself opens it.
    pub fn to(prompt: &str) -> Answer {
        let begins = channels::begins(prompt);
        let thinking = thinks_after(prompt);
        let place = match begins {
            Some(Begins::Header) => Place::Header,
            Some(Begins::Message) => Place::Saying,
            None if thinking.is_some() => Place::Thinking,
            None => Place::Start,
        };
        Answer {
            place,
            thinking: thinking.unwrap_or(&THOUGHTS[0]),
            channels: begins.is_some(),
            called: String::new(),
            waiting: String::new(),
            calls: None,
            stops: Vec::new(),
            said: false,
            skips: false,
            stopped: None,
        }
    }

    /// One in which nothing is a thought: a text that goes on.
    pub fn plain() -> Answer {
        Answer { place: Place::Saying, ..Answer::to("") }
    }

    /// One that may call `tools`, in the way that its model writes calls.
    #[must_use]
    pub fn calling(self, calls: Calls, tools: Vec<Value>) -> Answer {
        Answer { calls: Some((calls, tools)), ..self }
    }

    /// One that ends before any of these is said; empty ones are left out.
    #[must_use]
    pub fn until(self, stops: Vec<String>) -> Answer {
        Answer { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), ..self }
    }

    /// The stop string that ended it.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Whether it is within a thought.
    pub fn is_thinking(&self) -> bool {
        self.place == Place::Thinking
    }

    /// The parts that a piece completes.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        self.waiting.push_str(piece);
        while self.go_on(&mut parts) {}
        parts
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        match self.place {
            Place::Start | Place::Saying => self.say(waiting, &mut parts),
            Place::Thinking => think(waiting, &mut parts),
            Place::Calling if self.channels => self.call_in_channel(waiting, &mut parts),
            Place::Calling => self.call(&waiting, false, &mut parts),
            // Not what such a model writes; better than nothing.
            Place::Header if !waiting.contains("<|") => self.say(waiting, &mut parts),
            Place::Header | Place::Stopped => {}
        }
        self.place = Place::Stopped;
        parts
    }

    /// Divides what waits at the next mark; whether there was one.
    fn go_on(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.place {
            Place::Stopped => {
                self.waiting.clear();
                false
            }
            Place::Start => {
                let begun = self.waiting.trim_start();
                if let Some((thinking, rest)) = THOUGHTS.iter().find_map(|t| Some((t, begun.strip_prefix(t.opens)?))) {
                    (self.waiting, self.place, self.thinking) = (rest.to_string(), Place::Thinking, thinking);
                    return true;
                }
                let waits = THOUGHTS.iter().any(|thinking| thinking.opens.starts_with(begun));
                if !waits {
                    self.place = Place::Saying;
                }
                !waits
            }
            Place::Header => {
                let Some(at) = self.waiting.find(MESSAGE) else { return false };
                let header = self.before(at, MESSAGE.len());
                self.place = match channels::kind(&header) {
                    Kind::Analysis => Place::Thinking,
                    Kind::Final => Place::Saying,
                    Kind::Call(name) => {
                        self.called = name;
                        Place::Calling
                    }
                };
                true
            }
            Place::Thinking if self.channels => {
                let end = ENDS.iter().filter_map(|end| self.waiting.find(end)).min();
                let keep = || ENDS.iter().map(|end| held(&self.waiting, end)).max().unwrap_or(0);
                let at = end.unwrap_or_else(|| self.waiting.len() - keep());
                think(self.before(at, 0), parts);
                if end.is_some() {
                    self.place = Place::Header;
                }
                end.is_some()
            }
            Place::Calling if self.channels => {
                let Some(at) = ENDS.iter().filter_map(|end| self.waiting.find(end)).min() else { return false };
                let text = self.before(at, 0);
                self.call_in_channel(text, parts);
                self.place = Place::Header;
                true
            }
            Place::Thinking => {
                let close = self.thinking.closes;
                if let Some(at) = self.waiting.find(close) {
                    think(self.before(at, close.len()), parts);
                    (self.place, self.skips) = (Place::Saying, true);
                    return true;
                }
                think(self.before(self.waiting.len() - held(&self.waiting, close), 0), parts);
                false
            }
            Place::Saying => self.go_on_saying(parts),
            Place::Calling => {
                let Some(close) = self.calls.as_ref().and_then(|(calls, _)| calls.closes()) else { return false };
                let Some(at) = self.waiting.find(close) else { return false };
                let inner = self.before(at, close.len());
                self.place = Place::Saying;
                self.call(&inner, true, parts);
                true
            }
        }
    }

    fn go_on_saying(&mut self, parts: &mut Vec<Part>) -> bool {
        let open = self.calls.as_ref().and_then(|(calls, _)| calls.opens());
        let ends = if self.channels { &ENDS[..] } else { &[] };
        let marks: Vec<&str> = self.stops.iter().map(String::as_str).chain(open).chain(ends.iter().copied()).collect();
        // The one that ends first, so that it does not depend on how the text is cut; of those that end there the longest.
        let found = marks.iter().filter_map(|mark| self.waiting.find(mark).map(|at| (at + mark.len(), at, *mark))).min();
        if let Some((_, at, mark)) = found {
            let (calls, ended, mark) = (Some(mark) == open, ends.contains(&mark), mark.to_string());
            let before = self.before(at, mark.len());
            if calls {
                if self.said || !before.trim().is_empty() {
                    self.say(before, parts);
                }
                self.place = Place::Calling;
            } else if ended {
                self.say(before, parts);
                self.place = Place::Header;
            } else {
                self.say(before, parts);
                (self.place, self.stopped) = (Place::Stopped, Some(mark));
            }
            return true;
        }
        // Spaces before a call are nothing that is said.
        if open.is_some() && !self.said && self.waiting.trim().is_empty() {
            return false;
        }
        let keep = marks.iter().map(|mark| held(&self.waiting, mark)).max().unwrap_or(0);
        let text = self.before(self.waiting.len() - keep, 0);
        self.say(text, parts);
        false
    }

    fn say(&mut self, mut text: String, parts: &mut Vec<Part>) {
        if self.skips {
            text = text.trim_start().to_string();
        }
        if !text.is_empty() {
            self.skips = false;
            self.said |= !text.trim().is_empty();
            parts.push(Part::Said(text));
        }
    }

    /// What waits before byte `at`; the `mark` bytes from there are dropped, and the rest waits on.
    fn before(&mut self, at: usize, mark: usize) -> String {
        let rest = self.waiting.split_off(at + mark);
        self.waiting.truncate(at);
        std::mem::replace(&mut self.waiting, rest)
    }

    /// A message for a function: a call where it is JSON, else text.
    fn call_in_channel(&mut self, text: String, parts: &mut Vec<Part>) {
        let arguments = text.trim();
        let name = std::mem::take(&mut self.called);
        match serde_json::from_str::<Value>(arguments) {
            Ok(Value::Object(_)) if self.calls.is_some() => parts.push(Part::Call(Call { name, arguments: arguments.to_string() })),
            _ => self.say(text, parts),
        }
    }

    /// What stood within a call's marks; text where it is none.
    fn call(&mut self, inner: &str, closed: bool, parts: &mut Vec<Part>) {
        let Some((calls, tools)) = &self.calls else { return };
        match calls.read(inner, tools) {
            Some(read) => {
                parts.extend(read.into_iter().map(Part::Call));
                self.skips = true;
            }
            None => {
                let close = calls.closes().filter(|_| closed).unwrap_or_default();
                let text = format!("{}{inner}{close}", calls.opens().unwrap_or_default());
                self.say(text, parts);
            }
        }
    }
}

fn think(text: String, parts: &mut Vec<Part>) {
    if !text.is_empty() {
        parts.push(Part::Thought(text));
    }
}

/// Bytes at the end of a text that may be the beginning of a mark.
fn held(text: &str, mark: &str) -> usize {
    (1..mark.len()).rev().find(|&n| mark.is_char_boundary(n) && text.ends_with(&mark[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Neighbours of one kind as one.
    fn joined(parts: impl IntoIterator<Item = Part>) -> Vec<Part> {
        let mut all: Vec<Part> = Vec::new();
        for part in parts {
            match (all.last_mut(), part) {
                (Some(Part::Said(before)), Part::Said(text)) | (Some(Part::Thought(before)), Part::Thought(text)) => before.push_str(&text),
                (_, part) => all.push(part),
            }
        }
        all
    }

    fn read(mut answer: Answer, pieces: &[&str]) -> (Vec<Part>, Option<String>) {
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| answer.push(piece)).collect();
        parts.extend(answer.finish());
        (joined(parts), answer.stopped().map(String::from))
    }

    fn thought(text: &str) -> Part {
        Part::Thought(text.into())
    }

    fn said(text: &str) -> Part {
        Part::Said(text.into())
    }

    fn called(name: &str, arguments: &str) -> Part {
        Part::Call(Call { name: name.into(), arguments: arguments.into() })
    }

    /// Tools with a number and a text.
    fn tools() -> Vec<Value> {
        let properties = json!({"days": {"type": "integer"}, "city": {"type": "string"}, "tags": {"type": "array"}});
        vec![json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": properties}}})]
    }

    fn tagged() -> Answer {
        Answer::to("").calling(Calls::Tagged, tools())
    }

    fn channels() -> Answer {
        Answer::to("<|start|>user<|message|>?<|end|><|start|>assistant")
    }

    fn listed() -> Answer {
        Answer::to("").calling(Calls::Listed, tools())
    }

    /// An answer, what comes, its parts, and the stop string that ends it.
    type Case = (fn() -> Answer, &'static str, Vec<Part>, Option<&'static str>);

    /// What the models' own templates show that they write.
    fn cases() -> Vec<Case> {
        let weather = |arguments| called("weather", arguments);
        vec![
            (|| Answer::to(""), "Hello <b>", vec![said("Hello <b>")], None),
            (|| Answer::to(""), "\n<think>\nso </thin it</think>\n\nyes <think>", vec![thought("\nso </thin it"), said("yes <think>")], None),
            (|| Answer::to("assistant\n<think>\n"), "x</think>y", vec![thought("x"), said("y")], None),
            (
                || Answer::to("<|turn>model\n<|channel>thought\n<channel|>").calling(Calls::Quoted, tools()),
                "<|channel>thought\nso <chan</think><channel|>Yes.\n<|tool_call>call:weather{city:<|\"|>New, {York}<|\"|>,days:2,tags:[<|\"|>a<|\"|>,1.5,true]}<tool_call|><|tool_call>call:f{a:{<|\"|>b:c<|\"|>:None},d:[]}<tool_call|>",
                vec![
                    thought("\nso <chan</think>"),
                    said("Yes.\n"),
                    weather(r#"{"city":"New, {York}","days":2,"tags":["a",1.5,true]}"#),
                    called("f", r#"{"a":{"b:c":null},"d":[]}"#),
                ],
                None,
            ),
            (
                || Answer::to("").calling(Calls::Quoted, tools()),
                "<|tool_call>call:weather{\"city\": \"Bern\"}<tool_call|><|tool_call>call:f{}<tool_call|><|tool_call>call:f{a:}<tool_call|>",
                vec![weather(r#"{"city":"Bern"}"#), called("f", "{}"), said("<|tool_call>call:f{a:}<tool_call|>")],
                None,
            ),
            (|| Answer::to("<think>"), "it never ends", vec![thought("it never ends")], None),
            (Answer::plain, "<think>a</think>", vec![said("<think>a</think>")], None),
            (|| Answer::to("").until(vec!["END".into(), "日本語".into()]), "a EN日本END b", vec![said("a EN日本")], Some("END")),
            (|| Answer::to("").until(vec!["\n".into(), "\n\n".into()]), "a\n\nb", vec![said("a")], Some("\n")),
            (|| Answer::to("").until(vec!["stop".into()]), "<think>stop</think>go sto", vec![thought("stop"), said("go sto")], None),
            (
                tagged,
                "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\", \"days\": 2}}\n</tool_call>",
                vec![weather(r#"{"city":"Bern","days":2}"#)],
                None,
            ),
            (
                tagged,
                "<think>\nhm</think>\n\nI look.\n<tool_call>{\"name\":\"weather\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
                vec![thought("\nhm"), said("I look.\n"), weather("{}"), called("f", r#"{"a":1}"#)],
                None,
            ),
            (
                tagged,
                "<tool_call>\n<function=weather>\n<parameter=city>\nNew\nYork\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=tags>\n[\"a\"]\n</parameter>\n</function>\n</tool_call>",
                vec![weather(r#"{"city":"New\nYork","days":3,"tags":["a"]}"#)],
                None,
            ),
            (
                tagged,
                "I look.<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
                vec![said("I look."), weather(r#"{"city":"Bern","days":3}"#)],
                None,
            ),
            (
                tagged,
                "<tool_call>weather<arg_key>tags</arg_key><arg_value>[\"a\"]</arg_value></tool_call><tool_call>weather</tool_call>",
                vec![weather(r#"{"tags":["a"]}"#), weather("{}")],
                None,
            ),
            (
                || Answer::to("").calling(Calls::Invoked, tools()),
                "Yes.\n<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">New York</parameter>\n<parameter name=\"days\">2</parameter>\n</invoke>\n<invoke name=\"f\">\n</invoke>\n</minimax:tool_call>",
                vec![said("Yes.\n"), weather(r#"{"city":"New York","days":2}"#), called("f", "{}")],
                None,
            ),
            (
                || Answer::to("").calling(Calls::Sections(&calls::KIMI), tools()),
                "Yes.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"days\": 1}<|tool_call_end|><|tool_call_begin|>functions.f:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
                vec![said("Yes."), weather(r#"{"days":1}"#), called("f", "{}")],
                None,
            ),
            (
                || Answer::to("").calling(Calls::Sections(&calls::DEEPSEEK), tools()),
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"days\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                vec![weather(r#"{"days":1}"#)],
                None,
            ),
            (
                || Answer::to("").calling(Calls::Sections(&calls::DEEPSEEK), tools()),
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"days\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                vec![weather(r#"{"days":1}"#)],
                None,
            ),
            (
                || Answer::to("").calling(Calls::Invoked, tools()),
                "<minimax:tool_call>no</minimax:tool_call>",
                vec![said("<minimax:tool_call>no</minimax:tool_call>")],
                None,
            ),
            // Not closed, but whole; and what is no call.
            (tagged, "<tool_call>{\"name\": \"weather\", \"arguments\": {}}", vec![weather("{}")], None),
            (tagged, "<tool_call>{\"name\": \"weather\", \"argum", vec![said("<tool_call>{\"name\": \"weather\", \"argum")], None),
            (tagged, "<tool_call>none</tool_call> of it", vec![said("<tool_call>none</tool_call> of it")], None),
            (tagged, "{\"name\": \"weather\", \"arguments\": {}}", vec![said("{\"name\": \"weather\", \"arguments\": {}}")], None),
            (
                || Answer::to(""),
                "<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>",
                vec![said("<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>")],
                None,
            ),
            (
                listed,
                "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"days\": 1}}, {\"name\": \"f\", \"arguments\": {}}]",
                vec![weather(r#"{"days":1}"#), called("f", "{}")],
                None,
            ),
            (
                listed,
                "Well. [TOOL_CALLS]weather[ARGS]{\"days\": 1}[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{}",
                vec![said("Well. "), weather(r#"{"days":1}"#), called("f", "{}")],
                None,
            ),
            (listed, "[TOOL_CALLS] what", vec![said("[TOOL_CALLS] what")], None),
            (channels, "<|channel|>final<|message|>Hello <think>", vec![said("Hello <think>")], None),
            (
                channels,
                "<|channel|>analysis<|message|>hm < 3<|end|><|start|>assistant<|channel|>final<|message|>yes",
                vec![thought("hm < 3"), said("yes")],
                None,
            ),
            (
                || channels().until(vec!["s".into()]),
                "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>yes",
                vec![thought("so"), said("ye")],
                Some("s"),
            ),
            (
                || channels().calling(Calls::Channels, tools()),
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"days\": 2}",
                vec![thought("a"), said("I look."), weather("{\"days\": 2}")],
                None,
            ),
            (
                || channels().calling(Calls::Channels, tools()),
                "<|channel|>commentary to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
                vec![weather("{}")],
                None,
            ),
            (|| channels().calling(Calls::Channels, tools()), "<|channel|>commentary to=functions.weather<|message|>no", vec![said("no")], None),
            (channels, "nothing of it", vec![said("nothing of it")], None),
            (|| Answer::to("<|start|>assistant<|channel|>final<|message|>It "), "goes on<|return|>", vec![said("goes on")], None),
        ]
    }

    #[test]
    fn answers_are_divided() {
        for (answer, text, want, stop) in cases() {
            let (found, stopped) = read(answer(), &[text]);
            assert_eq!((found, stopped.as_deref()), (want, stop), "{text}");
        }
    }

    proptest! {
        #[test]
        fn however_they_come(cuts in prop::collection::vec(0usize..400, 0..8)) {
            for (answer, text, want, stop) in cases() {
                let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).filter(|at| text.is_char_boundary(*at)).collect();
                at.extend([0, text.len()]);
                at.sort_unstable();
                let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
                let (found, stopped) = read(answer(), &pieces);
                prop_assert_eq!((found, stopped.as_deref()), (want.clone(), stop), "{:?}", pieces);
                let letters: Vec<String> = text.chars().map(String::from).collect();
                prop_assert_eq!(read(answer(), &letters.iter().map(String::as_str).collect::<Vec<_>>()).0, want);
            }
        }

        #[test]
        fn nothing_panics(text in "(<think>|</think>|<tool_call>|</tool_call>|<function=a>|<parameter=b>|</parameter>|<arg_key>|</arg_key>|<arg_value>|</arg_value>|<minimax:tool_call>|</minimax:tool_call>|<invoke name=\"|\">|</invoke>|<.tool_calls_section_begin.>|<.tool_call_begin.>|<.tool_call_end.>|\\[TOOL_CALLS\\]|\\[ARGS\\]|[{}\\[\\]:,\"a-c \n日]){0,30}") {
            let kimi = Answer::to("").calling(Calls::Sections(&calls::KIMI), tools());
            let invoked = Answer::to("").calling(Calls::Invoked, tools());
            for answer in [tagged(), listed(), kimi, invoked, Answer::to("<think>").until(vec!["a".into(), "b日".into()])] {
                read(answer, &[&text]);
            }
        }
    }
}
