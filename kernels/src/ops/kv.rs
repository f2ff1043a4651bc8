//! Keys and values of one layer: pages of 64 tokens and one KV head each, which sequences with a common beginning share.
mod code;

use super::{
    checkpoints::Checkpoints,
    finite::{NotFinite, Watch, finite},
    rotate,
};
use crate::{
    isa::{Level, dispatch},
    team::Team,
};
use code::{Held, WriteCodes};
pub(super) use code::{LEVELS, rotated, rotated_back};
use half::f16;
use std::{
    io::{self, Read, Write},
    iter::repeat_n,
    ops::Range,
    sync::Arc,
};

/// Tokens of a page. The online softmax takes as many steps as there are pages, so that a token's result does not depend on how a prompt
/// was cut.
pub const PAGE: usize = 64;

/// What the KV cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvElement {
    /// 4 bytes per number.
    F32,
    /// 2 bytes per number.
    F16,
    /// A head of a token rotated and in 8 bits per number, with one scale: 8.25 bits for a head of 128.
    Q8,
    /// The same in 4 bits, which stand for the 16 levels of least square error for a Gaussian (Lloyd, 1982; Max, 1960). The first 64 tokens
    /// are in 16 bits, and later keys less the mean of theirs: what all keys have in common changes no weight, but would take most of the
    /// levels (KL 0.018 instead of 0.065 on a published model of 135 M parameters).
    Q4,
}

impl KvElement {
    /// All of them, from most to fewest bits.
    pub const ALL: [KvElement; 4] = [KvElement::F32, KvElement::F16, KvElement::Q8, KvElement::Q4];

    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            KvElement::F32 => "f32",
            KvElement::F16 => "f16",
            KvElement::Q8 => "q8",
            KvElement::Q4 => "q4",
        }
    }

    /// Bits of a number, and bytes that come with a key or a value.
    const fn size(self) -> (usize, usize) {
        match self {
            KvElement::F32 => (32, 0),
            KvElement::F16 => (16, 0),
            KvElement::Q8 => (8, size_of::<f32>()),
            KvElement::Q4 => (4, size_of::<f32>()),
        }
    }

    /// Bytes of a page of `parts`, keys and values or latents alone, of `wide` numbers each.
    fn page_bytes(self, wide: usize, parts: usize) -> usize {
        let (bits, more) = self.size();
        wide.saturating_mul(bits).saturating_add(8 * more).saturating_mul(parts * PAGE / 8)
    }

    /// What the number of a token's place makes of it: the first tokens of [`KvElement::Q4`] are in 16 bits.
    pub fn at(self, token: usize) -> KvElement {
        if self == KvElement::Q4 && token < PAGE { KvElement::F16 } else { self }
    }

    /// What a head's numbers are once they have been held, less `centre` in between; see [`KvElement::at`].
    pub fn held(self, head: &mut [f32], centre: &[f32]) {
        match self {
            KvElement::F32 => {}
            KvElement::F16 => head.iter_mut().for_each(|v| *v = f16::from_bits(half_bits(*v)).to_f32()),
            KvElement::Q8 | KvElement::Q4 => {
                head.iter_mut().zip(centre).for_each(|(v, c)| *v -= c);
                dispatch(Level::active(), Held { element: self, head });
                head.iter_mut().zip(centre).for_each(|(v, c)| *v += c);
            }
        }
    }
}

/// The mean of the keys of a first page, where it is full: `key` gives each.
pub fn centre(head_dim: usize, key: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..head_dim).map(|i| (0..PAGE).map(|t| key(t, i)).sum::<f32>() / PAGE as f32).collect()
}

/// What a page costs besides its numbers: its place in the list, its count of owners, the allocator's note.
const PAGE_MORE: usize = 48;

/// Numbers that a head takes in a page: up to a multiple of 16, of latents of 64.
fn wide(head_dim: usize, latent: bool) -> usize {
    head_dim.checked_next_multiple_of(if latent { 64 } else { 16 }).unwrap_or(usize::MAX)
}

