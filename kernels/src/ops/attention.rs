//! Causal attention over keys and values that are laid out so that no sum crosses lanes.
mod page;
mod part;
mod queries;
mod rows;

use super::{
    finite::NotFinite,
    kv::{Heads, KvElement, KvLayer, PAGE, append},
};
use crate::{
    arena::resize,
    isa::{Level, dispatch},
    team::{Team, team},
};
use part::{Join, Part, QUERIES, Query, finish, part_vectors};
use std::ops::Range;

/// Tokens that are looked at as one: the results of several such segments are joined. Fixed, like a page, so that many threads can share
/// a long context without a change of its result.
const SEGMENT: usize = 16 * PAGE;
/// Tokens of a task where there are many.
const TOKENS: usize = 8;

/// Query heads of a task, of `group` that look at the same keys: of many not all, as threads would have nothing to do.
fn shared(group: usize) -> usize {
    [8, 4].into_iter().find(|n| group >= 16 && group.is_multiple_of(*n)).unwrap_or(group)
}

/// The segments of the first `sees` tokens: what is held in another way is one of its own.
fn segments(element: KvElement, sees: usize) -> impl Iterator<Item = Range<usize>> {
    let first = if element.at(0) == element { 0 } else { PAGE.min(sees) };
    let rest = (first..sees).step_by(SEGMENT).map(move |start| start..(start + SEGMENT).min(sees));
    (first > 0).then_some(0..first).into_iter().chain(rest)
}

/// Appends `k` and `v`, then lets each new token look at everything up to itself.
///
/// `q` and `out` are (tokens, heads, head_dim), `k` and `v` (tokens, kv_heads, head_dim); keys and queries already
/// have their positions; scores are scaled by 1 / sqrt(head_dim). Of latents `out` is (tokens, heads, value_dim), and there is no `v`.
///
/// Where a query is not finite, or its product with a key, its results are NaN.
///
/// # Errors
/// Where a key or a value is not finite; the cache is as it was.
///
/// # Panics
/// If the shapes do not fit together or the cache is full.
pub fn attention(cache: &mut KvLayer, q: &[f32], k: &[f32], v: &[f32], heads: usize, out: &mut [f32]) -> Result<(), NotFinite> {
    attention_at(Level::active(), cache, [q, k, v], heads, Look::default(), out)
}

/// [`attention`] with a given instruction set.
///
/// # Errors
/// As for [`attention`].
pub fn attention_at(level: Level, cache: &mut KvLayer, [q, k, v]: [&[f32]; 3], heads: usize, look: Look, out: &mut [f32]) -> Result<(), NotFinite> {
    let own = heads.checked_mul(cache.head_dim()).expect("as many heads as memory holds");
    let kv = cache.kv_heads() * cache.head_dim();
    let (tokens, values) = (q.len() / own, if cache.is_latent() { 0 } else { kv });
    let results = heads * cache.value_dim();
    assert_eq!((q.len(), k.len(), v.len(), out.len()), (tokens * own, tokens * kv, tokens * values, tokens * results));
    let [q, k, v] = [(q, own), (k, kv), (v, kv)].map(|(data, stride)| Heads { data, stride, step: cache.head_dim() });
    team(level, |team| attend(team, &mut [(cache, tokens)], [q, k, v], heads, look, &mut Vec::new(), out))
}

/// What queries look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look<'a> {
    /// So many tokens up to their own; without it all.
    pub window: Option<usize>,
    /// Those alone that are in the same piece of so many tokens as they are.
    pub chunk: Option<usize>,
    /// Of every head the score of something that takes weight and has no value (Xiao et al., arXiv 2309.17453, learned).
    pub sinks: Option<&'a [f32]>,
}

