//! An answer as it streams, divided into what is thought (`<think> ... </think>`) and what is said.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Between the marks.
    Thought(String),
    /// Outside of them.
    Said(String),
}

/// Divides text that comes in pieces; marks may be cut anywhere.
#[derive(Default)]
pub struct Thinking {
    inside: bool,
    waiting: String,
}

impl Thinking {
    /// One that begins inside, where the template itself opens the thought.
    pub fn begun(prompt: &str) -> Thinking {
        Thinking { inside: prompt.trim_end().ends_with(OPEN), waiting: String::new() }
    }

    /// The parts that a piece completes.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        self.waiting.push_str(piece);
        let mut parts = Vec::new();
        loop {
            let mark = if self.inside { CLOSE } else { OPEN };
            if let Some(at) = self.waiting.find(mark) {
                let rest = self.waiting.split_off(at + mark.len());
                self.waiting.truncate(at);
                parts.extend(self.part());
                (self.inside, self.waiting) = (!self.inside, rest);
                continue;
            }
            // The end may be the beginning of a mark.
            let held = (1..mark.len()).rev().find(|&n| self.waiting.ends_with(&mark[..n])).unwrap_or(0);
            let rest = self.waiting.split_off(self.waiting.len() - held);
            parts.extend(self.part());
            self.waiting = rest;
            return parts;
        }
    }

    /// What is left at the end.
    pub fn finish(mut self) -> Option<Part> {
        self.part()
    }

    fn part(&mut self) -> Option<Part> {
        let text = std::mem::take(&mut self.waiting);
        if text.is_empty() { None } else { Some(if self.inside { Part::Thought(text) } else { Part::Said(text) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All thoughts and all that is said, whatever the pieces.
    fn divided(mut t: Thinking, pieces: &[&str]) -> (String, String) {
        let (mut thought, mut said) = (String::new(), String::new());
        let mut parts: Vec<Part> = pieces.iter().flat_map(|p| t.push(p)).collect();
        parts.extend(t.finish());
        for part in parts {
            match part {
                Part::Thought(s) => thought += &s,
                Part::Said(s) => said += &s,
            }
        }
        (thought, said)
    }

    #[test]
    fn marks_may_be_cut_anywhere() {
        let text = "a < b <think>so </thin it</think>\nyes <th";
        let whole = divided(Thinking::default(), &[text]);
        assert_eq!(whole, ("so </thin it".into(), "a < b \nyes <th".into()));
        for at in 0..text.len() {
            assert_eq!(divided(Thinking::default(), &[&text[..at], &text[at..]]), whole);
        }
        let letters: Vec<&str> = text.split("").collect();
        assert_eq!(divided(Thinking::default(), &letters), whole);
        assert_eq!(divided(Thinking::begun("assistant\n<think>\n"), &["x</think>y"]), ("x".into(), "y".into()));
    }
}