/// Pages of one KV head: keys (PAGE / 16, head_dim, 16 tokens), then values (PAGE, head_dim), head_dim up to a multiple of 16. Of latents
/// values alone, of which the first numbers are values and all are keys.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    F32(Vec<Arc<[f32]>>),
    F16(Vec<Arc<[u16]>>),
    /// Keys (PAGE / 16, head_dim / 4, 16 tokens, 4 numbers), values as above, and their scales, (2, PAGE) of f32. In 4 bits the first half
    /// of 128 numbers has the lower bits of 64 bytes, the other half the upper ones.
    Codes(Vec<Arc<[u8]>>),
    /// The same behind a first page of halves.
    Centred(Centred),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Centred {
    /// One page at the most.
    pub first: Vec<Arc<[u16]>>,
    /// What later keys are less: the mean of the first page's, once it is full.
    pub centre: Vec<f32>,
    pub rest: Vec<Arc<[u8]>>,
}

/// Keys and values of one layer for the tokens of a sequence.
#[derive(Clone, Debug)]
pub struct KvLayer {
    element: KvElement,
    head_dim: usize,
    /// How many numbers of a key are its value, where it has no other.
    latent: Option<usize>,
    len: usize,
    capacity: usize,
    /// How many tokens queries look at, up to their own: pages that none sees any more are given back, but for those of some lengths that
    /// one can go back to.
    window: Option<usize>,
    lengths: Checkpoints<()>,
    heads: Vec<Pages>,
}

/// Tokens of one pass that [`KvLayer::window_bytes`] counts beside those that are looked back at.
const PASS: usize = 512;

