//! Causal attention over a cache of keys and values that is laid out so that no sum crosses lanes.
use super::finite::{NotFinite, Watch, finite};
use crate::{
    isa::{Isa, Kernel, Level, dispatch},
    team::{Team, team},
};
use half::f16;

/// Keys per step of the online softmax; fixed, so that a token's result does not depend on how a prompt was cut.
const CHUNK: usize = 64;
/// Queries that share each load of a key or a value, at the most.
const QUERIES: usize = 8;
/// Tokens of a task where there are many.
const TOKENS: usize = 8;
/// Up to this head_dim the sums of a block of queries stay on the stack.
const MOST_DIM: usize = 256;

/// What the KV cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvElement {
    /// 2 bytes per number.
    F16,
    /// 4 bytes per number.
    F32,
}

impl KvElement {
    const fn size(self) -> usize {
        match self {
            KvElement::F16 => 2,
            KvElement::F32 => 4,
        }
    }
}

#[derive(Debug)]
enum Store {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

/// Keys and values of one layer: a fixed capacity in tokens, filled from the front.
#[derive(Debug)]
pub struct Attention {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    capacity: usize,
    /// (kv_heads, capacity / 16, head_dim, 16 tokens).
    keys: Store,
    /// (kv_heads, capacity, head_dim up to a multiple of 16).
    values: Store,
}

impl Attention {
    /// An empty cache for `capacity` tokens.
    ///
    /// # Panics
    /// If it is more than memory holds.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize, element: KvElement) -> Attention {
        let (keys, values) = lengths(kv_heads, head_dim, capacity);
        assert!(keys.max(values) < usize::MAX, "keys and values of {capacity} tokens are more than memory holds");
        let store = |n| match element {
            KvElement::F16 => Store::F16(vec![0; n]),
            KvElement::F32 => Store::F32(vec![0.0; n]),
        };
        Attention { kv_heads, head_dim, len: 0, capacity, keys: store(keys), values: store(values) }
    }

    /// Bytes that [`Attention::new`] takes; `usize::MAX` where they are more than that counts.
    pub fn bytes(kv_heads: usize, head_dim: usize, capacity: usize, element: KvElement) -> usize {
        let (keys, values) = lengths(kv_heads, head_dim, capacity);
        keys.saturating_add(values).saturating_mul(element.size())
    }

    /// Heads of a token's keys, and of its values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Numbers of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
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

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Adds the keys and values of new tokens, KV heads in parallel. Those that are not finite are not written: nobody comes across
    /// them later.
    fn append(&mut self, team: &Team, tokens: usize, k: Heads, v: Heads) -> Result<(), NotFinite> {
        let (d, len, capacity) = (self.head_dim, self.len, self.capacity);
        let (level, watch) = (team.level(), Watch::default());
        assert!(tokens <= capacity - len, "the KV cache is full");
        let (keys_each, values_each) = lengths(1, d, capacity);
        let new = |h: usize| {
            let each = (0..tokens).map(move |t| (len + t, k.head(t, h, d), v.head(t, h, d)));
            each.filter(|(_, k, v)| {
                let both = finite(level, k) && finite(level, v);
                watch.see(both);
                both
            })
        };
        match (&mut self.keys, &mut self.values) {
            (Store::F16(keys), Store::F16(values)) => team.chunks2((keys, keys_each), (values, values_each), |h, keys, values| {
                append(keys, values, d, new(h), half_bits);
            }),
            (Store::F32(keys), Store::F32(values)) => team.chunks2((keys, keys_each), (values, values_each), |h, keys, values| {
                append(keys, values, d, new(h), |v| v);
            }),
            _ => unreachable!("keys and values are made with one element type"),
        }
        watch.result("keys or values")?;
        self.len += tokens;
        Ok(())
    }
}

