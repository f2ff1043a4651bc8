//! The bytes that a token stands for: a character may be cut between two.
use tokenizers::{DecoderWrapper, Tokenizer};

/// How a vocabulary writes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Each byte as a character, the printable ones as themselves (Radford et al., 2019: GPT-2).
    Level,
    /// As text with `▁` for a space, and single bytes as `<0xNN>` (Kudo and Richardson, 2018: SentencePiece).
    Fallback,
}

impl Writing {
    /// That of a tokenizer, as its decoder reads it.
    pub fn of(tokenizer: &Tokenizer) -> Writing {
        fn level(decoder: &DecoderWrapper) -> bool {
            match decoder {
                DecoderWrapper::ByteLevel(_) => true,
                DecoderWrapper::Sequence(all) => all.get_decoders().iter().any(level),
                _ => false,
            }
        }
        if tokenizer.get_decoder().is_some_and(level) { Writing::Level } else { Writing::Fallback }
    }

    /// The bytes that a token of the vocabulary, no added one, writes.
    pub fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Writing::Level => {
                // A character that stands for no byte is its own text.
                let bytes = token.chars().map(byte).collect::<Option<Vec<u8>>>();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Writing::Fallback => {
                let number = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|digits| digits.len() == 2);
                match number.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => token.replace('\u{2581}', " ").into_bytes(),
                }
            }
        }
    }
}

/// Bytes that are written as themselves.
fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The byte that a character stands for: the others come in order from 256 on.
fn byte(c: char) -> Option<u8> {
    match u32::from(c) {
        n @ 0..=255 => u8::try_from(n).ok().filter(|byte| printable(*byte)),
        n => (0..=255).filter(|byte| !printable(*byte)).nth(n as usize - 256),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        let all: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte).collect();
        assert!(all.len() == 256 && (0..=255).all(|b| all.contains(&b)));
        assert_eq!(Writing::Level.bytes("Ġa"), b" a");
        assert_eq!(Writing::Level.bytes("Ċ"), b"\n");
        assert_eq!(Writing::Fallback.bytes("<0xE6>"), [0xe6]);
        assert_eq!(Writing::Fallback.bytes("\u{2581}a"), b" a");
        assert_eq!(Writing::Fallback.bytes("<0xE6"), b"<0xE6");
    }
}
