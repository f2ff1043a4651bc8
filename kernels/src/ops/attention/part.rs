//! What some queries find in some of the tokens, and how such finds are joined.
use super::{
    super::kv::{KvLayer, PAGE, Pages, rotated, rotated_back},
    page::{Codes, Floats, Page},
    queries::Queries,
};
use crate::isa::{Isa, Kernel};
use std::{ops::Range, sync::Arc};

/// Queries that share each load of a key or a value, at the most.
pub const QUERIES: usize = 8;
/// Up to so many numbers of a value what belongs to a block of queries stays on the stack.
const MOST_DIM: usize = 256;

/// Vectors of what a query has found in a part of the tokens: its sums, and one with the largest score and the sum of all weights.
pub fn part_vectors(cache: &KvLayer) -> usize {
    cache.summed_here() / 16 + 1
}

/// A query, and the tokens that it sees.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    pub row: &'a [f32],
    pub from: usize,
    pub to: usize,
}

/// What queries, at most [`most_queries`] of them, find in the tokens `within`.
pub struct Part<'a> {
    pub cache: &'a KvLayer,
    pub head: usize,
    /// None sees an earlier token than those before it.
    pub queries: &'a [Query<'a>],
    pub within: Range<usize>,
    /// (queries, [`part_vectors`]).
    pub parts: &'a mut [[f32; 16]],
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        if self.cache.is_latent() { self.by_layout::<I, true>(isa) } else { self.by_layout::<I, false>(isa) }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn by_layout<I: Isa, const LATENT: bool>(self, isa: I) {
        match self.cache.pages(self.head) {
            Pages::F32(pages) => self.of::<I, Floats<f32, LATENT>>(isa, pages, &[]),
            Pages::F16(pages) => self.of::<I, Floats<u16, LATENT>>(isa, pages, &[]),
            Pages::Codes(pages) => self.of::<I, Codes<8, LATENT>>(isa, pages, &[]),
            Pages::Centred(c) if self.within.start == 0 => self.of::<I, Floats<u16, LATENT>>(isa, &c.first, &[]),
            // Its pages begin behind the first one.
            Pages::Centred(c) => {
                let later = |at: usize| at.saturating_sub(PAGE);
                let queries: [_; QUERIES] = std::array::from_fn(|i| {
                    let Query { row, from, to } = self.queries[i.min(self.queries.len() - 1)];
                    Query { row, from: later(from), to: later(to) }
                });
                let within = later(self.within.start)..later(self.within.end);
                let part = Part { queries: &queries[..self.queries.len()], within, ..self };
                part.of::<I, Codes<4, LATENT>>(isa, &c.rest, &c.centre);
            }
        }
    }

    #[inline(always)]
    fn of<I: Isa, P: Page>(self, isa: I, pages: &[Arc<[P::Unit]>], centre: &[f32]) {
        if const { I::TILES == 2 } { self.by::<I, P, 2>(isa, pages, centre) } else { self.by::<I, P, 1>(isa, pages, centre) }
    }

    #[inline(always)]
    fn by<I: Isa, P: Page, const R: usize>(self, isa: I, pages: &[Arc<[P::Unit]>], centre: &[f32]) {
        // Every head looks at the same latents: there are never few, and nothing is compiled for that.
        if const { !P::LATENT } {
            match self.queries.len() {
                1 => return block::<I, P, 1, R>(isa, pages, centre, self),
                2 => return block::<I, P, 2, R>(isa, pages, centre, self),
                _ => {}
            }
        }
        match self.queries.len() {
            1..=4 => block::<I, P, 4, R>(isa, pages, centre, self),
            _ => {
                // Where a block has at most 4, none is compiled for 8.
                if const { I::TOKENS > 4 } {
                    block::<I, P, 8, R>(isa, pages, centre, self);
                }
            }
        }
    }
}

