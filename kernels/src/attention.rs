//! Causal attention over a cache of keys and values that is laid out so that no sum crosses lanes.
use crate::isa::{Isa, Kernel, Level, dispatch};
use half::f16;
use rayon::prelude::*;

/// Keys per step of the online softmax; fixed, so that a token's result does not depend on how a prompt was cut.
const CHUNK: usize = 64;
/// Queries that share each load of a key or a value.
const QUERIES: usize = 4;

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
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize, element: KvElement) -> Attention {
        let (keys, values) = lengths(kv_heads, head_dim, capacity);
        let store = |n| match element {
            KvElement::F16 => Store::F16(vec![0; n]),
            KvElement::F32 => Store::F32(vec![0.0; n]),
        };
        Attention { kv_heads, head_dim, len: 0, capacity, keys: store(keys), values: store(values) }
    }

    /// Bytes that [`Attention::new`] takes.
    pub fn bytes(kv_heads: usize, head_dim: usize, capacity: usize, element: KvElement) -> usize {
        let (keys, values) = lengths(kv_heads, head_dim, capacity);
        (keys + values) * element.size()
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

    /// Adds the keys and values (tokens, kv_heads, head_dim) of new tokens.
    fn append(&mut self, k: &[f32], v: &[f32]) {
        let (heads, d) = (self.kv_heads, self.head_dim);
        let tokens = k.len() / (heads * d);
        assert!(self.len + tokens <= self.capacity, "the KV cache is full");
        let (blocks, wide) = (self.capacity.div_ceil(16), d.next_multiple_of(16));
        for t in 0..tokens {
            let at = self.len + t;
            for h in 0..heads {
                let (k, v) = (&k[(t * heads + h) * d..][..d], &v[(t * heads + h) * d..][..d]);
                let key = (h * blocks + at / 16) * d * 16 + at % 16;
                let value = (h * self.capacity + at) * wide;
                match (&mut self.keys, &mut self.values) {
                    (Store::F16(keys), Store::F16(values)) => {
                        keys[key..].iter_mut().step_by(16).zip(k).for_each(|(to, &k)| *to = half_bits(k));
                        values[value..].iter_mut().zip(v).for_each(|(to, &v)| *to = half_bits(v));
                    }
                    (Store::F32(keys), Store::F32(values)) => {
                        keys[key..].iter_mut().step_by(16).zip(k).for_each(|(to, &k)| *to = k);
                        values[value..][..d].copy_from_slice(v);
                    }
                    _ => unreachable!("keys and values are made with one element type"),
                }
            }
        }
        self.len += tokens;
    }
}

fn lengths(kv_heads: usize, head_dim: usize, capacity: usize) -> (usize, usize) {
    (kv_heads * capacity.next_multiple_of(16) * head_dim, kv_heads * capacity * head_dim.next_multiple_of(16))
}

/// Largest finite half instead of infinity: one outlier must not turn a whole row into NaN.
fn half_bits(v: f32) -> u16 {
    f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits()
}

/// Appends `k` and `v`, then lets each new token look at everything up to itself.
///
/// `q` and `out` are (tokens, heads, head_dim), `k` and `v` (tokens, kv_heads, head_dim); keys and queries already
/// have their positions; scores are scaled by 1 / sqrt(head_dim).
///
/// # Panics
/// If the shapes do not fit together or the cache is full.
pub fn attention(cache: &mut Attention, q: &[f32], k: &[f32], v: &[f32], heads: usize, out: &mut [f32]) {
    attention_at(Level::active(), cache, q, k, v, heads, out);
}

/// [`attention`] with a given instruction set.
pub fn attention_at(level: Level, cache: &mut Attention, q: &[f32], k: &[f32], v: &[f32], heads: usize, out: &mut [f32]) {
    let (kv_heads, d) = (cache.kv_heads, cache.head_dim);
    let tokens = q.len() / (heads * d);
    assert_eq!((q.len(), out.len()), (tokens * heads * d, tokens * heads * d));
    assert_eq!((k.len(), v.len(), heads % kv_heads), (tokens * kv_heads * d, tokens * kv_heads * d, 0));
    let past = cache.len;
    cache.append(k, v);
    let (cache, group) = (&*cache, heads / kv_heads);
    // A task is one token and the queries of one KV head, or, where there are many tokens, four tokens of one KV head.
    let span = if tokens >= 16 { 4 } else { 1 };
    let attend = |t: usize, h: usize, n: usize, out: &mut [f32]| {
        let rows = (0..n * group).map(|i| (&q[((t + i / group) * heads + h * group + i % group) * d..][..d], past + t + i / group + 1));
        let queries: Vec<(&[f32], usize)> = rows.collect();
        dispatch(level, Attend { cache, head: h, queries: &queries, out });
    };
    if span == 1 {
        out.par_chunks_exact_mut(group * d).enumerate().for_each(|(i, out)| attend(i / kv_heads, i % kv_heads, 1, out));
        return;
    }
    out.par_chunks_mut(span * heads * d).enumerate().for_each_init(Vec::new, |scratch, (i, out)| {
        let n = out.len() / (heads * d);
        scratch.resize(n * group * d, 0.0);
        for h in 0..kv_heads {
            attend(i * span, h, n, scratch);
            for (out, from) in out.chunks_exact_mut(heads * d).zip(scratch.chunks_exact(group * d)) {
                out[h * group * d..][..group * d].copy_from_slice(from);
            }
        }
    });
}

