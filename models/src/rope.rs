//! Rotary positions (Su et al. 2021) and what is done to their frequencies so that a model reads longer texts than it was trained on.
use ram_kernels::Pairs;
use std::f64::consts::PI;

/// How positions turn queries and keys: pair i of a head by `position / theta^(2 i / dim)`, then scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// What is done to them.
    pub scaling: Scaling,
    /// Numbers of a head that are turned, the first ones; even.
    pub dim: usize,
    /// Which of them are turned together.
    pub pairs: Pairs,
}

/// What is done to frequencies, by `rope_type`.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Nothing.
    Default,
    /// All are divided (position interpolation, Chen et al. 2023).
    Linear {
        /// By this.
        factor: f64,
    },
    /// The base is longer (NTK-aware scaling by a fixed number, as Hunyuan has it): `theta alpha^(dim / (dim - 2))`.
    Alpha {
        /// That number.
        alpha: f64,
    },
    /// Low frequencies are divided, high ones stay, between them is a ramp over wavelengths (Llama 3.1).
    Llama3 {
        /// What the low ones are divided by.
        factor: f64,
        /// Wavelengths longer than the trained positions over this are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than the trained positions over this stay.
        high_freq_factor: f64,
        /// Positions the model was trained for first.
        original_max_position_embeddings: f64,
    },
    /// The same with a ramp over pairs, and longer queries and keys (YaRN, Peng et al. 2023).
    Yarn {
        /// What the low ones are divided by.
        factor: f64,
        /// Pairs that turn more often than this over the trained positions stay.
        beta_fast: f64,
        /// Pairs that turn less often are divided.
        beta_slow: f64,
        /// What queries and keys are multiplied with.
        attention_factor: f64,
        /// What queries and keys of latents are multiplied with besides, whether they are turned or not.
        scores: f64,
        /// Positions the model was trained for first.
        original_max_position_embeddings: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
    },
    /// Those of the first pairs are what they are, the others do not turn.
    Part {
        /// How many of the pairs turn.
        pairs: usize,
    },
    /// Each is divided by a number of its own, by another one where texts are longer than the model was trained for first (LongRoPE, Ding et
    /// al. 2024).
    Long {
        /// Those of short texts and of longer ones, of every pair.
        factors: [Vec<f64>; 2],
        /// What queries and keys are multiplied with, likewise.
        scales: [f64; 2],
        /// The longest of the former, in tokens.
        original_max_position_embeddings: usize,
        /// Whether texts are longer.
        longer: bool,
    },
}

impl Rope {
    /// Positions that can be told apart, of a model that says it has `trained`: YaRN's file may give the trained ones alone.
    pub fn positions(&self, trained: usize) -> usize {
        match self.scaling {
            Scaling::Yarn { factor, original_max_position_embeddings, .. } => trained.max((factor * original_max_position_embeddings) as usize),
            Scaling::Default
            | Scaling::Alpha { .. }
            | Scaling::Linear { .. }
            | Scaling::Llama3 { .. }
            | Scaling::Part { .. }
            | Scaling::Long { .. } => trained,
        }
    }

    /// Frequencies for texts of up to so many tokens, where they depend on that: all of a text has the same.
    pub(crate) fn reach(&mut self, tokens: usize) {
        if let Scaling::Long { original_max_position_embeddings, longer, .. } = &mut self.scaling {
            *longer = tokens > *original_max_position_embeddings;
        }
    }

    /// Radians per position of every pair, and what its cosines and sines are multiplied with. Rounded to f32, because models
    /// were trained with that: at position 2,048 it is 1e-4 of a turn.
    pub fn frequencies(&self) -> (Vec<f32>, f32) {
        let half = self.dim / 2;
        let plain = |i: usize| self.theta.powf(-(i as f64) / half as f64);
        let scaled = |i: usize| match self.scaling {
            Scaling::Long { ref factors, longer, .. } => plain(i) / factors[usize::from(longer)][i],
            Scaling::Default => plain(i),
            Scaling::Part { pairs } => {
                if i < pairs {
                    plain(i)
                } else {
                    0.0
                }
            }
            Scaling::Alpha { alpha } => {
                let dim = self.dim as f64;
                (self.theta * alpha.powf(dim / (dim - 2.0))).powf(-(i as f64) / half as f64)
            }
            Scaling::Linear { factor } => plain(i) / factor,
            Scaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: trained } => {
                let turns = trained * plain(i) / (2.0 * PI);
                // From 0 at `low` turns to 1 at `high`.
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                plain(i) * (kept + (1.0 - kept) / factor)
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings: trained, truncate, .. } => {
                // The pair that turns so often over the trained positions.
                let pair = |turns: f64| half as f64 * (trained / (turns * 2.0 * PI)).ln() / self.theta.ln();
                let (mut first, mut last) = (pair(beta_fast), pair(beta_slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, mut last) = (first.max(0.0), last.min(self.dim as f64 - 1.0));
                if first == last {
                    last += 0.001;
                }
                let divided = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                plain(i) * (1.0 - divided + divided / factor)
            }
        };
        let longer = match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor as f32,
            Scaling::Long { scales, longer, .. } => scales[usize::from(longer)] as f32,
            Scaling::Default | Scaling::Alpha { .. } | Scaling::Linear { .. } | Scaling::Llama3 { .. } | Scaling::Part { .. } => 1.0,
        };
        ((0..half).map(|i| scaled(i) as f32).collect(), longer)
    }
}