/// Writes keys and values of one KV head, each with the number of its token.
fn append<'a, E>(keys: &mut [E], values: &mut [E], d: usize, new: impl Iterator<Item = (usize, &'a [f32], &'a [f32])>, store: impl Fn(f32) -> E) {
    for (at, k, v) in new {
        keys[at / 16 * d * 16 + at % 16..].iter_mut().step_by(16).zip(k).for_each(|(to, &k)| *to = store(k));
        values[at * d.next_multiple_of(16)..].iter_mut().zip(v).for_each(|(to, &v)| *to = store(v));
    }
}

/// Heads of every token: token t's start at `t * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// All of them.
    pub data: &'a [f32],
    /// Numbers from one token's to the next one's.
    pub stride: usize,
}

impl<'a> Heads<'a> {
    fn head(self, token: usize, head: usize, head_dim: usize) -> &'a [f32] {
        &self.data[token * self.stride + head * head_dim..][..head_dim]
    }
}

/// Numbers of all keys, and of all values; `usize::MAX` where they are more than that counts.
fn lengths(kv_heads: usize, head_dim: usize, capacity: usize) -> (usize, usize) {
    let times = |tokens: usize, dim: usize| kv_heads.saturating_mul(tokens).saturating_mul(dim);
    let whole = |n: usize| n.checked_next_multiple_of(16).unwrap_or(usize::MAX);
    (times(whole(capacity), head_dim), times(capacity, whole(head_dim)))
}

/// The largest half for what is larger: one outlier must not turn a whole row into NaN.
fn half_bits(v: f32) -> u16 {
    f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits()
}

/// Appends `k` and `v`, then lets each new token look at everything up to itself.
///
/// `q` and `out` are (tokens, heads, head_dim), `k` and `v` (tokens, kv_heads, head_dim); keys and queries already
/// have their positions; scores are scaled by 1 / sqrt(head_dim).
///
/// Where a query is not finite, or its product with a key, its results are NaN.
///
/// # Errors
/// Where a key or a value is not finite; the cache is as it was.
///
/// # Panics
/// If the shapes do not fit together or the cache is full.
pub fn attention(cache: &mut Attention, q: &[f32], k: &[f32], v: &[f32], heads: usize, out: &mut [f32]) -> Result<(), NotFinite> {
    attention_at(Level::active(), cache, q, k, v, heads, out)
}

/// [`attention`] with a given instruction set.
///
/// # Errors
/// As for [`attention`].
pub fn attention_at(level: Level, cache: &mut Attention, q: &[f32], k: &[f32], v: &[f32], heads: usize, out: &mut [f32]) -> Result<(), NotFinite> {
    let own = heads.checked_mul(cache.head_dim).expect("as many heads as memory holds");
    let kv = cache.kv_heads * cache.head_dim;
    let tokens = q.len() / own;
    assert_eq!((q.len(), k.len(), v.len(), out.len()), (tokens * own, tokens * kv, tokens * kv, tokens * own));
    let [q, k, v] = [(q, own), (k, kv), (v, kv)].map(|(data, stride)| Heads { data, stride });
    team(level, |team| attend(team, cache, [q, k, v], heads, &mut Vec::new(), out))
}

