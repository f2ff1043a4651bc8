//! A template is a stranger's program: here it runs in a process of its own, which the system ends when it takes too much.
//!
//! Fuel does not bound all that a template does: a list that holds itself is printed until the stack is full, and a list of two
//! lists of two lists, 60 deep, is compared for years.
use super::{Conversation, LONGEST, Template};
use crate::Error;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    io::{self, BufWriter, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

/// Memory that rendering may take, besides some times the conversation's size. Published templates take 0.4 MiB without the stack, one of
/// 26 kB 0.8.
const DATA: usize = 4 << 20;
/// Of it, the stack.
const STACK: usize = 1 << 20;
/// The conversation's size counts so often: as JSON, as messages, as values, as text that grows, as the whole text.
const COPIES: usize = 8;
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
    conversation: Cow<'a, Conversation>,
    bos: Cow<'a, str>,
    eos: Cow<'a, str>,
}

impl Asked<'_> {
    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&(self.conversation.bytes() as u64).to_le_bytes())?;
        serde_json::to_writer(&mut *to, self)?;
        to.flush()
    }
}

impl Template {
    /// Memory that [`Template::render_apart`] takes at the most for conversations of [`Conversation::bytes`], besides what the two processes
    /// share.
    pub fn rendering_bytes(conversation: usize) -> u64 {
        (DATA as u64).saturating_add((COPIES as u64).saturating_mul(conversation as u64))
    }

    /// As [`Template::render`], in a process of its own that takes at most 1 s and [`Template::rendering_bytes`]. `program` is one
    /// that calls [`Template::serve`].
    ///
    /// # Errors
    /// [`Error::Template`] where the template is none, raises, or takes more than that; [`Error::Io`] where `program` does not start.
    pub fn render_apart(&self, mut program: Command, conversation: &Conversation, bos: &str, eos: &str) -> Result<String, Error> {
        if self.text.len() > LONGEST {
            return Err(Error::Template(format!("it has {} bytes: {LONGEST} are read at most", self.text.len())));
        }
        // A group of its own: Ctrl-C is not meant for it. A backtrace would be written by what has no memory left.
        program.env("RUST_BACKTRACE", "0").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let path = PathBuf::from(program.get_program());
        let failed = |source| Error::Io { path: path.clone(), source };
        let asked = Asked { template: self.text.as_str().into(), conversation: Cow::Borrowed(conversation), bos: bos.into(), eos: eos.into() };
        let out = loop {
            let mut child = program.spawn().map_err(failed)?;
            if let Some(stdin) = child.stdin.take() {
                // One that ended early has a status that says so.
                let _ = asked.write(&mut BufWriter::new(stdin));
            }
            let out = child.wait_with_output().map_err(failed)?;
            // Ctrl-C may come just before it has its own group.
            if out.status.signal() != Some(Signal::INT.as_raw()) {
                break out;
            }
        };
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
        let mut said = [0; 8];
        input.read_exact(&mut said)?;
        let said = u64::from_le_bytes(said);
        let at_most = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
        at_most(Resource::Core, 0)?;
        at_most(Resource::Cpu, SECONDS + said / PER_SECOND)?;
        at_most(Resource::Data, Template::rendering_bytes(usize::try_from(said).unwrap_or(usize::MAX)))?;
        let mut json = Vec::new();
        input.read_to_end(&mut json)?;
        let rendered = thread::Builder::new().stack_size(STACK).spawn(move || -> Result<String, Error> {
            let asked: Asked = serde_json::from_slice(&json).map_err(|e| Error::Template(e.to_string()))?;
            drop(json);
            let said = asked.conversation.bytes();
            let text = Template::new(asked.template.into_owned()).render(&asked.conversation, &asked.bos, &asked.eos)?;
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