impl KvLayer {
    /// Of no tokens, with room for `capacity`; memory is taken as it is used.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize, element: KvElement) -> KvLayer {
        let none = match element {
            KvElement::F32 => Pages::F32(Vec::new()),
            KvElement::F16 => Pages::F16(Vec::new()),
            KvElement::Q8 => Pages::Codes(Vec::new()),
            KvElement::Q4 => Pages::Centred(Centred::default()),
        };
        KvLayer { element, head_dim, latent: None, len: 0, capacity, window: None, lengths: Checkpoints::default(), heads: vec![none; kv_heads] }
    }

    /// Of no tokens that have one key of `head_dim` numbers each, whose first `values` numbers are its value.
    pub fn latent(head_dim: usize, values: usize, capacity: usize, element: KvElement) -> KvLayer {
        assert!(values <= head_dim, "a value is a part of its key");
        KvLayer { latent: Some(values), ..KvLayer::new(1, head_dim, capacity, element) }
    }

    /// The same, of no tokens, for queries that look at `window` tokens up to their own.
    #[must_use]
    pub fn looking_at(self, window: Option<usize>) -> KvLayer {
        KvLayer { window, ..self }
    }

    /// The most bytes of up to `tokens` tokens for queries that look at `window`, in passes of up to 512: what each place that one can go
    /// back to sees, and the tokens of a pass.
    pub fn window_bytes(kv_heads: usize, head_dim: usize, tokens: usize, element: KvElement, window: usize) -> usize {
        let seen = window.div_ceil(PAGE).saturating_add(1).saturating_mul(Checkpoints::<()>::MOST);
        let most = seen.saturating_add(PASS / PAGE + 1).saturating_mul(PAGE);
        // A place in the list for every page.
        let places = kv_heads.saturating_mul(tokens.div_ceil(PAGE)).saturating_mul(size_of::<Arc<[u8]>>());
        KvLayer::bytes(kv_heads, head_dim, tokens.min(most), element).saturating_add(places)
    }

    /// Bytes of `tokens` tokens; `usize::MAX` where they are more than that counts.
    pub fn bytes(kv_heads: usize, head_dim: usize, tokens: usize, element: KvElement) -> usize {
        kv_heads.saturating_mul(KvLayer::head_bytes(head_dim, tokens, element, false))
    }

    /// The same of latents.
    pub fn latent_bytes(head_dim: usize, tokens: usize, element: KvElement) -> usize {
        KvLayer::head_bytes(head_dim, tokens, element, true)
    }

    fn head_bytes(head_dim: usize, tokens: usize, element: KvElement, latent: bool) -> usize {
        let page = |element: KvElement| element.page_bytes(wide(head_dim, latent), if latent { 1 } else { 2 });
        let (pages, each) = (tokens.div_ceil(PAGE), |element: KvElement| page(element).saturating_add(PAGE_MORE));
        let first =
            if element == KvElement::Q4 { each(KvElement::F16).saturating_add(size_of::<f32>().saturating_mul(head_dim)) } else { each(element) };
        first.saturating_mul(pages.min(1)).saturating_add(each(element).saturating_mul(pages.saturating_sub(1)))
    }

    /// Heads of a token's keys, and of its values.
    pub fn kv_heads(&self) -> usize {
        self.heads.len()
    }

    /// Numbers of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Numbers of a value.
    pub fn value_dim(&self) -> usize {
        self.latent.unwrap_or(self.head_dim)
    }

    /// Numbers that are summed for a value of `values` numbers, of latents of `head_dim`: those that are rotated together with some of it.
    pub fn summed(head_dim: usize, values: usize) -> usize {
        let wide = wide(head_dim, true);
        values.next_multiple_of(rotate::block(wide)).min(wide)
    }

    /// The same of any.
    pub(super) fn summed_here(&self) -> usize {
        self.latent.map_or(self.wide(), |values| KvLayer::summed(self.head_dim, values))
    }

    /// Whether values are their keys' first numbers.
    pub(super) fn is_latent(&self) -> bool {
        self.latent.is_some()
    }

    /// Numbers that a head takes in a page.
    pub(super) fn wide(&self) -> usize {
        wide(self.head_dim, self.is_latent())
    }

    /// Keys and values, or latents alone.
    fn parts(&self) -> usize {
        if self.is_latent() { 1 } else { 2 }
    }

    fn page_bytes(&self, element: KvElement) -> usize {
        element.page_bytes(self.wide(), self.parts())
    }

    /// What it holds.
    pub fn element(&self) -> KvElement {
        self.element
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that a query behind `len` tokens looks at.
    fn seen(&self, len: usize) -> Range<usize> {
        let from = self.window.map_or(0, |window| (len + 1).saturating_sub(window));
        (from / PAGE).min(len.div_ceil(PAGE))..len.div_ceil(PAGE)
    }

    /// The largest number of tokens, up to `len`, that it can be cut back to: those whose windows are still there.
    pub fn reach(&self, len: usize) -> usize {
        // Without a window all pages are there: whoever looks for beginnings asks often.
        let there = self.window.is_none() || self.heads.first().is_none_or(|head| self.seen(len).all(|page| head.has(page)));
        if there { len } else { self.lengths.reach(len) }
    }

    /// Forgets all but the first tokens: [`KvLayer::reach`] of `len`. Their memory is used again.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.reach(self.len.min(len));
        self.lengths.truncate(self.len);
        self.count(1);
    }

    /// Notes the tokens that there are as a place that one can go back to, and those but the last, where pages for both are there: `places`.
    fn count(&mut self, places: usize) {
        let new = self.len - self.lengths.tokens();
        if self.window.is_none() || new == 0 {
            return;
        }
        if places > 1 && new > 1 {
            self.lengths.push(new - 1, ());
            self.lengths.push(1, ());
        } else {
            self.lengths.push(new, ());
        }
    }

    /// Gives back pages that no query sees any more which may come.
    fn give_back(&mut self) {
        let needed: Vec<Range<usize>> = self.lengths.lengths().map(|len| self.seen(len)).collect();
        self.heads.iter_mut().for_each(|head| head.keep(|page| needed.iter().any(|needed| needed.contains(&page))));
    }

    /// The same for the first tokens: [`KvLayer::reach`] of `len`. Both share their pages until one writes to them.
    #[must_use]
    pub fn fork(&self, len: usize) -> KvLayer {
        let mut fork = self.clone();
        fork.truncate(len);
        let pages = fork.len.div_ceil(PAGE);
        for head in &mut fork.heads {
            match head {
                Pages::F32(p) => p.truncate(pages),
                Pages::F16(p) => p.truncate(pages),
                Pages::Codes(p) => p.truncate(pages),
                Pages::Centred(c) => {
                    c.first.truncate(pages);
                    c.rest.truncate(pages.saturating_sub(1));
                }
            }
        }
        fork
    }

    /// What tells the pages of its first head apart: two sequences that have one in common share it, and then all other heads' and layers'
    /// of the same tokens.
    pub fn pages_held(&self) -> Vec<usize> {
        fn places<E>(pages: &[Arc<[E]>]) -> impl Iterator<Item = usize> {
            pages.iter().filter(|page| !page.is_empty()).map(|page| page.as_ptr().addr())
        }
        match self.heads.first() {
            None => Vec::new(),
            Some(Pages::F32(p)) => places(p).collect(),
            Some(Pages::F16(p)) => places(p).collect(),
            Some(Pages::Codes(p)) => places(p).collect(),
            Some(Pages::Centred(c)) => places(&c.first).chain(places(&c.rest)).collect(),
        }
    }

    /// Writes what it holds and its next token sees.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn save(&self, to: &mut dyn Write) -> io::Result<()> {
        let pages = self.seen(self.len);
        for head in &self.heads {
            match head {
                Pages::F32(p) => p[pages.clone()].iter().flat_map(|p| p.iter()).try_for_each(|v| to.write_all(&v.to_le_bytes()))?,
                Pages::F16(p) => p[pages.clone()].iter().flat_map(|p| p.iter()).try_for_each(|v| to.write_all(&v.to_le_bytes()))?,
                Pages::Codes(p) => p[pages.clone()].iter().try_for_each(|p| to.write_all(p))?,
                Pages::Centred(c) => {
                    // What later keys are less comes with the first page; where that is not there any more, by itself.
                    c.first[pages.start.min(1)..pages.end.min(1)].iter().flat_map(|p| p.iter()).try_for_each(|v| to.write_all(&v.to_le_bytes()))?;
                    let centre = if pages.start > 0 { &c.centre[..] } else { &[] };
                    centre.iter().try_for_each(|v| to.write_all(&v.to_le_bytes()))?;
                    c.rest[pages.start.saturating_sub(1)..pages.end.saturating_sub(1)].iter().try_for_each(|p| to.write_all(p))?;
                }
            }
        }
        Ok(())
    }

    /// Reads what [`KvLayer::save`] wrote of `len` tokens.
    ///
    /// # Errors
    /// Those of `from`; where a number is not finite. It is empty then.
    ///
    /// # Panics
    /// If it has no room for them.
    pub fn restore(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        assert!(len <= self.capacity, "room for {len} tokens");
        self.truncate(0);
        let (pages, d, element, (wide, latent)) = (self.seen(len), self.head_dim, self.element, (self.wide(), self.is_latent()));
        let (first, later, parts) = (self.page_bytes(element.at(0)), self.page_bytes(element), self.parts());
        self.make(pages.clone(), false);
        for head in &mut self.heads {
            if let (Pages::Centred(c), true) = (&mut *head, pages.start > 0) {
                let mut bytes = vec![0; size_of::<f32>() * d];
                from.read_exact(&mut bytes)?;
                c.centre = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                if c.centre.iter().any(|v| !v.is_finite()) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "has keys or values that are no numbers"));
                }
            }
            for page in pages.clone() {
                let mut bytes = vec![0; if page == 0 { first } else { later }];
                from.read_exact(&mut bytes)?;
                let finite = match head {
                    Pages::F32(p) => {
                        let page = own(&mut p[page]);
                        page.iter_mut().zip(bytes.as_chunks().0).for_each(|(v, b)| *v = f32::from_le_bytes(*b));
                        page.iter().all(|v| v.is_finite())
                    }
                    Pages::F16(p) => halves(own(&mut p[page]), &bytes),
                    Pages::Codes(p) => codes(own(&mut p[page]), &bytes, parts),
                    Pages::Centred(c) if page == 0 => {
                        let whole = halves(own(&mut c.first[0]), &bytes);
                        c.recentre(d, wide, latent);
                        whole
                    }
                    Pages::Centred(c) => codes(own(&mut c.rest[page - 1]), &bytes, parts),
                };
                if !finite {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "has keys or values that are no numbers"));
                }
            }
        }
        self.len = len;
        self.count(1);
        Ok(())
    }

    /// Pages of a head.
    pub(super) fn pages(&self, head: usize) -> &Pages {
        &self.heads[head]
    }

    /// Makes pages for `tokens` more tokens, and those that they are written to its own. The pages of all sequences are made by the thread
    /// that leads, not by whichever appends: so one part of the allocator has them all, and what is freed is found again.
    pub(super) fn reserve(&mut self, tokens: usize) {
        if self.window.is_some() {
            self.lengths.make_room(tokens.min(2));
            // Where no page begins, no other than before is left behind.
            if tokens > 1 || self.len.is_multiple_of(PAGE) {
                self.give_back();
            }
        }
        // Of the first page what is before the new tokens stays.
        self.make(self.len / PAGE..(self.len + tokens).div_ceil(PAGE), !self.len.is_multiple_of(PAGE));
    }

    /// Makes pages its own; the first keeps what it has if it is `kept`.
    fn make(&mut self, new: Range<usize>, kept: bool) {
        let numbers = self.parts() * PAGE * self.wide();
        let bytes = self.page_bytes(self.element);
        for head in &mut self.heads {
            match head {
                Pages::F32(pages) => make(pages, new.clone(), kept, numbers),
                Pages::F16(pages) => make(pages, new.clone(), kept, numbers),
                Pages::Codes(pages) => make(pages, new.clone(), kept, bytes),
                Pages::Centred(c) => {
                    make(&mut c.first, new.start.min(1)..new.end.min(1), kept, numbers);
                    make(&mut c.rest, new.start.saturating_sub(1)..new.end.saturating_sub(1), kept && new.start > 0, bytes);
                }
            }
        }
    }
}