/// [`attention`] by a team, of several sequences at once: each has a cache and a number of new tokens, which lie one sequence's after the
/// other's. Values of latents are not looked at; `out` is (tokens, heads, value_dim). `by_head` is memory to work in: [`attend_numbers`].
///
/// # Errors
/// As for [`attention`]; all caches are as they were.
///
/// # Panics
/// As for [`attention`].
pub fn attend(
    team: &Team,
    caches: &mut [(&mut KvLayer, usize)],
    [q, k, v]: [Heads; 3],
    heads: usize,
    look: Look,
    by_head: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<(), NotFinite> {
    append(team, caches, k, v)?;
    let Some((cache, _)) = caches.first() else { return Ok(()) };
    let (kv_heads, d, level) = (cache.kv_heads(), cache.head_dim(), team.level());
    assert!(heads.is_multiple_of(kv_heads) && heads > 0, "as many query heads for every KV head");
    let (all, group, e) = (heads / kv_heads, shared(heads / kv_heads), cache.value_dim());
    let parts = heads / group;
    let mut first = 0;
    let spans: Vec<Span> = caches
        .iter()
        .map(|(cache, tokens)| {
            first += tokens;
            let [window, chunk] = [look.window, look.chunk].map(|tokens| tokens.unwrap_or(usize::MAX));
            Span { cache, first: first - tokens, tokens: *tokens, window, chunk }
        })
        .collect();
    assert!(heads.checked_mul(e).and_then(|own| own.checked_mul(first)) == Some(out.len()), "a result for every token");
    if spans.iter().all(|span| span.tokens == 1) {
        decode(team, &spans, q, all, look.sinks, by_head, out);
        return Ok(());
    }
    // A task is one KV head with queries of some tokens: their results lie together, and are put in order after.
    let each = TOKENS.min(spans.iter().map(|span| span.tokens).max().unwrap_or(1));
    let mut tasks: Vec<(&Span, usize)> = spans.iter().flat_map(|span| (0..span.tokens).step_by(each).map(move |from| (span, from))).collect();
    // What sees most goes first, so that no thread is left with a long task at the end.
    tasks.sort_by_key(|(span, from)| std::cmp::Reverse(span.cache.len() - span.tokens + from));
    let len = each * group * e;
    resize(by_head, by_head.len().max(tasks.len() * parts * len));
    team.chunks(&mut by_head[..tasks.len() * parts * len], len, |i, out| {
        let ((span, from), part) = (tasks[i / parts], i % parts);
        let n = each.min(span.tokens - from);
        let row = |i: usize| span.query(q.head(span.first + from + i / group, part * group + i % group, d), from + i / group);
        let sink = |i: usize| look.sinks.map(|sinks| sinks[part * group + i % group]);
        look_back(level, span.cache, part * group / all, row, sink, &mut out[..n * group * e]);
    });
    // Where the results of a token are: which task, and which of its tokens.
    let mut places = vec![(0, 0); first];
    for (i, (span, from)) in tasks.iter().enumerate() {
        (0..each.min(span.tokens - from)).for_each(|t| places[span.first + from + t] = (i, t));
    }
    team.chunks(out, heads * e, |t, out| {
        let (task, t) = places[t];
        for (h, out) in out.chunks_exact_mut(group * e).enumerate() {
            out.copy_from_slice(&by_head[(task * parts + h) * len + t * group * e..][..group * e]);
        }
    });
    Ok(())
}

/// Numbers that [`attend`] works in, at the most: for `tokens` new tokens of `sequences` sequences of up to `context`. A value has `value_dim`
/// numbers, for which `summed` are summed.
pub fn attend_numbers(heads: usize, [value_dim, summed]: [usize; 2], tokens: usize, sequences: usize, context: usize) -> usize {
    let several = (tokens + sequences * (TOKENS - 1)) * heads * value_dim;
    several.max(sequences * (context.div_ceil(SEGMENT) + 1) * heads * (summed + 16))
}

/// New tokens of one sequence: the first of them of all, and how many.
struct Span<'a> {
    cache: &'a KvLayer,
    first: usize,
    tokens: usize,
    window: usize,
    chunk: usize,
}

impl Span<'_> {
    /// How many tokens the `t`-th new one sees.
    fn sees(&self, t: usize) -> usize {
        self.cache.len() - self.tokens + t + 1
    }

    /// The query of the `t`-th new one.
    fn query<'q>(&self, row: &'q [f32], t: usize) -> Query<'q> {
        let to = self.sees(t);
        Query { row, from: to.saturating_sub(self.window).max((to - 1) / self.chunk * self.chunk), to }
    }
}

/// Queries of one token that look at the keys of one head: that one, and which of all.
type Asking<'a> = (&'a Span<'a>, usize, Range<usize>);

