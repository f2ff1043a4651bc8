//! What a person types, with editing and history; or the lines of a pipe.
use super::{
    command::{self, Command},
    typing::Typing,
};
use crate::cli::{Error, note};
use rustyline::{Behavior, Config, DefaultEditor, error::ReadlineError};
use std::{
    io::{BufRead, ErrorKind, IsTerminal, Read as _, stdin, stdout},
    path::PathBuf,
};

/// Where messages come from.
pub enum Input {
    /// A person.
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf>, typing: Option<Typing> },
    /// A program or a file, and how many bytes of a message are read.
    Pipe(usize),
}

/// What reading gave.
enum Read {
    Text(String),
    /// Ctrl-C: what was typed is thrown away.
    Dropped,
    End,
}

impl Input {
    /// By what stdin is. A pipe's messages are read up to `most` bytes.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn open(most: usize) -> Result<Input, Error> {
        if !stdin().is_terminal() {
            return Ok(Input::Pipe(most));
        }
        // Where answers go to a file, what is typed is shown all the same, and not there.
        let behavior = if stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let mut editor = DefaultEditor::with_config(Config::builder().behavior(behavior).build()).map_err(failed)?;
        let history = history();
        if let Some(path) = &history {
            // A first start has none.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal { editor: Box::new(editor), history, typing: Typing::kept() })
    }

    /// Whether a person types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// Whether keys are read one by one, Ctrl-C among them, and are no signals.
    pub fn edits(&self) -> bool {
        matches!(self, Input::Terminal { typing: Some(_), .. })
    }

    /// The next message, `None` at the end of the input. A line that ends with a backslash goes on in the next one, and
    /// all between two lines of three double quotes is one message.
    ///
    /// # Errors
    /// Where stdin cannot be read or is no UTF-8.
    pub fn message(&mut self) -> Result<Option<String>, Error> {
        loop {
            match self.lines()? {
                Read::Text(text) => {
                    self.remember(&text);
                    return Ok(Some(text));
                }
                Read::Dropped => note("(Ctrl-D or /exit ends)"),
                Read::End => return Ok(None),
            }
        }
    }

    /// `text` after a person has changed it; `None` where that was given up.
    ///
    /// # Errors
    /// As `message`.
    pub fn edited(&mut self, text: &str) -> Result<Option<String>, Error> {
        let Read::Text(text) = self.line("> ", text, 0)? else { return Ok(None) };
        self.remember(&text);
        Ok(Some(text))
    }

    fn lines(&mut self) -> Result<Read, Error> {
        const QUOTES: &str = "\"\"\"";
        let mut line = match self.line("> ", "", 0)? {
            Read::Text(line) => line,
            nothing => return Ok(nothing),
        };
        if let Some(rest) = line.trim_start().strip_prefix(QUOTES) {
            let mut block = rest.to_string();
            while !block.trim_end().ends_with(QUOTES) {
                match self.next_line(block.len())? {
                    Read::Text(more) if block.is_empty() => block = more,
                    Read::Text(more) => block = block + "\n" + &more,
                    // A pipe that ends ends the block.
                    Read::End if !self.is_terminal() => break,
                    left => return Ok(left),
                }
            }
            return Ok(Read::Text(block.trim_end().trim_end_matches(QUOTES).trim_end().to_string()));
        }
        while line.ends_with('\\') {
            line.pop();
            match self.next_line(line.len())? {
                Read::Text(more) => line = line + "\n" + &more,
                Read::End if !self.is_terminal() => break,
                left => return Ok(left),
            }
        }
        Ok(Read::Text(line))
    }

    /// A line that goes on with a message. A person who wants to leave may: /exit is a part of a message only in a pipe.
    fn next_line(&mut self, read: usize) -> Result<Read, Error> {
        let read = self.line(". ", "", read)?;
        let leaves = matches!(&read, Read::Text(line) if self.is_terminal() && matches!(command::parse(line), Ok(Some(Command::Exit))));
        Ok(if leaves { Read::End } else { read })
    }

    /// One line, where `read` bytes of its message were read before.
    fn line(&mut self, prompt: &str, text: &str, read: usize) -> Result<Read, Error> {
        let editor = match self {
            Input::Terminal { editor, .. } => editor,
            Input::Pipe(most) => return pipe_line(most.saturating_sub(read)),
        };
        match editor.readline_with_initial(prompt, (text, "")) {
            Ok(line) => Ok(Read::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Read::Dropped),
            Err(ReadlineError::Eof) => Ok(Read::End),
            Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
                note("what was typed is no UTF-8 text");
                Ok(Read::Dropped)
            }
            Err(e) => Err(failed(e)),
        }
    }

    fn remember(&mut self, line: &str) {
        let Input::Terminal { editor, history, .. } = self else { return };
        // History is a comfort: a folder that cannot be written does not stop a conversation.
        let _ = editor.add_history_entry(line);
        if let Some(path) = history {
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(path);
        }
    }
}

fn failed(e: ReadlineError) -> Error {
    Error::Failed(format!("the terminal: {e}"))
}

fn pipe_line(most: usize) -> Result<Read, Error> {
    let mut bytes = Vec::new();
    let n = stdin().lock().take(most as u64 + 1).read_until(b'\n', &mut bytes).map_err(Error::io("stdin"))?;
    if n > most {
        return Err(Error::Usage("a message on stdin is far too long for the context: shorten it or raise --ctx".into()));
    }
    let line =
        String::from_utf8(bytes).map_err(|e| Error::Usage(format!("stdin is no UTF-8 text (byte {} of a line)", e.utf8_error().valid_up_to())))?;
    Ok(if n > 0 { Read::Text(line.trim_end_matches(['\n', '\r']).into()) } else { Read::End })
}

/// `ram-run/history` in `XDG_STATE_HOME` or `~/.local/state`.
fn history() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    Some(from("XDG_STATE_HOME").or_else(|| Some(from("HOME")?.join(".local/state")))?.join("ram-run/history"))
}
