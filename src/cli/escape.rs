//! What others wrote (models, checkpoints, templates, file names), made harmless for a terminal.
use std::borrow::Cow;

/// The text with every character that a terminal obeys (C0 but newline and tab, DEL, C1) or that reorders what stands around it (bidi
/// embeddings, overrides and isolates) shown as `\u{1b}`.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 8), |mut out, c| {
            if acts(c) {
                out.extend(c.escape_unicode())
            } else {
                out.push(c)
            }
            out
        })
        .into()
}

fn acts(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_and_the_rest_stays() {
        for text in ["", "a\tb\n", "é 漢字 😀 שלום", "\u{a0}\u{2028}"] {
            assert!(matches!(clean(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
        assert_eq!(clean("a\x1b[2J\r\u{9b}1m\x7f\u{202e}b"), "a\\u{1b}[2J\\u{d}\\u{9b}1m\\u{7f}\\u{202e}b");
        let all: String = ('\0'..='\u{2100}').collect();
        let shown = clean(&all);
        assert!(shown.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()), "{shown:?}");
        assert_eq!(shown.matches("\\u{").count(), 32 - 2 + 1 + 32 + 5 + 4);
    }
}
