//! The next token from the logits: penalties, biases, top-k, top-p, min-p, temperature, in this order.
use super::tokenizer;
use crate::{Error, error::Setting};
use rand_pcg::{Pcg64Mcg, rand_core::Rng};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token, the first of equals.
    pub temperature: f32,
    /// Only so many of the likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability.
    pub top_p: f32,
    /// Only those at least this fraction as likely as the likeliest.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by it, negative ones multiplied (Keskar et al., arXiv 1909.05858).
    pub repeat_penalty: f32,
    /// How many tokens back it looks.
    pub repeat_last_n: usize,
    /// Taken off the logit of a token that was chosen before.
    pub presence_penalty: f32,
    /// Taken off it for every time that it was.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same choices.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// What a checkpoint's generation_config.json asks for; where it is silent, temperature 0.8, top-k 40, top-p 0.95,
    /// min-p 0.05, which suit most models.
    ///
    /// # Errors
    /// [`Error::File`] where the file is there and is no JSON, or has a number that is none or outside its range.
    pub fn published(folder: &Path) -> Result<Sampling, Error> {
        let path = folder.join("generation_config.json");
        let json = tokenizer::json(&path)?;
        let bad = |key: &str, what: &str| Error::File { path: path.clone(), reason: format!("has {key} {}, which must be {what}", json[key]) };
        let number = |key: &str, silent: f32| match &json[key] {
            Value::Null => Ok(silent),
            value => value.as_f64().map(|v| v as f32).ok_or_else(|| bad(key, "a number")),
        };
        if !matches!(json["do_sample"], Value::Null | Value::Bool(_)) {
            return Err(bad("do_sample", "true or false"));
        }
        // Its authors say how to sample: what they leave out is then off, not ours.
        let silent = |ours: f32, off: f32| if json["do_sample"] == true { off } else { ours };
        let temperature = number("temperature", silent(0.8, 1.0))?;
        let said = Sampling {
            temperature,
            top_k: match &json["top_k"] {
                Value::Null => silent(40.0, 50.0) as usize,
                value => value.as_u64().and_then(|k| usize::try_from(k).ok()).ok_or_else(|| bad("top_k", "a whole number"))?,
            },
            top_p: number("top_p", silent(0.95, 1.0))?,
            min_p: number("min_p", silent(0.05, 0.0))?,
            repeat_penalty: number("repetition_penalty", 1.0)?,
            ..Sampling::default()
        };
        said.check().map_err(|(setting, _, range)| {
            let key = if setting == Setting::RepeatPenalty { "repetition_penalty".into() } else { setting.to_string() };
            bad(&key, range)
        })?;
        Ok(if json["do_sample"] == false { Sampling { temperature: 0.0, ..said } } else { said })
    }

    /// What is out of its range, and the range.
    fn check(&self) -> Result<(), (Setting, f32, &'static str)> {
        let (t, penalty) = (self.temperature, self.repeat_penalty);
        let settings = [
            (Setting::Temperature, t, t >= 0.0 && t.is_finite(), "0 or more"),
            (Setting::TopP, self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            (Setting::MinP, self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (Setting::RepeatPenalty, penalty, penalty > 0.0 && penalty.is_finite(), "above 0"),
            (Setting::PresencePenalty, self.presence_penalty, self.presence_penalty.is_finite(), "a number"),
            (Setting::FrequencyPenalty, self.frequency_penalty, self.frequency_penalty.is_finite(), "a number"),
        ];
        let biases = self.logit_bias.iter().map(|(_, bias)| (Setting::LogitBias, *bias, bias.is_finite(), "a number"));
        settings.into_iter().chain(biases).find(|(_, _, good, _)| !good).map_or(Ok(()), |(setting, value, _, range)| Err((setting, value, range)))
    }
}

/// A [`Sampling`] at work.
#[derive(Clone, Debug)]
pub struct Sampler {
    how: Sampling,
    random: Pcg64Mcg,
    /// Random numbers taken.
    drawn: u64,
    /// How often it chose each token, where a penalty asks for it.
    chosen: BTreeMap<u32, u32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Setting`] for a number outside its range.
    pub fn new(how: Sampling) -> Result<Sampler, Error> {
        how.check().map_err(|(setting, value, range)| Error::setting(setting, value, format!("must be {range}")))?;
        let random = Pcg64Mcg::new(u128::from(how.seed) << 64 | 0xa02_bdbf_7bb3_c0a7);
        Ok(Sampler { how, random, drawn: 0, chosen: BTreeMap::new(), candidates: Vec::new() })
    }

    /// Random numbers that it has taken.
    pub(super) fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Goes on as one that has taken `drawn` of them.
    pub(super) fn advance(&mut self, drawn: u64) {
        self.random.advance(u128::from(drawn));
        self.drawn += drawn;
    }

    /// Nothing was chosen before.
    pub(super) fn begin(&mut self) {
        self.chosen.clear();
    }

    /// As if it had chosen them.
    pub(super) fn chose(&mut self, tokens: &[u32]) {
        if self.how.presence_penalty != 0.0 || self.how.frequency_penalty != 0.0 {
            tokens.iter().for_each(|token| *self.chosen.entry(*token).or_default() += 1);
        }
    }

    /// The next token; `history` is everything before it. Penalties for presence and frequency count what this sampler chose.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where a logit is no number, or none is above minus infinity.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, Error> {
        let token = self.pick(logits, history)?;
        self.chose(&[token]);
        Ok(token)
    }

    fn pick(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, Error> {
        let c = &mut self.candidates;
        c.clear();
        c.extend(logits.iter().zip(0..).map(|(&l, i)| (l, i)));
        if self.how.repeat_penalty != 1.0 {
            let recent: std::collections::BTreeSet<u32> = history.iter().rev().take(self.how.repeat_last_n).copied().collect();
            for token in recent {
                if let Some((l, _)) = c.get_mut(token as usize) {
                    *l = if *l > 0.0 { *l / self.how.repeat_penalty } else { *l * self.how.repeat_penalty };
                }
            }
        }
        for (token, count) in &self.chosen {
            if let Some((l, _)) = c.get_mut(*token as usize) {
                *l -= self.how.presence_penalty + self.how.frequency_penalty * *count as f32;
            }
        }
        for (token, bias) in &self.how.logit_bias {
            if let Some((l, _)) = c.get_mut(*token as usize) {
                *l += bias;
            }
        }
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        // -inf is how a caller forbids a token; all else that is not finite comes from weights or inputs that are not.
        let most = c.iter().map(|(l, _)| *l).fold(f32::NEG_INFINITY, f32::max);
        if !most.is_finite() || c.iter().any(|(l, _)| l.is_nan()) {
            return Err(Error::NotFinite("the logits of the next token".into()));
        }
        if self.how.temperature == 0.0 {
            return Ok(c.iter().min_by(|a, b| order(a, b)).map_or(0, |b| b.1));
        }
        if self.how.top_k > 0 && self.how.top_k < c.len() {
            c.select_nth_unstable_by(self.how.top_k, order);
            c.truncate(self.how.top_k);
        }
        c.sort_unstable_by(order);
        let probability = |l: f32| f64::from(l - most).exp();
        if self.how.top_p < 1.0 {
            let total: f64 = c.iter().map(|(l, _)| probability(*l)).sum();
            let mut sum = 0.0;
            let keep = c.iter().position(|(l, _)| {
                sum += probability(*l) / total;
                sum >= f64::from(self.how.top_p)
            });
            c.truncate(keep.map_or(c.len(), |at| at + 1));
        }
        c.retain(|(l, _)| probability(*l) >= f64::from(self.how.min_p));
        let weight = |l: f32| (f64::from(l - most) / f64::from(self.how.temperature)).exp();
        let total: f64 = c.iter().map(|(l, _)| weight(*l)).sum();
        self.drawn += 1;
        let mut left = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        for (l, token) in c.iter() {
            left -= weight(*l);
            if left < 0.0 {
                return Ok(*token);
            }
        }
        Ok(c[c.len() - 1].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(how: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut s = Sampler::new(how).expect("in range");
        (0..2000).map(|_| s.sample(logits, &[2]).expect("numbers")).collect()
    }

    #[test]
    fn what_was_chosen_and_what_is_biased_counts() {
        let greedy = |how: Sampling, times: usize| {
            let mut s = Sampler::new(how).expect("in range");
            (0..times).map(|_| s.sample(&[3.0, 2.5, 1.0], &[0, 0, 0]).expect("a number")).collect::<Vec<_>>()
        };
        // Only what the sampler chose counts, not the text before.
        assert_eq!(greedy(Sampling { presence_penalty: 1.0, ..Sampling::default() }, 4), [0, 1, 0, 0]);
        assert_eq!(greedy(Sampling { frequency_penalty: 1.0, ..Sampling::default() }, 6), [0, 1, 0, 1, 0, 2]);
        assert_eq!(greedy(Sampling { logit_bias: vec![(2, 5.0), (7, 9.0)], ..Sampling::default() }, 2), [2, 2]);
        assert!(Sampler::new(Sampling { logit_bias: vec![(0, f32::NAN)], ..Sampling::default() }).is_err());
    }

    #[test]
    fn authors_say_how_to_sample() {
        let folder = tempfile::tempdir().expect("a folder");
        let published = |text: &str| {
            std::fs::write(folder.path().join("generation_config.json"), text).expect("written");
            Sampling::published(folder.path())
        };
        let said = published(r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95}"#).expect("read");
        assert_eq!((said.temperature, said.top_k, said.top_p, said.min_p), (0.6, 20, 0.95, 0.0));
        assert_eq!(published(r#"{"do_sample": false}"#).expect("read").temperature, 0.0);
        assert_eq!(published("{}").expect("read").temperature, 0.8);
        for (text, words) in [
            ("{", "no JSON"),
            (r#"{"temperature": -1}"#, "temperature -1, which must be 0 or more"),
            (r#"{"temperature": 1e99}"#, "temperature"),
            (r#"{"top_p": 1.5, "do_sample": false}"#, "top_p 1.5"),
            (r#"{"min_p": -0.1}"#, "min_p -0.1"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty 0"),
            (r#"{"top_k": "many"}"#, "top_k \"many\", which must be a whole number"),
            (r#"{"top_k": -1}"#, "top_k -1"),
            (r#"{"top_p": [1]}"#, "top_p [1], which must be a number"),
            (r#"{"do_sample": 1}"#, "do_sample 1"),
        ] {
            let said = published(text).expect_err(text);
            assert!(matches!(said, Error::File { .. }) && said.to_string().contains(words), "{said}");
        }
    }

    #[test]
    fn frequencies_follow_probabilities() {
        let logits = [1.0f32, 2.0, 3.0, 0.0];
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let share = |how: Sampling, token: u32| draws(how, &logits).iter().filter(|t| **t == token).count() as f64 / 2000.0;
        assert!((share(base.clone(), 2) - 0.644).abs() < 0.04);
        assert_eq!(share(Sampling { temperature: 0.0, ..base.clone() }, 2), 1.0);
        assert_eq!(share(Sampling { top_k: 1, ..base.clone() }, 2), 1.0);
        assert_eq!(share(Sampling { top_p: 0.6, ..base.clone() }, 2), 1.0);
        assert_eq!(share(Sampling { min_p: 0.3, ..base.clone() }, 0), 0.0);
        assert_eq!(share(Sampling { repeat_penalty: 100.0, temperature: 0.0, ..base.clone() }, 1), 1.0);
        assert_eq!(draws(base.clone(), &logits), draws(base.clone(), &logits));
        assert_ne!(draws(base.clone(), &logits), draws(Sampling { seed: 1, ..base }, &logits));
    }

    #[test]
    fn bad_numbers_are_refused() {
        for how in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { min_p: 2.0, ..Sampling::default() },
            Sampling { repeat_penalty: 0.0, ..Sampling::default() },
        ] {
            assert!(matches!(Sampler::new(how), Err(Error::Setting { .. })));
        }
        let mut greedy = Sampler::new(Sampling::default()).expect("in range");
        let mut drawn = Sampler::new(Sampling { temperature: 1.0, ..Sampling::default() }).expect("in range");
        for s in [&mut greedy, &mut drawn] {
            let (none, no) = (f32::NEG_INFINITY, f32::NAN);
            for logits in [&[][..], &[no; 3], &[none; 3], &[no, 1.0, 1.0], &[1.0, no], &[f32::INFINITY, 1.0], &[f32::INFINITY, none]] {
                assert!(matches!(s.sample(logits, &[]), Err(Error::NotFinite(_))), "{logits:?}");
            }
            assert_eq!(s.sample(&[none, 1.0, none], &[]).expect("a number"), 1);
        }
    }
}