/// One new token of each sequence; `all` queries look at the same keys. Eight of many are a task, as otherwise threads would have nothing to do.
fn decode(team: &Team, spans: &[Span], q: Heads, all: usize, sinks: Option<&[f32]>, by_head: &mut Vec<f32>, out: &mut [f32]) {
    let (cache, level) = (spans[0].cache, team.level());
    let (kv_heads, d, e, each) = (cache.kv_heads(), cache.head_dim(), cache.value_dim(), part_vectors(cache));
    let step = if all >= 16 { 8 } else { all };
    let pieces = |head: usize| (head * all..(head + 1) * all).step_by(step).map(move |first| first..(first + step).min((head + 1) * all));
    let asking: Vec<Asking> =
        spans.iter().flat_map(|span| (0..kv_heads).flat_map(move |head| pieces(head).map(move |queries| (span, head, queries)))).collect();
    fn row<'q>(q: &'q Heads, (span, _, queries): &Asking, i: usize, d: usize) -> Query<'q> {
        span.query(q.head(span.first, queries.start + i, d), 0)
    }
    let sink = |(_, _, queries): &Asking, i: usize| sinks.map(|sinks| sinks[queries.start + i]);
    let ends = sums(asking.iter().map(|(.., queries)| queries.len() * e));
    let few = |span: &Span| span.sees(0).min(span.window) <= SEGMENT;
    if spans.iter().all(few) {
        team.parts(out, &ends, |i, out, _| {
            let asks = &asking[i];
            look_back(level, asks.0.cache, asks.1, |i| row(&q, asks, i, d), |i| sink(asks, i), out);
        });
        return;
    }
    // Segments of long contexts are tasks of their own.
    let own = |span: &Span| {
        let Query { from, to, .. } = span.query(&[], 0);
        segments(span.cache.element(), to).filter(move |within| within.end > from)
    };
    let tasks: Vec<(&Asking, Range<usize>)> = asking.iter().flat_map(|asks| own(asks.0).map(move |within| (asks, within))).collect();
    let task_ends = sums(tasks.iter().map(|((.., queries), _)| queries.len() * each * 16));
    let len = task_ends.last().copied().unwrap_or(0);
    resize(by_head, by_head.len().max(len));
    team.parts(&mut by_head[..len], &task_ends, |i, parts, _| {
        let (asks, within) = &tasks[i];
        look_into(level, asks.0.cache, asks.1, within, |i| row(&q, asks, i, d), parts.as_chunks_mut().0);
    });
    let part_ends = sums(asking.iter().map(|(span, _, queries)| own(span).count() * queries.len() * each * 16));
    team.parts(out, &ends, |i, out, _| {
        let start = if i == 0 { 0 } else { part_ends[i - 1] };
        let (parts, n) = (by_head[start..part_ends[i]].as_chunks().0, asking[i].2.len() * each);
        let mut joined = parts[..n].to_vec();
        for next in parts.chunks_exact(n).skip(1) {
            dispatch(level, Join { joined: &mut joined, next, each });
        }
        finish(cache, &joined, |j| sink(&asking[i], j), out);
    });
}

/// Where each of some parts ends, which lie one after the other.
fn sums(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let ends = lengths.scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    ends.collect()
}

/// Queries of one KV head, some after the other: `row` gives each, `sink` its sink, later ones seeing later tokens; `out` is
/// (queries, value_dim).
fn look_back<'q>(level: Level, cache: &KvLayer, head: usize, row: impl Fn(usize) -> Query<'q>, sink: impl Fn(usize) -> Option<f32>, out: &mut [f32]) {
    let (e, most, each) = (cache.value_dim(), most_queries(level), part_vectors(cache));
    let (mut joined, mut next) = (vec![[0.0; 16]; most * each], vec![[0.0; 16]; most * each]);
    for (block, out) in out.chunks_mut(most * e).enumerate() {
        let n = out.len() / e;
        let queries: [_; QUERIES] = std::array::from_fn(|i| row(block * most + i.min(n - 1)));
        let (from, to) = (queries[0].from, queries[n - 1].to);
        // Segments that no query sees would add nothing, in no bit.
        for (segment, within) in segments(cache.element(), to).filter(|within| within.end > from).enumerate() {
            let parts = &mut if segment == 0 { &mut joined } else { &mut next }[..n * each];
            dispatch(level, Part { cache, head, queries: &queries[..n], within, parts });
            if segment > 0 {
                dispatch(level, Join { joined: &mut joined[..n * each], next: &next, each });
            }
        }
        finish(cache, &joined[..n * each], |i| sink(block * most + i), out);
    }
}

/// What the queries of one token find in the tokens `within`, in `parts`.
fn look_into<'q>(level: Level, cache: &KvLayer, head: usize, within: &Range<usize>, row: impl Fn(usize) -> Query<'q>, parts: &mut [[f32; 16]]) {
    let (most, each) = (most_queries(level), part_vectors(cache));
    for (block, parts) in parts.chunks_mut(most * each).enumerate() {
        let n = parts.len() / each;
        let queries: [_; QUERIES] = std::array::from_fn(|i| row(block * most + i.min(n - 1)));
        dispatch(level, Part { cache, head, queries: &queries[..n], within: within.clone(), parts });
    }
}

/// Queries that share a load: as many as there are registers for.
fn most_queries(level: Level) -> usize {
    QUERIES.min(level.block().0)
}
