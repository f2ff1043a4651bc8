//! Attention over latents against what f64 says, in every number that a cache holds, on every instruction set.
use crate::{
    KvElement, KvLayer, Look, attention_at,
    isa::Level,
    tests::{gaussian, levels},
};

/// Heads, numbers of a key, and those that are its value.
type Shape = [usize; 3];

/// Queries and latents of `tokens` tokens, and what attention finds in f64.
fn looked([heads, d, values]: Shape, tokens: usize) -> ([Vec<f32>; 2], Vec<f64>) {
    let (q, k) = (gaussian(tokens * heads * d, 1), gaussian(tokens * d, 2));
    let mut want = Vec::new();
    for (t, h) in (0..tokens).flat_map(|t| (0..heads).map(move |h| (t, h))) {
        let key = |s: usize, i: usize| f64::from(k[s * d + i]);
        let score = |s: usize| (0..d).map(|i| f64::from(q[(t * heads + h) * d + i]) * key(s, i)).sum::<f64>() / (d as f64).sqrt();
        let weights: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
        let total: f64 = weights.iter().sum();
        want.extend((0..values).map(|i| weights.iter().enumerate().map(|(s, w)| w * key(s, i)).sum::<f64>() / total));
    }
    ([q, k], want)
}

/// Attention of all tokens, cut into `pieces`.
fn in_pieces(level: Level, cache: &mut KvLayer, [q, k]: [&[f32]; 2], heads: usize, pieces: &[usize]) -> Vec<f32> {
    let (d, e) = (cache.head_dim(), cache.value_dim());
    let (mut out, mut at) = (vec![f32::NAN; q.len() / d * e], 0);
    for n in pieces {
        let r = |width: usize| at * width..(at + n) * width;
        let to = &mut out[r(heads * e)];
        attention_at(level, cache, [&q[r(heads * d)], &k[r(d)], &[]], heads, Look::default(), to).expect("numbers");
        at += n;
    }
    out
}

/// The root mean square of what is off, over that of what is wanted.
fn relative(want: &[f64], found: &[f32]) -> f64 {
    let off: f64 = want.iter().zip(found).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum();
    (off / want.iter().map(|a| a * a).sum::<f64>()).sqrt()
}

/// Heads that are fewer and more than share a load, values that end within a block of the rotation, keys that fill no line.
#[test]
fn latents_match_the_oracle() {
    for (shape, tokens) in [([4, 576, 512], 150), ([20, 48, 32], 150), ([16, 96, 80], 150), ([5, 320, 256], 70), ([3, 64, 64], 2200)] {
        let ([q, k], want) = looked(shape, tokens);
        let [heads, d, values] = shape;
        for (element, limit) in KvElement::ALL.into_iter().zip([1e-6, 1e-3, 0.015, 0.2]) {
            let mut first: Option<Vec<f32>> = None;
            for level in levels() {
                let some: Vec<usize> = [tokens - 46, 3].into_iter().chain([1; 40]).chain([3]).collect();
                for pieces in [vec![tokens], some, vec![1; tokens]] {
                    if tokens > 1000 && pieces.len() == tokens && level != Level::active() {
                        continue;
                    }
                    let out = in_pieces(level, &mut KvLayer::latent(d, values, tokens, element), [&q, &k], heads, &pieces);
                    let off = relative(&want, &out);
                    assert!(off < limit, "{element:?} {level:?} {shape:?}: off by {off}");
                    let first = first.get_or_insert_with(|| out.clone());
                    assert!(*first == out, "{element:?} {level:?} {shape:?}: pieces or instruction sets differ");
                }
            }
        }
    }
}

/// What all latents have in common takes no levels of 4 bits from what they differ in, and is in what is found.
#[test]
fn what_latents_have_in_common_is_found() {
    let ([heads, d, values], tokens) = ([2, 64, 32], 300);
    let [q, mut k] = looked([heads, d, values], tokens).0;
    k.iter_mut().enumerate().for_each(|(i, k)| *k += 8.0 * ((i % d) as f32).cos());
    let found = |element| in_pieces(Level::active(), &mut KvLayer::latent(d, values, tokens, element), [&q, &k], heads, &[tokens]);
    let want: Vec<f64> = found(KvElement::F32).into_iter().map(f64::from).collect();
    let off = relative(&want, &found(KvElement::Q4));
    assert!(off < 0.02, "off by {off}");
}

/// Half of what keys and values of that size would take; a sequence goes on from another's beginning, or from a file.
#[test]
fn latents_are_held_once() {
    let ([heads, d, values], tokens) = ([3, 64, 48], 200);
    let [q, k] = looked([heads, d, values], tokens).0;
    for (element, level) in KvElement::ALL.into_iter().zip(levels().into_iter().cycle()) {
        assert!(2 * KvLayer::latent_bytes(d, 6400, element) <= KvLayer::bytes(1, d, 6400, element) + 48 * 101 + 8 * d, "{element:?}");
        let new = || KvLayer::latent(d, values, tokens, element);
        let want = in_pieces(level, &mut new(), [&q, &k], heads, &[tokens]);
        for at in [1, 63, 64, 65, 130] {
            let mut one = new();
            in_pieces(level, &mut one, [&q, &k], heads, &[tokens]);
            let (mut fork, mut bytes, mut again) = (one.fork(at), Vec::new(), new());
            fork.save(&mut bytes).expect("written");
            let pages = at.div_ceil(64);
            assert!(bytes.len() + 48 * pages <= KvLayer::latent_bytes(d, at, element), "{element:?}: {} bytes", bytes.len());
            again.restore(at, &mut bytes.as_slice()).expect("read");
            for layer in [&mut fork, &mut again] {
                let found = in_pieces(level, layer, [&q[at * heads * d..], &k[at * d..]], heads, &[tokens - at]);
                assert!(found == want[at * heads * values..], "{element:?} at {at}");
            }
        }
    }
}