/// Queries of one KV head, each with the number of tokens that it sees; `out` is (queries, head_dim).
struct Attend<'a> {
    cache: &'a Attention,
    head: usize,
    queries: &'a [(&'a [f32], usize)],
    out: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (d, capacity) = (self.cache.head_dim, self.cache.capacity);
        let wide = d.next_multiple_of(16);
        let keys = self.head * capacity.next_multiple_of(16) * d..(self.head + 1) * capacity.next_multiple_of(16) * d;
        let values = self.head * capacity * wide..(self.head + 1) * capacity * wide;
        for (queries, out) in self.queries.chunks(QUERIES).zip(self.out.chunks_mut(QUERIES * d)) {
            match (&self.cache.keys, &self.cache.values) {
                (Store::F16(k), Store::F16(v)) => block::<I, u16>(isa, &k[keys.clone()], &v[values.clone()], d, queries, out),
                (Store::F32(k), Store::F32(v)) => block::<I, f32>(isa, &k[keys.clone()], &v[values.clone()], d, queries, out),
                _ => unreachable!("keys and values are made with one element type"),
            }
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

/// Up to four queries through the online softmax (Milakov and Gimelshein 2018): running maximum, sum and output.
#[inline(always)]
fn block<I: Isa, E: Element>(isa: I, keys: &[E], values: &[E], d: usize, queries: &[(&[f32], usize)], out: &mut [f32]) {
    let wide = d.next_multiple_of(16);
    // Missing queries repeat the first one and are not stored.
    let mut q = [queries[0].0; QUERIES];
    let mut sees = [queries[0].1; QUERIES];
    for (i, (row, n)) in queries.iter().enumerate() {
        (q[i], sees[i]) = (row, *n);
    }
    let scale = isa.splat(1.0 / (d as f32).sqrt());
    let (mut most, mut total) = ([f32::NEG_INFINITY; QUERIES], [0.0f32; QUERIES]);
    let mut sums = vec![[[0.0f32; 16]; QUERIES]; wide / 16];
    let end = sees.into_iter().max().unwrap_or(0);
    let mut start = 0;
    while start < end {
        let stop = (start + CHUNK).min(end);
        let mut scores = [[[0.0f32; 16]; CHUNK / 16]; QUERIES];
        for (b, keys) in keys.chunks_exact(d * 16).skip(start / 16).take((stop - start).div_ceil(16)).enumerate() {
            let mut dots = [isa.splat(0.0); QUERIES];
            let [q0, q1, q2, q3] = q;
            for ((((k, q0), q1), q2), q3) in keys.as_chunks::<16>().0.iter().zip(q0).zip(q1).zip(q2).zip(q3) {
                let k = E::load(isa, k);
                dots[0] = isa.fma(isa.splat(*q0), k, dots[0]);
                dots[1] = isa.fma(isa.splat(*q1), k, dots[1]);
                dots[2] = isa.fma(isa.splat(*q2), k, dots[2]);
                dots[3] = isa.fma(isa.splat(*q3), k, dots[3]);
            }
            for i in 0..QUERIES {
                let seen = sees[i].saturating_sub(start + b * 16).min(16);
                let mask = ((1u32 << seen) - 1) as u16;
                isa.store(isa.select(mask, isa.mul(dots[i], scale), isa.splat(f32::NEG_INFINITY)), &mut scores[i][b]);
            }
        }
        let blocks = (stop - start).div_ceil(16);
        let mut shrink = [1.0f32; QUERIES];
        for i in 0..QUERIES {
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
        for (j, sums) in sums.iter_mut().enumerate() {
            let mut acc = [isa.splat(0.0); QUERIES];
            for i in 0..QUERIES {
                acc[i] = isa.mul(isa.load(&sums[i]), isa.splat(shrink[i]));
            }
            let [p0, p1, p2, p3] = [scores[0].as_flattened(), scores[1].as_flattened(), scores[2].as_flattened(), scores[3].as_flattened()];
            let rows = values[start * wide..stop * wide].chunks_exact(wide);
            for ((((row, p0), p1), p2), p3) in rows.zip(p0).zip(p1).zip(p2).zip(p3) {
                let v = E::load(isa, &row.as_chunks::<16>().0[j]);
                acc[0] = isa.fma(isa.splat(*p0), v, acc[0]);
                acc[1] = isa.fma(isa.splat(*p1), v, acc[1]);
                acc[2] = isa.fma(isa.splat(*p2), v, acc[2]);
                acc[3] = isa.fma(isa.splat(*p3), v, acc[3]);
            }
            for i in 0..QUERIES {
                isa.store(acc[i], &mut sums[i]);
            }
        }
        start = stop;
    }
    for (i, out) in out.chunks_exact_mut(d).enumerate() {
        for (out, sums) in out.chunks_mut(16).zip(&sums) {
            for (out, sum) in out.iter_mut().zip(&sums[i]) {
                *out = sum / total[i];
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