impl Pages {
    /// Whether a page is there.
    fn has(&self, page: usize) -> bool {
        fn there<E>(pages: &[Arc<[E]>], page: usize) -> bool {
            pages.get(page).is_some_and(|page| !page.is_empty())
        }
        match self {
            Pages::F32(pages) => there(pages, page),
            Pages::F16(pages) => there(pages, page),
            Pages::Codes(pages) => there(pages, page),
            Pages::Centred(c) if page == 0 => there(&c.first, 0),
            Pages::Centred(c) => there(&c.rest, page - 1),
        }
    }

    /// Gives pages back that are not to be kept.
    fn keep(&mut self, kept: impl Fn(usize) -> bool) {
        fn keep<E>(pages: &mut [Arc<[E]>], from: usize, kept: impl Fn(usize) -> bool) {
            let not = pages.iter_mut().zip(from..).filter(|(page, at)| !page.is_empty() && !kept(*at));
            not.for_each(|(page, _)| *page = Arc::default());
        }
        match self {
            Pages::F32(pages) => keep(pages, 0, kept),
            Pages::F16(pages) => keep(pages, 0, kept),
            Pages::Codes(pages) => keep(pages, 0, kept),
            Pages::Centred(c) => {
                keep(&mut c.first, 0, &kept);
                keep(&mut c.rest, 1, kept);
            }
        }
    }
}