/// [`attention`] by a team; `by_head` is memory to work in.
///
/// # Errors
/// As for [`attention`].
///
/// # Panics
/// As for [`attention`].
pub fn attend(
    team: &Team,
    cache: &mut Attention,
    [q, k, v]: [Heads; 3],
    heads: usize,
    by_head: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<(), NotFinite> {
    let (kv_heads, d) = (cache.kv_heads, cache.head_dim);
    assert!(heads.is_multiple_of(kv_heads) && heads > 0, "as many query heads for every KV head");
    let own = heads.checked_mul(d).expect("as many heads as memory holds");
    assert!(out.len().is_multiple_of(own), "whole tokens");
    let (tokens, past, group) = (out.len() / own, cache.len, heads / kv_heads);
    cache.append(team, tokens, k, v)?;
    let (cache, level) = (&*cache, team.level());
    // A task is one KV head with the queries of some tokens: their results lie together, and are put in order after.
    let span = TOKENS.min(tokens);
    let each = span * group * d;
    let spans = tokens.div_ceil(span);
    let attend = |h: usize, from: usize, out: &mut [f32]| {
        let n = out.len() / (group * d);
        let row = |i: usize| (q.head(from + i / group, h * group + i % group, d), past + from + i / group + 1);
        dispatch(level, Attend { cache, head: h, queries: n * group, row, out });
    };
    if tokens == 1 {
        team.chunks(out, each, |h, out| attend(h, 0, out));
        return Ok(());
    }
    by_head.resize(spans * kv_heads * each, 0.0);
    // Late tokens see most: first, so that no thread is left with a long task at the end.
    team.chunks(by_head, each, |i, out| {
        let from = (spans - 1 - i / kv_heads) * span;
        let n = span.min(tokens - from);
        attend(i % kv_heads, from, &mut out[..n * group * d]);
    });
    team.chunks(out, heads * d, |t, out| {
        let at = (spans - 1 - t / span) * kv_heads * each + t % span * group * d;
        for (h, out) in out.chunks_exact_mut(group * d).enumerate() {
            out.copy_from_slice(&by_head[at + h * each..][..group * d]);
        }
    });
    Ok(())
}

/// Queries of one KV head; `row` gives each with the number of tokens that it sees; `out` is (queries, head_dim).
struct Attend<'a, F> {
    cache: &'a Attention,
    head: usize,
    queries: usize,
    row: F,
    out: &'a mut [f32],
}

impl<'q, F: Fn(usize) -> (&'q [f32], usize)> Kernel for Attend<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (keys_each, values_each) = lengths(1, self.cache.head_dim, self.cache.capacity);
        let (k_at, v_at) = (self.head * keys_each, self.head * values_each);
        match (&self.cache.keys, &self.cache.values) {
            (Store::F16(k), Store::F16(v)) => self.all(isa, &k[k_at..][..keys_each], &v[v_at..][..values_each]),
            (Store::F32(k), Store::F32(v)) => self.all(isa, &k[k_at..][..keys_each], &v[v_at..][..values_each]),
            _ => unreachable!("keys and values are made with one element type"),
        }
    }
}

impl<'q, F: Fn(usize) -> (&'q [f32], usize)> Attend<'_, F> {
    #[inline(always)]
    fn all<I: Isa, E: Element>(self, isa: I, keys: &[E], values: &[E]) {
        if I::TILES == 2 { self.blocks::<I, E, 2>(isa, keys, values) } else { self.blocks::<I, E, 1>(isa, keys, values) }
    }

    #[inline(always)]
    fn blocks<I: Isa, E: Element, const R: usize>(self, isa: I, keys: &[E], values: &[E]) {
        let d = self.cache.head_dim;
        let mut first = 0;
        while first < self.queries {
            let n = QUERIES.min(self.queries - first);
            let out = &mut self.out[first * d..][..n * d];
            let row = |i: usize| (self.row)(first + i.min(n - 1));
            match n {
                1 => block::<I, E, 1, R>(isa, keys, values, d, row, out),
                2 => block::<I, E, 2, R>(isa, keys, values, d, row, out),
                3 | 4 => block::<I, E, 4, R>(isa, keys, values, d, row, out),
                _ => block::<I, E, 8, R>(isa, keys, values, d, row, out),
            }
            first += n;
        }
    }
}

trait Element: Copy {
    fn load<I: Isa>(isa: I, v: &[Self; 16]) -> I::F;
}

impl Element for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, v: &[u16; 16]) -> I::F {
        isa.load_f16(v)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, v: &[f32; 16]) -> I::F {
        isa.load(v)
    }
}

