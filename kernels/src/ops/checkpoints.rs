//! States that cannot be cut back, kept at several lengths so that something of them can.

/// States of a sequence by how many tokens they are of, from few to many; the last is the sequence's, the one before it what it was before
/// its last pass.
#[derive(Clone, Debug)]
pub struct Checkpoints<T> {
    held: Vec<Held<T>>,
}

#[derive(Clone, Debug)]
struct Held<T> {
    /// Tokens that it is of.
    len: usize,
    /// Tokens of the pass that made it.
    pass: usize,
    state: T,
}

impl<T> Default for Checkpoints<T> {
    fn default() -> Self {
        Checkpoints { held: Vec::new() }
    }
}

/// Tokens that are chosen one by one until one of their states is kept.
const EVERY: usize = 1024;

impl<T> Checkpoints<T> {
    /// States that there are at the most, with those that a pass makes: that of all its tokens, that of all but the last, as the last is
    /// computed again where somebody asks for the same text, and the one before it; and three to go back to.
    pub const MOST: usize = 6;

    /// Tokens of the sequence.
    pub fn tokens(&self) -> usize {
        self.held.last().map_or(0, |held| held.len)
    }

    /// The sequence's: none for one of no tokens.
    pub fn last(&self) -> Option<&T> {
        self.held.last().map(|held| &held.state)
    }

    /// How many tokens each is of.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.held.iter().map(|held| held.len)
    }

    /// All of them.
    pub fn states(&self) -> impl Iterator<Item = &T> {
        self.held.iter().map(|held| &held.state)
    }

    /// The state after a pass of `tokens` tokens.
    pub fn push(&mut self, tokens: usize, state: T) {
        self.held.push(Held { len: self.tokens() + tokens, pass: tokens, state });
    }

    /// The largest length up to `len` that it can be cut back to.
    pub fn reach(&self, len: usize) -> usize {
        self.held.iter().map(|held| held.len).rfind(|own| *own <= len).unwrap_or(0)
    }

    /// Forgets states of more than `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.held.retain(|held| held.len <= len);
    }

    /// Makes room for `coming` states of another pass; gives those that were given up for it. The one before the last pass is kept where a text
    /// was read up to there or from there on, since it is where the next one may begin to differ, and now and then among tokens that were
    /// chosen.
    pub fn make_room(&mut self, coming: usize) -> Vec<T> {
        let mut given_up = Vec::new();
        if let [.., before, last] = &self.held[..] {
            let n = self.held.len();
            let since = before.len - n.checked_sub(3).map_or(0, |i| self.held[i].len);
            if before.pass == 1 && last.pass == 1 && coming == 1 && since < EVERY {
                given_up.push(self.held.remove(n - 2).state);
            }
        }
        while self.held.len() + coming > Self::MOST {
            // Whoever goes back to one that is given up computes again from the one before it; how likely that is falls with its distance
            // from the end.
            let end = self.tokens();
            let cost = |i: usize| (self.held[i].len - if i == 0 { 0 } else { self.held[i - 1].len }) as f64 / (end + 1 - self.held[i].len) as f64;
            let cheapest = (0..self.held.len() - 1).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0);
            given_up.push(self.held.remove(cheapest).state);
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of these lengths; the lengths that it can be cut back to.
    fn after(passes: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let (mut all, mut len) = (Checkpoints::default(), 0);
        for tokens in passes {
            all.make_room(1);
            len += tokens;
            all.push(tokens, len);
            assert!(all.held.len() <= Checkpoints::<usize>::MOST && all.last() == Some(&len));
        }
        all.states().copied().collect()
    }

    #[test]
    fn ends_of_texts_stay_and_tokens_pass() {
        // A prompt in pieces, an answer, another prompt: the state before the last pass is always there.
        assert_eq!(after([512, 512, 300]), [512, 1024, 1324]);
        assert_eq!(after([512, 512, 300].into_iter().chain([1; 200])), [512, 1024, 1324, 1523, 1524]);
        assert_eq!(after([512, 512, 300].into_iter().chain([1; 200]).chain([39, 1, 1, 1])), [1024, 1324, 1524, 1563, 1565, 1566]);
        // Long answers have some.
        assert_eq!(after([10].into_iter().chain([1; 3000])), [10, 1034, 2058, 3009, 3010]);
        // Of a long prompt those near its end are closer together.
        assert_eq!(after([256; 64]), [12288, 14336, 15360, 15872, 16128, 16384]);
    }

    #[test]
    fn what_is_cut_back_is_a_state_that_is_held() {
        let mut all = Checkpoints::default();
        for (tokens, len) in [(100, 100), (100, 200), (1, 201)] {
            all.push(tokens, len);
        }
        assert_eq!([0, 99, 100, 150, 200, 201, 500].map(|len| all.reach(len)), [0, 0, 100, 100, 200, 201, 201]);
        all.truncate(150);
        assert_eq!((all.last(), all.reach(500)), (Some(&100), 100));
        all.truncate(0);
        assert_eq!(all.last(), None);
    }
}