/// Makes the pages `new` its owner's alone, of `units` zeros where they are not; the first keeps what it has if it is `kept`.
fn make<T: Copy + Default>(pages: &mut Vec<Arc<[T]>>, new: Range<usize>, kept: bool, units: usize) {
    // Those that nobody sees are not there.
    pages.resize_with(pages.len().max(new.start), Arc::default);
    for at in new.clone() {
        let fresh = || repeat_n(T::default(), units).collect::<Arc<[T]>>();
        match pages.get_mut(at) {
            None => pages.push(fresh()),
            Some(page) if kept && at == new.start => drop(Arc::make_mut(page)),
            Some(page) => {
                if page.is_empty() || Arc::get_mut(page).is_none() {
                    *page = fresh();
                }
            }
        }
    }
}

/// Halves from their bytes; whether all are finite.
fn halves(page: &mut [u16], bytes: &[u8]) -> bool {
    page.iter_mut().zip(bytes.as_chunks().0).for_each(|(v, b)| *v = u16::from_le_bytes(*b));
    page.iter().all(|v| f16::from_bits(*v).is_finite())
}

/// Codes of `parts` from their bytes; whether all scales are finite.
fn codes(page: &mut [u8], bytes: &[u8], parts: usize) -> bool {
    page.copy_from_slice(bytes);
    let scales = &bytes[bytes.len() - parts * PAGE * size_of::<f32>()..];
    scales.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite())
}

impl Centred {
    /// Finds the centre of the first page, which is full.
    fn recentre(&mut self, d: usize, wide: usize, latent: bool) {
        let page = &self.first[0];
        let place = |t: usize, i: usize| if latent { t * wide + i } else { t / 16 * wide * 16 + 16 * i + t % 16 };
        self.centre = centre(d, |t, i| f16::from_bits(page[place(t, i)]).to_f32());
    }
}

