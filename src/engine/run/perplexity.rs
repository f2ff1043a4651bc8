//! Perplexity of a text by a stated protocol, and KL divergence from another run of the same model.
use crate::{Error, error::Setting};
use ram_kernels::{divergence, log_sum_exp};
use ram_models::{KvElement, Transformer, floats};
use rayon::prelude::*;
use serde::Serialize;

/// How a text is cut into windows and what of them is scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Protocol {
    /// Its name, where it has one.
    pub name: Option<&'static str>,
    /// Tokens per window.
    pub window: usize,
    /// Tokens from one window's start to the next.
    pub stride: usize,
    /// Put before the text and in place of every window's first token.
    pub bos: Option<u32>,
    /// First position of a window that is scored; later windows of a stride smaller than the window score only what
    /// no window before them has.
    pub score_from: usize,
}

impl Protocol {
    /// Windows of 2,048 without overlap, every position but a window's first scored.
    pub fn hf_2048() -> Protocol {
        Protocol { name: Some("hf-2048"), ..Protocol::windows(2048, 2048) }
    }

    /// Windows of 512, BOS first where the tokenizer adds one, the second half of each scored.
    pub fn llamacpp_512(bos: Option<u32>) -> Protocol {
        Protocol { name: Some("llamacpp-512"), window: 512, stride: 512, bos, score_from: 257 }
    }

    /// Windows of `window` tokens, one every `stride`.
    pub fn windows(window: usize, stride: usize) -> Protocol {
        Protocol { name: None, window, stride, bos: None, score_from: 1 }
    }

    fn check(&self) -> Result<(), Error> {
        if self.window < 2 {
            return Err(Error::setting(Setting::Window, self.window, "at least 2 tokens, one to see and one to score"));
        }
        if self.stride == 0 || self.stride > self.window {
            return Err(Error::setting(Setting::Stride, self.stride, format!("from 1 to the window of {}", self.window)));
        }
        if self.score_from == 0 || self.score_from >= self.window {
            return Err(Error::setting(Setting::ScoreFrom, self.score_from, format!("from 1, below the window of {}", self.window)));
        }
        Ok(())
    }
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How.
    pub protocol: Protocol,
    /// e to the mean NLL over all scored tokens.
    pub perplexity: f64,
    /// Its standard error: perplexity times that of the mean NLL.
    pub perplexity_error: f64,
    /// Nats per scored token.
    pub mean_nll: f64,
    /// Standard error of the mean NLL, over tokens.
    pub standard_error: f64,
    /// Mean of the windows' perplexities.
    pub mean_window: f64,
    /// Median of the windows' perplexities.
    pub median_window: f64,
    /// Windows run.
    pub windows: usize,
    /// Tokens scored.
    pub tokens_scored: usize,
    /// Mean KL divergence of this run's next-token distribution from the reference's, in nats per scored token.
    pub kl: Option<f64>,
    /// Its standard error, over tokens.
    pub kl_standard_error: Option<f64>,
    /// Share of scored positions where both have the same likeliest token.
    pub top1_agreement: Option<f64>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Windows done.
    pub window: usize,
    /// Of so many.
    pub windows: usize,
    /// Over what was scored so far.
    pub perplexity: f64,
}

/// One model in a run.
pub struct Scored<'a> {
    /// The model.
    pub transformer: &'a Transformer,
    /// What its KV cache holds.
    pub kv: KvElement,
}

