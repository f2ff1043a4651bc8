//! A template is a stranger's program: here it runs in a process of its own, which the system ends when it takes too much.
//!
//! Fuel does not bound all that a template does: a list that holds itself is printed until the stack is full, and a list of two
//! lists of two lists, 60 deep, is compared for years.
use super::{LONGEST, Message, Template, size};
use crate::Error;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    io::{self, BufWriter, Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

/// Memory that rendering may take, besides some times the conversation's size.
const DATA: u64 = 16 << 20;
/// Of it, the stack.
const STACK: usize = 4 << 20;
/// The conversation's size counts so often: as JSON, as messages, as values, as text that grows, as the whole text.
const COPIES: u64 = 8;
/// Seconds of a processor, and bytes of a conversation for which there is one more.
const SECONDS: u64 = 1;
const PER_SECOND: u64 = 8 << 20;
/// Bytes that a template may write besides some times the conversation's size.
const WRITTEN: usize = 1 << 20;
/// What a process ends with that says on stdout why the template failed.
const FAILED: i32 = 4;

#[derive(Serialize, Deserialize)]
struct Asked<'a> {
    template: Cow<'a, str>,
    messages: Cow<'a, [Message]>,
    bos: Cow<'a, str>,
    eos: Cow<'a, str>,
    think: bool,
}

impl Template {
    /// As [`Template::render`], in a process of its own that takes at most 1 s and 16 MiB besides 8 times the conversation's
    /// bytes. `program` is one that calls [`Template::serve`].
    ///
    /// # Errors
    /// [`Error::Template`] where the template is none, raises, or takes more than that; [`Error::Io`] where `program` does not start.
    pub fn render_apart(&self, mut program: Command, messages: &[Message], bos: &str, eos: &str, think: bool) -> Result<String, Error> {
        if self.text.len() > LONGEST {
            return Err(Error::Template(format!("it has {} bytes: {LONGEST} are read at most", self.text.len())));
        }
        // A group of its own: Ctrl-C is not meant for it. A backtrace would be written by what has no memory left.
        program.env("RUST_BACKTRACE", "0").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let path = PathBuf::from(program.get_program());
        let failed = |source| Error::Io { path: path.clone(), source };
        let mut child = program.spawn().map_err(failed)?;
        let asked = Asked { template: self.text.as_str().into(), messages: messages.into(), bos: bos.into(), eos: eos.into(), think };
        if let Some(stdin) = child.stdin.take() {
            // One that ended early has a status that says so.
            let mut stdin = BufWriter::new(stdin);
            let _ = serde_json::to_writer(&mut stdin, &asked).map_err(io::Error::from).and_then(|()| stdin.flush());
        }
        let out = child.wait_with_output().map_err(failed)?;
        let said = String::from_utf8(out.stdout).map_err(|_| Error::Template("it writes what is no text".into()))?;
        match out.status.code() {
            Some(0) => Ok(said),
            Some(FAILED) => Err(Error::Template(said)),
            _ => Err(Error::Template(format!("it takes more than {SECONDS} s, {} MB or a sane depth to render", DATA / 1_000_000))),
        }
    }

    /// The other side of [`Template::render_apart`], to be called before anything else is done: limits this process, renders what
    /// `input` asks for into `output`, and gives the status to end with.
    ///
    /// # Errors
    /// If `input` cannot be read or `output` not be written.
    pub fn serve(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<u8> {
        let mut json = Vec::new();
        input.read_to_end(&mut json)?;
        let at_most = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
        at_most(Resource::Core, 0)?;
        at_most(Resource::Cpu, SECONDS + json.len() as u64 / PER_SECOND)?;
        at_most(Resource::Data, DATA + COPIES * json.len() as u64)?;
        let rendered = thread::Builder::new().stack_size(STACK).spawn(move || -> Result<String, Error> {
            let asked: Asked = serde_json::from_slice(&json).map_err(|e| Error::Template(e.to_string()))?;
            drop(json);
            let said = size(&asked.messages);
            let text = Template::new(asked.template.into_owned()).render(&asked.messages, &asked.bos, &asked.eos, asked.think)?;
            let most = WRITTEN + 4 * said;
            if text.len() > most {
                return Err(Error::Template(format!("it makes {} bytes of a conversation of {said}", text.len())));
            }
            Ok(text)
        })?;
        let (text, status) = match rendered.join() {
            Ok(Ok(text)) => (text, 0),
            Ok(Err(Error::Template(why))) => (why, FAILED as u8),
            Ok(Err(other)) => (other.to_string(), FAILED as u8),
            // As where the system ends it.
            Err(_) => return Ok(1),
        };
        output.write_all(text.as_bytes())?;
        output.flush()?;
        Ok(status)
    }
}