fn own<T>(page: &mut Arc<[T]>) -> &mut [T] {
    Arc::get_mut(page).expect("a page that was made for new tokens")
}

/// Heads of every token: head h of token t starts at `t * stride + h * step`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// All of them.
    pub data: &'a [f32],
    /// Numbers from one token's to the next one's.
    pub stride: usize,
    /// Numbers from one head to the next one.
    pub step: usize,
}

impl<'a> Heads<'a> {
    pub(super) fn head(self, token: usize, head: usize, head_dim: usize) -> &'a [f32] {
        &self.data[token * self.stride + head * self.step..][..head_dim]
    }
}

/// Adds to each layer the keys and values of as many tokens, one sequence's after the other's; heads in parallel. Of latents there are only
/// keys. Those that are not finite are not written, so that nobody comes across them later, and no layer counts its new ones.
pub(super) fn append(team: &Team, layers: &mut [(&mut KvLayer, usize)], k: Heads, v: Heads) -> Result<(), NotFinite> {
    let (level, watch) = (team.level(), Watch::default());
    let mut tasks = Vec::with_capacity(layers.iter().map(|(layer, _)| layer.heads.len()).sum());
    let mut first = 0;
    for (layer, tokens) in layers.iter_mut() {
        assert!(*tokens <= layer.capacity - layer.len, "the KV cache is full");
        layer.reserve(*tokens);
        let (element, d, at, wide, latent) = (layer.element, layer.head_dim, layer.len, layer.wide(), layer.is_latent());
        tasks.extend(layer.heads.iter_mut().enumerate().map(|(h, pages)| (pages, h, element, [d, wide, at], latent, first..first + *tokens)));
        first += *tokens;
    }
    team.chunks(&mut tasks, 1, |_, task| {
        for (pages, h, element, [d, wide, at], latent, tokens) in task {
            let new = tokens.clone().map(|t| (*at + t - tokens.start, k.head(t, *h, *d), if *latent { &[] } else { v.head(t, *h, *d) }));
            let new = new.filter(|(_, k, v)| {
                let both = finite(level, k) && finite(level, v);
                watch.see(both);
                both
            });
            match pages {
                Pages::F32(pages) => write(pages, *wide, *latent, new, |v| v),
                Pages::F16(pages) => write(pages, *wide, *latent, new, half_bits),
                Pages::Codes(pages) => dispatch(level, WriteCodes { pages, centre: &[], element: *element, wide: *wide, latent: *latent, new }),
                Pages::Centred(c) => {
                    let mut new = new.peekable();
                    while let Some(token) = new.next_if(|(at, ..)| *at < PAGE) {
                        write(&mut c.first, *wide, *latent, std::iter::once(token), half_bits);
                    }
                    if (*at..*at + tokens.len()).contains(&(PAGE - 1)) {
                        c.recentre(*d, *wide, *latent);
                    }
                    let new = new.map(|(at, k, v)| (at - PAGE, k, v));
                    dispatch(level, WriteCodes { pages: &mut c.rest, centre: &c.centre, element: *element, wide: *wide, latent: *latent, new });
                }
            }
        }
    });
    watch.result("keys or values")?;
    for (layer, tokens) in layers.iter_mut() {
        layer.len += *tokens;
        layer.count(2);
    }
    Ok(())
}

/// Writes keys and values of one KV head, each with the number of its token; of latents the keys, as values are.
fn write<'a, E>(
    pages: &mut [Arc<[E]>],
    wide: usize,
    latent: bool,
    new: impl Iterator<Item = (usize, &'a [f32], &'a [f32])>,
    store: impl Fn(f32) -> E,
) {
    for (at, k, v) in new {
        let (keys, values) = own(&mut pages[at / PAGE]).split_at_mut(if latent { 0 } else { PAGE * wide });
        let at = at % PAGE;
        let v = if latent { k } else { v };
        values[at * wide..].iter_mut().zip(v).for_each(|(to, &v)| *to = store(v));
        if !latent {
            keys[at / 16 * wide * 16 + at % 16..].iter_mut().step_by(16).zip(k).for_each(|(to, &k)| *to = store(k));
        }
    }
}

/// The largest half for what is larger: one outlier must not turn a whole row into NaN.
fn half_bits(v: f32) -> u16 {
    f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits()
}
