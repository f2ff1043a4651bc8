//! Tokens of a long text, piece by piece: to encode one at once takes a hundred times its size.
//!
//! A piece begins at a token of the piece before it, some tokens before its end. Where both have the same tokens one after the
//! other, neither the end of the one nor the start of the other is felt any more, and there they are joined. For byte pair encoding
//! that is exact: whether two neighbours stay apart depends on these two alone. Patterns that cut a text into words look ahead only.
use crate::Error;
use std::ops::Range;

/// Tokens on which two pieces agree where they are joined: on four before the place, and on four behind it.
const AGREE: usize = 8;
/// Tokens from the start of a piece to the end of the one before, at first.
const OVERLAP: usize = 4 * AGREE;
/// Bytes of a piece at most. Known tokenizers agree within the first one.
const LONGEST: usize = 1 << 20;

/// A token, and the bytes of the text that it stands for; the tokens of one character's bytes all stand for the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub at: Range<usize>,
    pub id: u32,
}

/// The tokens of a text, of which about `size` bytes are encoded at a time.
///
/// # Errors
/// [`Error::Context`] as soon as there are more than `limit`; what `encode` says; [`Error::Tokenizer`] where pieces never agree.
pub fn encode(text: &str, size: usize, limit: usize, encode: &dyn Fn(&str) -> Result<Vec<Token>, Error>) -> Result<Vec<u32>, Error> {
    let piece = |from: usize, to: usize| -> Result<Vec<Token>, Error> {
        let mut tokens = encode(&text[from..to])?;
        tokens.iter_mut().for_each(|t| t.at = t.at.start + from..t.at.end + from);
        Ok(tokens)
    };
    let mut done: Vec<u32> = Vec::new();
    let fits = |n: usize| if n <= limit { Ok(()) } else { Err(Error::Context { tokens: n, capacity: limit }) };
    // The tokens of text[start..end]; those before `first` are from the piece before.
    let (mut start, mut end, mut ahead) = (0, text.len().min(size), size);
    end = text.ceil_char_boundary(end);
    let (mut held, mut first) = (piece(start, end)?, 0);
    while end < text.len() {
        fits(done.len())?;
        let next_end = text.ceil_char_boundary(text.len().min(end + ahead));
        let mut overlap = OVERLAP;
        let joined = loop {
            let Some(from) = begin(&held, first, overlap, text) else { break None };
            // Some tokenizers put a space in front: in a long run of spaces it must take the place of one.
            let after = text.ceil_char_boundary(held[from].at.start + 1);
            let mut found = None;
            for start in [held[from].at.start, after] {
                let next = piece(start, next_end)?;
                if let Some((i, j)) = agree(&held[from..], &next) {
                    found = Some((start, from + i, next, j));
                    break;
                }
            }
            if found.is_some() {
                break found;
            }
            overlap *= 4;
        };
        if let Some((from, last, next, j)) = joined {
            done.extend(held[first..last].iter().map(|t| t.id));
            (start, end, ahead) = (from, next_end, size);
            (held, first) = (next, j);
        } else if next_end - start <= LONGEST {
            // Tokens longer than a piece, or no end to a word: farther ahead there is one.
            ahead *= 2;
            let before = held.get(first).cloned();
            (held, end) = (piece(start, next_end)?, next_end);
            first = before.map_or(0, |b| held.iter().position(|t| t.at.start >= b.at.start).unwrap_or(0));
        } else {
            return Err(Error::Tokenizer(format!("its tokens of {LONGEST} bytes, from byte {start}, all depend on each other")));
        }
    }
    done.extend(held[first..].iter().map(|t| t.id));
    fits(done.len())?;
    Ok(done)
}

/// Where the next piece begins: `overlap` tokens before the end of this, at a token that begins a character.
fn begin(held: &[Token], first: usize, overlap: usize, text: &str) -> Option<usize> {
    let from = held.len().checked_sub(overlap)?;
    (first + 1..=from).rev().find(|&i| apart(held, i) && text.is_char_boundary(held[i].at.start))
}

/// Whether a token stands for nothing that the one before stands for too.
fn apart(tokens: &[Token], i: usize) -> bool {
    tokens[i - 1].at.end <= tokens[i].at.start
}

/// Places in both with the same tokens before and behind them.
fn agree(held: &[Token], next: &[Token]) -> Option<(usize, usize)> {
    let (mut i, mut j, mut run) = (0, 0, 0);
    while i < held.len() && j < next.len() {
        if held[i] == next[j] {
            run += 1;
            (i, j) = (i + 1, j + 1);
            let (a, b) = (i.saturating_sub(AGREE / 2), j.saturating_sub(AGREE / 2));
            if run >= AGREE && b > 0 && apart(next, b) {
                return Some((a, b));
            }
        } else {
            run = 0;
            if held[i].at.start < next[j].at.start { i += 1 } else { j += 1 }
        }
    }
    None
}
