//! Beginnings that were computed, kept for jobs that begin alike: those least recently used give way first, from their ends on.
use ram_models::KvCache;

/// Tokens whose keys and values are there.
struct Kept {
    owner: u64,
    tokens: Vec<u32>,
    cache: KvCache,
    used: u64,
}

impl Kept {
    /// How many tokens of a text are there.
    fn reach(&self, tokens: &[u32]) -> usize {
        self.cache.reach(common(&self.tokens, tokens))
    }
}

/// All of them.
#[derive(Default)]
pub struct Beginnings {
    all: Vec<Kept>,
    clock: u64,
    most: usize,
}

/// Tokens that two texts begin with.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Beginnings {
    /// None yet, `most` at the most.
    pub fn new(most: usize) -> Beginnings {
        Beginnings { most, ..Beginnings::default() }
    }

    /// How many tokens of a text are there.
    pub fn longest(&self, owner: u64, tokens: &[u32]) -> usize {
        self.all.iter().filter(|kept| kept.owner == owner).map(|kept| kept.reach(tokens)).max().unwrap_or(0)
    }

    /// Keys and values of what a text begins with, as far as they are there.
    pub fn find(&mut self, owner: u64, tokens: &[u32]) -> Option<KvCache> {
        self.clock += 1;
        let own = self.all.iter_mut().filter(|kept| kept.owner == owner);
        let (len, found) = own.map(|kept| (kept.reach(tokens), kept)).max_by_key(|(len, _)| *len)?;
        found.used = self.clock;
        (len > 0).then(|| found.cache.fork(len))
    }

    /// Keeps the keys and values of `tokens`, all of them.
    pub fn keep(&mut self, owner: u64, tokens: &[u32], cache: KvCache) {
        self.clock += 1;
        if tokens.is_empty() || self.most == 0 {
            return;
        }
        if let Some(same) = self.all.iter_mut().find(|kept| kept.owner == owner && kept.tokens.starts_with(tokens)) {
            same.used = self.clock;
            return;
        }
        self.all.retain(|kept| kept.owner != owner || !tokens.starts_with(&kept.tokens));
        if self.all.len() == self.most {
            self.all.swap_remove(self.oldest().unwrap_or(0));
        }
        self.all.push(Kept { owner, tokens: tokens.to_vec(), cache, used: self.clock });
    }

    fn oldest(&self) -> Option<usize> {
        (0..self.all.len()).min_by_key(|i| self.all[*i].used)
    }

    /// Gives up to `pages` pages of the least recently used one back; false where nothing is kept. A page that others have too is not free
    /// after it.
    pub fn shorten(&mut self, pages: usize) -> bool {
        let Some(at) = self.oldest() else { return false };
        let kept = &mut self.all[at];
        let left = kept.tokens.len().div_ceil(KvCache::PAGE).saturating_sub(pages.max(1)) * KvCache::PAGE;
        kept.cache = kept.cache.fork(left);
        kept.tokens.truncate(kept.cache.len());
        if kept.tokens.is_empty() {
            self.all.swap_remove(at);
        }
        true
    }

    /// [`KvCache::pages`] of all.
    pub fn pages(&self) -> impl Iterator<Item = usize> {
        self.all.iter().flat_map(|kept| kept.cache.pages())
    }
}
