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

/// The filter that transformers gives templates: `json.dumps(x, ensure_ascii, indent=indent)`; nothing is escaped for HTML.
pub fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
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
    let json = String::from_utf8(out).map_err(|e| bad(&e))?;
    Ok(if ascii == Some(true) { escaped(&json) } else { json })
}

/// JSON whose strings have escapes for what is not ASCII.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out += &format!("\\u{unit:04x}"));
        }
    }
    out
}
