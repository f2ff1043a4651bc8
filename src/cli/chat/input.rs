//! What a person types, with editing and history; or the lines of a pipe.
use crate::cli::Error;
use rustyline::{DefaultEditor, error::ReadlineError};
use std::{
    io::{BufRead, IsTerminal},
    path::PathBuf,
};

/// Where messages come from.
pub enum Input {
    /// A person.
    Terminal(Box<DefaultEditor>, Option<PathBuf>),
    /// A program or a file.
    Pipe,
}

impl Input {
    /// By what stdin is.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn open() -> Result<Input, Error> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Pipe);
        }
        let mut editor = DefaultEditor::new().map_err(|e| Error::Failed(format!("the terminal: {e}")))?;
        let path = history();
        if let Some(path) = &path {
            // A first start has none.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal(Box::new(editor), path))
    }

    /// Whether a person types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(..))
    }

    /// The next message, `None` at the end of the input. A line that ends with a backslash goes on in the next one, and
    /// all between two lines of three double quotes is one message. `text` is there to be edited.
    ///
    /// # Errors
    /// Where stdin cannot be read or is no UTF-8.
    pub fn message(&mut self, text: &str) -> Result<Option<String>, Error> {
        let Some(mut line) = self.line("> ", text)? else { return Ok(None) };
        const QUOTES: &str = "\"\"\"";
        if let Some(rest) = line.trim_start().strip_prefix(QUOTES) {
            let mut block = rest.to_string();
            while !block.trim_end().ends_with(QUOTES) {
                let Some(more) = self.line(". ", "")? else { break };
                block = if block.is_empty() { more } else { block + "\n" + &more };
            }
            line = block.trim_end().trim_end_matches(QUOTES).trim_end().to_string();
        } else {
            while line.ends_with('\\') {
                line.pop();
                let Some(more) = self.line(". ", "")? else { break };
                line = line + "\n" + &more;
            }
        }
        self.remember(&line);
        Ok(Some(line))
    }

    /// One line; Ctrl-C throws away what was typed.
    fn line(&mut self, prompt: &str, text: &str) -> Result<Option<String>, Error> {
        let Input::Terminal(editor, _) = self else { return pipe_line() };
        loop {
            match editor.readline_with_initial(prompt, (text, "")) {
                Ok(line) => return Ok(Some(line)),
                Err(ReadlineError::Interrupted) => eprintln!("(Ctrl-D or /exit ends)"),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(e) => return Err(Error::Failed(format!("the terminal: {e}"))),
            }
        }
    }

    fn remember(&mut self, line: &str) {
        let Input::Terminal(editor, path) = self else { return };
        // History is a comfort: a folder that cannot be written does not stop a conversation.
        let _ = editor.add_history_entry(line);
        if let Some(path) = path {
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(path);
        }
    }
}

fn pipe_line() -> Result<Option<String>, Error> {
    let mut bytes = Vec::new();
    let n = std::io::stdin().lock().read_until(b'\n', &mut bytes).map_err(Error::io("stdin"))?;
    let line =
        String::from_utf8(bytes).map_err(|e| Error::Usage(format!("stdin is no UTF-8 text (byte {} of a line)", e.utf8_error().valid_up_to())))?;
    Ok((n > 0).then(|| line.trim_end_matches(['\n', '\r']).to_string()))
}

/// `ram-run/history` in `XDG_STATE_HOME` or `~/.local/state`.
fn history() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    Some(from("XDG_STATE_HOME").or_else(|| Some(from("HOME")?.join(".local/state")))?.join("ram-run/history"))
}
