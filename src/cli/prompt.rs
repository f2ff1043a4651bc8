//! Text from a file or a pipe, read no farther than it can be used: what is longer than a context is known without holding it.
use crate::cli::{Error, note};
use std::{
    io::{IsTerminal, Read},
    path::Path,
};

/// Bytes of text per token of context that are read: tokens of the known vocabularies have at most 256.
const PER_TOKEN: usize = 1024;

/// Bytes of a text that may still fit a context of `tokens`.
pub fn most(tokens: usize) -> usize {
    tokens.saturating_mul(PER_TOKEN)
}

/// What a file holds.
///
/// # Errors
/// Where it cannot be read, is no UTF-8, or cannot fit `context` tokens.
pub fn file(path: &Path, context: usize) -> Result<String, Error> {
    text(ram_run::files::open(path)?, path, context)?.map_err(|at| Error::file(path, format!("is no UTF-8 text (byte {at})")))
}

/// What comes from stdin until it ends.
///
/// # Errors
/// As for [`file`].
pub fn stdin(context: usize) -> Result<String, Error> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        note("Reading the text to continue from the terminal; end it with Ctrl-D.");
    }
    text(stdin.lock(), Path::new("stdin"), context)?.map_err(|at| Error::Usage(format!("stdin is no UTF-8 text (byte {at})")))
}

/// The text, or the first byte of it that is none.
fn text(from: impl Read, name: &Path, context: usize) -> Result<Result<String, usize>, Error> {
    let most = most(context);
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes).map_err(Error::io(name))?;
    if bytes.len() > most {
        return Err(ram_run::Error::Context { tokens: context + 1, capacity: context }.into());
    }
    Ok(String::from_utf8(bytes).map_err(|e| e.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_far_as_they_can_fit() {
        let read = |bytes: &[u8]| text(bytes, Path::new("a"), 4);
        assert_eq!(read(b"").expect("read"), Ok(String::new()));
        assert_eq!(read(&[b'a'; 4096]).expect("read"), Ok("a".repeat(4096)));
        assert_eq!(read(b"ab\xff").expect("read"), Err(2));
        assert_eq!(read(&[b'a'; 4097]).expect_err("too long").exit_code(), 2);
        // Without an end: as far as is needed.
        assert_eq!(text(std::io::repeat(b'a'), Path::new("a"), 1000).expect_err("too long").exit_code(), 2);
    }
}
