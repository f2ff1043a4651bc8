//! JSON as Python writes it: models were shown `{"name": "f", "type": "object"}`, with these spaces and in the order that was given.
use minijinja::{Error, ErrorKind, Value, value::Kwargs};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io::{self, Write};

/// `json.dumps` with its own separators: `", "` and `": "`.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

/// Spaces of an indentation at the most: nobody reads more.
const INDENT: usize = 16;

/// The filter that transformers gives templates: `json.dumps(x, ensure_ascii=False, indent=indent)`; nothing is escaped for HTML.
pub fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let indent: Option<usize> = options.get("indent")?;
    // What others set is what is done without.
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    if ascii == Some(true) {
        return Err(bad(&"ensure_ascii is not written here"));
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(&value).map_err(|e| bad(&e))?;
    let mut out = Vec::new();
    match indent {
        None => json.serialize(&mut Serializer::with_formatter(&mut out, OneLine)),
        Some(indent) if indent <= INDENT => {
            json.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(&b" ".repeat(indent))))
        }
        Some(indent) => return Err(bad(&format!("an indent of {indent}"))),
    }
    .map_err(|e| bad(&e))?;
    String::from_utf8(out).map_err(|e| bad(&e))
}