/// N queries through the online softmax (Milakov and Gimelshein 2018): running maximum, sum and output. Queries beyond
/// those that `parts` takes repeat the last one and are not stored. R vectors of keys or values share each load of a query's number;
/// beyond the last they repeat it. Where a query's product with a key is not finite, sums of weights are NaN.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn block<I: Isa, P: Page, const N: usize, const R: usize>(isa: I, pages: &[Arc<[P::Unit]>], centre: &[f32], part: Part) {
    let Part { cache, queries, within, parts, .. } = part;
    let d = cache.head_dim();
    let (wide, row) = (cache.wide(), |i: usize| queries[i.min(queries.len() - 1)]);
    let (mut words, mut bytes, mut room, mut longer) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut floats: [&[f32]; N] = std::array::from_fn(|i| &row(i).row[..d]);
    let sees: [[usize; 2]; N] = std::array::from_fn(|i| [row(i).from, row(i).to]);
    if P::LATENT && wide > d {
        longer.resize(N * wide, 0.0);
        longer.chunks_exact_mut(wide).zip(floats).for_each(|(longer, q)| longer[..d].copy_from_slice(q));
        floats = std::array::from_fn(|i| &longer[i * wide..][..wide]);
    }
    let mut q = Queries { floats, words: [&[]; N], bytes: [&[]; N], off: [0; N], factor: [1.0 / (d as f32).sqrt(); N], more: [0.0; N] };
    if P::CODES {
        words.resize(N * wide / 4, 0);
        room.resize(if P::ROOM { PAGE * wide } else { 0 }, 0);
        let mut turned = vec![[0.0; 16]; wide / 16];
        for (i, words) in words.chunks_exact_mut(wide / 4).enumerate() {
            let (scale, sum) = coded(isa, floats[i], &mut turned, words);
            (q.factor[i], q.off[i]) = (q.factor[i] * scale, (128 - I::CENTRE) * sum);
        }
        q.words = std::array::from_fn(|i| &words[i * wide / 4..][..wide / 4]);
        if P::LATENT {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            q.bytes = std::array::from_fn(|i| bytes[i * wide..][..wide].as_chunks().0);
        }
        // What every key is less adds the same to all scores.
        q.more = floats.map(|q| q.iter().zip(centre).map(|(q, c)| q * c).sum::<f32>() / (d as f32).sqrt());
    }
    let (mut most, mut total) = ([f32::NEG_INFINITY; N], [0.0f32; N]);
    // 0, or NaN from the first product on that is not finite: an infinity's weight may look like any other.
    let mut fault = isa.splat(0.0);
    let (mut small, mut large) = ([[[0.0f32; 16]; N]; MOST_DIM / 16], Vec::new());
    let vectors = cache.summed_here() / 16;
    let sums = if vectors <= MOST_DIM / 16 {
        &mut small[..vectors]
    } else {
        large.resize(vectors, [[0.0; 16]; N]);
        &mut large
    };
    // Bytes of 16 numbers, and of the keys of 16 tokens.
    let vector = size_of::<[P::Unit; 16]>() / P::PER;
    let keys = wide * vector;
    // Pages that the first query does not see, none does.
    let first_seen = within.start.max(queries[0].from / PAGE * PAGE);
    for start in (first_seen..within.end).step_by(PAGE) {
        let stop = (start + PAGE).min(within.end);
        let page = &*pages[start / PAGE];
        if P::LATENT {
            P::ready(isa, page, wide, stop - start, &mut room);
        }
        let mut scores = [[[0.0f32; 16]; PAGE / 16]; N];
        let blocks = (stop - start).div_ceil(16);
        for b in (0..blocks).step_by(R) {
            let at: [usize; R] = std::array::from_fn(|r| (b + r).min(blocks - 1));
            // The values of 16 tokens are as many bytes as their keys, and come while these are used.
            let soon = page.as_ptr().cast::<u8>().wrapping_add((PAGE / 16 + b) * keys);
            let dots = P::dots(isa, page, &room, wide, at, &q, soon);
            for r in 0..R {
                let b = at[r];
                let scales = P::scales(isa, page, wide, false, b);
                for i in 0..N {
                    let mut score = isa.mul(dots[r][i], isa.splat(q.factor[i]));
                    if P::CODES {
                        score = isa.fma(score, scales, isa.splat(q.more[i]));
                        fault = isa.fma(score, isa.splat(0.0), fault);
                    } else {
                        fault = isa.fma(dots[r][i], isa.splat(0.0), fault);
                    }
                    let [from, to] = sees[i].map(|at| (1u32 << at.saturating_sub(start + b * 16).min(16)) - 1);
                    let mask = (to & !from) as u16;
                    isa.store(isa.select(mask, score, isa.splat(f32::NEG_INFINITY)), &mut scores[i][b]);
                }
            }
        }
        let mut shrink = [1.0f32; N];
        for i in 0..N {
            let mut top = isa.splat(most[i]);
            for s in &scores[i][..blocks] {
                top = isa.max(isa.load(s), top);
            }
            let top = isa.largest(top);
            // A query that sees nothing of a segment has no weights there.
            let base = if top == f32::NEG_INFINITY { 0.0 } else { top };
            shrink[i] = first(isa, isa.exp(isa.splat(most[i] - base)));
            most[i] = top;
            let mut sum = isa.splat(0.0);
            for (b, s) in scores[i][..blocks].iter_mut().enumerate() {
                let p = isa.exp(isa.sub(isa.load(s), isa.splat(base)));
                sum = isa.add(sum, p);
                isa.store(if P::CODES { isa.mul(p, P::scales(isa, page, wide, true, b)) } else { p }, s);
            }
            total[i] = total[i] * shrink[i] + isa.sum(sum);
        }
        if !P::LATENT {
            P::ready(isa, page, wide, stop - start, &mut room);
        }
        let values = &P::values(page, &room, wide)[..(stop - start) * wide];
        // The next keys come while values are used.
        let next = pages.get(start / PAGE + 1).unwrap_or(&pages[start / PAGE]).as_ptr().cast::<u8>();
        let p: [&[f32]; N] = scores.each_ref().map(|s| &s.as_flattened()[..stop - start]);
        for j in (0..sums.len()).step_by(R) {
            let mut at = [j; R];
            let mut acc = [[isa.splat(0.0); N]; R];
            for r in 0..R {
                at[r] = (j + r).min(sums.len() - 1);
                for i in 0..N {
                    acc[r][i] = isa.mul(isa.load(&sums[at[r]][i]), isa.splat(shrink[i]));
                }
            }
            for (t, row) in values.chunks_exact(wide).enumerate() {
                for line in 0..vector.div_ceil(32) {
                    isa.prefetch_far(next.wrapping_add((j * PAGE + t * R) * vector + 64 * line));
                }
                let mut v = [isa.splat(0.0); R];
                for r in 0..R {
                    v[r] = P::value(isa, &row.as_chunks::<16>().0[at[r]]);
                }
                for i in 0..N {
                    let p = isa.splat(p[i][t]);
                    for r in 0..R {
                        acc[r][i] = isa.fma(p, v[r], acc[r][i]);
                    }
                }
            }
            for r in 0..R {
                for i in 0..N {
                    isa.store(acc[r][i], &mut sums[at[r]][i]);
                }
            }
        }
    }
    let fault = isa.sum(fault);
    for (i, part) in parts.chunks_exact_mut(vectors + 1).enumerate() {
        let (found, [known]) = part.split_at_mut(vectors) else { return };
        found.iter_mut().zip(&*sums).for_each(|(found, sums)| *found = sums[i]);
        if P::CODES {
            rotated_back(isa, found, wide);
        }
        if P::LATENT {
            // What every key is less, every value is.
            found.as_flattened_mut().iter_mut().zip(centre).for_each(|(found, c)| *found += total[i] * c);
        }
        (known[0], known[1]) = (most[i], total[i] + fault);
    }
}