/// N queries through the online softmax (Milakov and Gimelshein 2018): running maximum, sum and output. Queries beyond
/// those that `out` takes repeat the last one and are not stored. R vectors of keys or values share each load of a query's number;
/// beyond the last they repeat it. Where a query's product with a key is not finite, results are NaN.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn block<'q, I: Isa, E: Element, const N: usize, const R: usize>(
    isa: I,
    keys: &[E],
    values: &[E],
    d: usize,
    row: impl Fn(usize) -> (&'q [f32], usize),
    out: &mut [f32],
) {
    let wide = d.next_multiple_of(16);
    let q: [&[f32]; N] = std::array::from_fn(|i| &row(i).0[..d]);
    let sees: [usize; N] = std::array::from_fn(|i| row(i).1);
    let scale = isa.splat(1.0 / (d as f32).sqrt());
    let (mut most, mut total) = ([f32::NEG_INFINITY; N], [0.0f32; N]);
    // 0, or NaN from the first product on that is not finite: an infinity's weight may look like any other.
    let mut fault = isa.splat(0.0);
    let (mut small, mut large) = ([[[0.0f32; 16]; N]; MOST_DIM / 16], Vec::new());
    let sums = if wide <= MOST_DIM {
        &mut small[..wide / 16]
    } else {
        large.resize(wide / 16, [[0.0; 16]; N]);
        &mut large
    };
    let end = sees.into_iter().max().unwrap_or(0);
    let mut start = 0;
    while start < end {
        let stop = (start + CHUNK).min(end);
        let mut scores = [[[0.0f32; 16]; CHUNK / 16]; N];
        let blocks = (stop - start).div_ceil(16);
        for b in (0..blocks).step_by(R) {
            let mut dots = [[isa.splat(0.0); N]; R];
            let mut own = [&[][..]; R];
            for r in 0..R {
                own[r] = keys[(start / 16 + (b + r).min(blocks - 1)) * d * 16..].as_chunks::<16>().0.split_at(d).0;
            }
            // The values of 16 tokens are as many bytes as their keys, and come while these are used.
            let soon = values.as_ptr().wrapping_add((start + b * 16) * wide).cast::<u8>();
            for j in 0..d {
                let mut k = [isa.splat(0.0); R];
                for r in 0..R {
                    isa.prefetch(soon.wrapping_add((r * d + j) * size_of::<[E; 16]>()));
                    k[r] = E::load(isa, &own[r][j]);
                }
                for i in 0..N {
                    let q = isa.splat(q[i][j]);
                    for r in 0..R {
                        dots[r][i] = isa.fma(q, k[r], dots[r][i]);
                    }
                }
            }
            for r in 0..R {
                let b = (b + r).min(blocks - 1);
                for i in 0..N {
                    fault = isa.fma(dots[r][i], isa.splat(0.0), fault);
                    let seen = sees[i].saturating_sub(start + b * 16).min(16);
                    let mask = ((1u32 << seen) - 1) as u16;
                    isa.store(isa.select(mask, isa.mul(dots[r][i], scale), isa.splat(f32::NEG_INFINITY)), &mut scores[i][b]);
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
            shrink[i] = first(isa, isa.exp(isa.splat(most[i] - top)));
            most[i] = top;
            let mut sum = isa.splat(0.0);
            for s in &mut scores[i][..blocks] {
                let p = isa.exp(isa.sub(isa.load(s), isa.splat(top)));
                sum = isa.add(sum, p);
                isa.store(p, s);
            }
            total[i] = total[i] * shrink[i] + isa.sum(sum);
        }
        let values = &values[start * wide..stop * wide];
        // The next keys come while values are used.
        let next = keys.as_ptr().wrapping_add(stop * d).cast::<u8>();
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
                for line in 0..size_of::<E>() / 2 {
                    isa.prefetch_far(next.wrapping_add((j * CHUNK + t * R) * size_of::<[E; 16]>() + 64 * line));
                }
                let mut v = [isa.splat(0.0); R];
                for r in 0..R {
                    v[r] = E::load(isa, &row.as_chunks::<16>().0[at[r]]);
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
        start = stop;
    }
    let fault = isa.sum(fault);
    for (i, out) in out.chunks_exact_mut(d).enumerate() {
        for (out, sums) in out.chunks_mut(16).zip(&*sums) {
            for (out, sum) in out.iter_mut().zip(&sums[i]) {
                *out = sum / (total[i] + fault);
            }
        }
    }
}

#[inline(always)]
fn first<I: Isa>(isa: I, v: I::F) -> f32 {
    let mut out = [0.0; 16];
    isa.store(v, &mut out);
    out[0]
}