/// Scores `tokens`. Logits of at most `logits_bytes` are alive at once, `chunk` tokens go through the model at a time.
/// Against `reference` the KL divergence is computed too.
///
/// # Errors
/// [`Error::Short`] for a text of less than one window, [`Error::Setting`] for a protocol that cannot be, [`Error::Mismatch`] for a
/// reference with another vocabulary, [`Error::NotFinite`] where a score is no number.
#[allow(clippy::too_many_arguments)]
pub fn perplexity(
    model: &Scored,
    reference: Option<&Scored>,
    tokens: &[u32],
    protocol: &Protocol,
    max_windows: Option<usize>,
    chunk: usize,
    logits_bytes: usize,
    progress: &mut dyn FnMut(Running),
) -> Result<Report, Error> {
    protocol.check()?;
    let all = tokens.len() + usize::from(protocol.bos.is_some());
    let windows = if all < protocol.window { 0 } else { (all - protocol.window) / protocol.stride + 1 };
    if max_windows == Some(0) {
        return Err(Error::setting(Setting::MaxWindows, 0, "at least 1"));
    }
    let windows = windows.min(max_windows.unwrap_or(usize::MAX));
    if windows == 0 {
        return Err(Error::Short { tokens: tokens.len(), window: protocol.window });
    }
    let vocab = model.transformer.description().vocab_size;
    for m in [Some(model), reference].into_iter().flatten() {
        let (limit, theirs) = (m.transformer.description().max_position_embeddings, m.transformer.description().vocab_size);
        if protocol.window > limit {
            return Err(Error::Context { tokens: protocol.window, capacity: limit });
        }
        if theirs != vocab {
            return Err(Error::Mismatch(format!("the models have vocabularies of {vocab} and {theirs}: their distributions cannot be compared")));
        }
    }
    let mut caches = [Some(model), reference].map(|m| m.map(|m| m.transformer.cache(protocol.window, m.kv)));
    let (mut nll, mut kl, mut agree) = (Sums::default(), Sums::default(), 0usize);
    let mut per_window = Vec::with_capacity(windows);
    for w in 0..windows {
        // With BOS before the text and in place of a window's first token, the others are those from the window's start on.
        let row: Vec<u32> = protocol.bos.into_iter().chain(tokens[w * protocol.stride..].iter().copied()).take(protocol.window).collect();
        let from = if w == 0 { protocol.score_from } else { protocol.score_from.max(protocol.window - protocol.stride) };
        let from = if protocol.stride == protocol.window { protocol.score_from } else { from };
        let before = nll.clone();
        for c in caches.iter_mut().flatten() {
            c.clear();
        }
        let mut start = 0;
        while start < row.len() {
            let end = (start + chunk.max(1)).min(row.len());
            let mut hidden = Vec::new();
            for (m, cache) in [Some(model), reference].into_iter().zip(&mut caches) {
                if let (Some(m), Some(cache)) = (m, cache) {
                    hidden.push(m.transformer.forward(&row[start..end], cache)?);
                }
            }
            // Position p predicts token p + 1.
            let (mut p, last) = (start.max(from - 1), end.min(row.len() - 1));
            while p < last {
                let n = (logits_bytes / (4 * vocab)).max(1).min(last - p);
                let mut logits = Vec::new();
                for (m, h) in [Some(model), reference].into_iter().flatten().zip(&hidden) {
                    logits.push(m.transformer.logits(&h.narrow(0, p - start, n)?)?);
                }
                let scores = |own: &[f32], reference: Option<&[f32]>| {
                    let each = (0..n).into_par_iter().map(|i| {
                        let at = i * vocab..(i + 1) * vocab;
                        score(&own[at.clone()], reference.map(|r| &r[at]), row[p + i + 1])
                    });
                    each.collect::<Vec<Score>>()
                };
                let scores = match logits.get(1) {
                    None => floats(&logits[0], |own| scores(own, None))?,
                    Some(reference) => floats(&logits[0], |own| floats(reference, |reference| scores(own, Some(reference))))??,
                };
                if scores.iter().any(|s| !s.nll.is_finite() || !s.kl.is_finite()) {
                    return Err(Error::NotFinite(format!("logits in window {}", w + 1)));
                }
                for s in scores {
                    nll.add(s.nll);
                    kl.add(s.kl);
                    agree += usize::from(s.agrees);
                }
                p += n;
            }
            start = end;
        }
        per_window.push(((nll.sum - before.sum) / (nll.count - before.count).max(1) as f64).exp());
        progress(Running { window: w + 1, windows, perplexity: nll.mean().exp() });
    }
    per_window.sort_by(f64::total_cmp);
    let middle = per_window.len() / 2;
    let median = if per_window.len() % 2 == 1 { per_window[middle] } else { (per_window[middle - 1] + per_window[middle]) / 2.0 };
    Ok(Report {
        protocol: protocol.clone(),
        perplexity: nll.mean().exp(),
        perplexity_error: nll.mean().exp() * nll.standard_error(),
        mean_nll: nll.mean(),
        standard_error: nll.standard_error(),
        mean_window: per_window.iter().sum::<f64>() / per_window.len() as f64,
        median_window: median,
        windows,
        tokens_scored: nll.count,
        kl: reference.map(|_| kl.mean()),
        kl_standard_error: reference.map(|_| kl.standard_error()),
        top1_agreement: reference.map(|_| agree as f64 / nll.count.max(1) as f64),
    })
}

/// Count, sum and sum of squares.
#[derive(Clone, Default)]
struct Sums {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, v: f64) {
        self.count += 1;
        self.sum += v;
        self.squares += v * v;
    }
    fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
    fn standard_error(&self) -> f64 {
        let n = self.count as f64;
        if self.count < 2 { f64::NAN } else { ((self.squares / n - self.mean().powi(2)).max(0.0) / (n - 1.0)).sqrt() }
    }
}

struct Score {
    nll: f64,
    kl: f64,
    agrees: bool,
}

/// The index of the largest, the first of equals.
fn top(row: &[f32]) -> usize {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best }).0
}

/// One position, of this run's logits (vocab_size) and the reference's where there is one.
fn score(own: &[f32], reference: Option<&[f32]>, next: u32) -> Score {
    let log_sum = log_sum_exp(own);
    let nll = log_sum - f64::from(own[next as usize]);
    match reference {
        None => Score { nll, kl: 0.0, agrees: false },
        Some(reference) => Score { nll, kl: divergence(own, log_sum, reference), agrees: top(own) == top(reference) },
    }
}