/// A query rotated and as words of four 8-bit codes; the scale of these, NaN where a number is not finite, and their sum.
#[inline(always)]
fn coded<I: Isa>(isa: I, q: &[f32], turned: &mut [[f32; 16]], words: &mut [u32]) -> (f32, i32) {
    rotated(isa, q, turned);
    let mut most = isa.splat_i(0);
    for v in turned.iter() {
        most = isa.larger_bits(isa.load(v), most);
    }
    let most = isa.largest_bits(most);
    let per = isa.splat(if most > 0.0 && most.is_finite() { 127.0 / most } else { 0.0 });
    let mut sum = isa.splat_i(0);
    for (v, words) in turned.iter().zip(words.as_chunks_mut().0) {
        let codes = isa.round(isa.mul(isa.load(v), per));
        sum = isa.add_i(sum, codes);
        *words = isa.to_bytes(codes);
    }
    (if most.is_finite() { most / 127.0 } else { f32::NAN }, isa.sum_i(sum))
}

/// What was found in one part of the tokens, together with what was found in those before: both are (queries, `each`).
pub struct Join<'a> {
    pub joined: &'a mut [[f32; 16]],
    pub next: &'a [[f32; 16]],
    pub each: usize,
}

impl Kernel for Join<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (joined, next) in self.joined.chunks_exact_mut(self.each).zip(self.next.chunks_exact(self.each)) {
            let last = self.each - 1;
            let ([a, b], most) = ([joined[last], next[last]], joined[last][0].max(next[last][0]));
            // Where neither has found anything there are no weights.
            let base = if most == f32::NEG_INFINITY { 0.0 } else { most };
            let weights = [a, b].map(|of| first(isa, isa.exp(isa.splat(of[0] - base))));
            let of = [isa.splat(weights[0]), isa.splat(weights[1])];
            for (joined, next) in joined[..last].iter_mut().zip(next) {
                isa.store(isa.fma(isa.load(joined), of[0], isa.mul(isa.load(next), of[1])), joined);
            }
            (joined[last][0], joined[last][1]) = (most, a[1] * weights[0] + b[1] * weights[1]);
        }
    }
}

/// Sums over their weights; `out` is (queries, value_dim). `sink` is the score of something that has no value, of each query.
pub fn finish(cache: &KvLayer, joined: &[[f32; 16]], sink: impl Fn(usize) -> Option<f32>, out: &mut [f32]) {
    let each = part_vectors(cache);
    for (i, (found, out)) in joined.chunks_exact(each).zip(out.chunks_exact_mut(cache.value_dim())).enumerate() {
        let (most, total) = (found[each - 1][0], found[each - 1][1]);
        let total = total + sink(i).map_or(0.0, |sink| (sink - most).exp());
        out.iter_mut().zip(found.as_flattened()).for_each(|(out, sum)| *out = sum / total);
    }
}

#[inline(always)]
fn first<I: Isa>(isa: I, v: I::F) -> f32 {
    let mut out = [0.0; 16];
    isa.store(v, &mut out);
    out[0]
}
