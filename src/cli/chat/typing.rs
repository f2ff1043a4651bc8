//! What is typed while an answer streams.
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices as Index, Termios, tcgetattr, tcsetattr};
use std::io::stdin;

/// While this lives, what is typed between two prompts waits for the next one, whole: not cut into lines of at most 4,095 bytes, not shown
/// within the answer, and not thrown away by Ctrl-C, which ends the answer still.
pub struct Typing(Termios);

impl Typing {
    /// `None` where the editor reads whole lines itself and the terminal stays as it is.
    pub fn kept() -> Option<Typing> {
        let plain = std::env::var("TERM").is_ok_and(|term| ["dumb", "cons25", "emacs"].iter().any(|t| t.eq_ignore_ascii_case(&term)));
        let before = tcgetattr(stdin()).ok().filter(|_| !plain)?;
        let mut kept = before.clone();
        kept.local_flags -= LocalFlags::ICANON | LocalFlags::ECHO;
        kept.local_flags |= LocalFlags::NOFLSH;
        kept.input_flags -= InputFlags::ICRNL;
        kept.control_chars[Index::VMIN as usize] = 1;
        kept.control_chars[Index::VTIME as usize] = 0;
        // Drained, not flushed: what was typed before stays.
        tcsetattr(stdin(), SetArg::TCSADRAIN, &kept).ok()?;
        Some(Typing(before))
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.0);
    }
}
