//! A budget is a promise about the process: weights, KV cache, scratch and everything else, while loading and after.
use ram_kernels::KvElement;
use ram_models::{Backend, Description, KvCache, Work};
use serde::Serialize;

/// What the process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Peak resident bytes of the whole process.
    Process(u64),
    /// Bytes of the weights alone, for comparisons at equal bytes.
    Weights(u64),
    /// Nothing to keep to.
    None,
}

/// Where the process' memory goes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Packed weights, norms and biases.
    pub weights: u64,
    /// Keys and values of the whole context, of every sequence.
    pub kv_cache: u64,
    /// Buffers of loading, and of one forward pass with its logits.
    pub scratch: u64,
    /// Program, tokenizer, allocator, thread stacks: an estimate from above; and what the caller keeps for itself.
    pub other: u64,
    /// All of it.
    pub total: u64,
    /// What it is held against, if the whole process is bounded.
    pub budget: Option<u64>,
}

/// Program text, allocator slack and stacks, with a tokenizer's working memory: a run of a 12M-parameter model peaks at
/// 18 MB over its weights.
const PROGRAM: u64 = 16 << 20;
/// Resident bytes per byte of tokenizer.json, an estimate from above; the runs of `tests/it/memory.rs` hold it.
const TOKENIZER: u64 = 12;
/// Resident bytes per tensor: its entry in the header, its name in the plan.
const TENSOR: u64 = 2048;
/// Threads that are counted where the machine has fewer, so that most machines make the same plan.
const THREADS: usize = 8;
/// Resident bytes of a thread that does nothing yet: its stack, its part of the allocator.
const THREAD: u64 = 96 << 10;
/// Beginnings that are kept for each sequence that is computed at once, at the most.
pub const KEPT: usize = 8;
/// Tokens whose keys and values are taken together.
const PAGE: usize = KvCache::PAGE;
/// Tokens per forward at the most and at the least.
const CHUNKS: std::ops::RangeInclusive<usize> = 32..=512;

/// Bytes of logits that are alive at once, more than one row of them: 8 MiB, less where that is more than a part in 64.
pub fn logits_bytes(budget: Option<u64>) -> usize {
    budget.map_or(8 << 20, |b| (b / 64).min(8 << 20) as usize)
}

/// Threads that are counted where there are so many.
pub fn threads_counted(threads: usize) -> usize {
    threads.max(THREADS)
}

/// What the process takes besides its weights, as a function of its budget.
#[derive(Clone, Debug)]
pub struct Besides {
    /// Of the model.
    pub description: Description,
    /// What computes.
    pub backend: Backend,
    /// Whether it has matrices with an order of their inputs.
    pub ordered: bool,
    /// How many tensors it has.
    pub tensors: usize,
    /// Bytes of tokenizer.json.
    pub tokenizer: u64,
    /// Bytes that one thread needs to load.
    pub buffers: u64,
    /// Tokens that a KV cache holds.
    pub context: usize,
    /// Sequences that have one at once.
    pub sequences: usize,
    /// Tokens that all sequences hold together, and those that are kept for later; `None` for as many as all have room for.
    pub kv_tokens: Option<usize>,
    /// What it holds.
    pub kv: KvElement,
    /// Bytes that the caller keeps for itself.
    pub reserved: u64,
    /// Threads that there are.
    pub threads: usize,
    /// Bytes that coding with error feedback takes before there are a KV cache and a forward pass; 0 where nothing is coded so.
    pub refining: u64,
}

impl Besides {
    /// Memory, and tokens per forward pass of a prompt, where the weights take at least `least` bytes: 512 tokens, fewer where their
    /// scratch would take more than a sixteenth of the budget or leave no room for the weights.
    pub fn within(&self, limit: Limit, least: u64) -> (Memory, usize) {
        let Limit::Process(budget) = limit else { return (self.with_chunk(None, *CHUNKS.end()), *CHUNKS.end()) };
        let mut chunk = *CHUNKS.end();
        loop {
            let memory = self.with_chunk(Some(budget), chunk);
            let small = self.scratch(chunk) <= budget / 16 && memory.total.saturating_add(least) <= budget;
            if small || chunk <= *CHUNKS.start() {
                return (memory, chunk);
            }
            chunk /= 2;
        }
    }

    /// The smallest budget that has room for `least` bytes of weights; every larger one has too.
    pub fn least_budget(&self, least: u64) -> u64 {
        let fits = |budget: u64| self.with_chunk(Some(budget), *CHUNKS.start()).total.saturating_add(least) <= budget;
        // What is needed grows with the budget by a part in 25 of it at the most (twice the logits, and a quarter): so there is one
        // place from which on it fits.
        let (mut below, mut above) = (0, u64::MAX);
        while below + 1 < above {
            let middle = below + (above - below) / 2;
            if fits(middle) {
                above = middle;
            } else {
                below = middle;
            }
        }
        above
    }

    fn scratch(&self, chunk: usize) -> u64 {
        let tokens = chunk.min(self.context).max(self.sequences);
        let (sequences, context, threads, ordered) = (self.sequences, self.context, self.threads(), self.ordered);
        self.backend.scratch_bytes(&self.description, Work { tokens, sequences, context, threads, ordered }) as u64
    }

    fn kv_bytes(&self) -> u64 {
        let of = |tokens: usize| self.backend.state_bytes(&self.description, tokens, self.kv).map(|bytes| bytes as u64);
        let [all, bounded] = of(self.context);
        let Some(tokens) = self.kv_tokens else { return all.saturating_mul(self.sequences as u64) };
        // States and windows are each sequence's own; what is kept of others has the memory of those that are not there.
        let own = bounded.saturating_mul(self.sequences as u64);
        let of = |tokens: usize| {
            let [all, bounded] = of(tokens);
            all - bounded
        };
        // Each sequence may be copying a page that it shared until now.
        let all = own.saturating_add(of((tokens.div_ceil(PAGE) + self.sequences).saturating_mul(PAGE)));
        let heads: usize = self.description.layers.iter().map(|l| l.mixer.key_value_heads()).sum();
        // What a first page takes more than others, and the lists of pages, is each one's own, of those that are kept too.
        let (first, list) = ((2 * of(PAGE)).saturating_sub(of(2 * PAGE)), heads * (32 + 8 * self.context.div_ceil(PAGE)));
        all.saturating_add(((1 + KEPT) * self.sequences) as u64 * (first + list as u64))
    }

    fn threads(&self) -> usize {
        threads_counted(self.threads)
    }

    fn with_chunk(&self, budget: Option<u64>, chunk: usize) -> Memory {
        // While they are computed, logits are there twice: in tiles, and in order.
        let logits = 2 * (self.description.vocab_size * 4 * self.sequences).max(logits_bytes(budget)) as u64;
        let forward = self.scratch(chunk) + logits;
        let threads = self.threads() as u64;
        // Both at once: the system's allocator keeps what loading freed, and a quarter more than a forward needs.
        let scratch = forward + forward / 4 + self.buffers * threads;
        let kv_cache = self.kv_bytes();
        // The same memory first codes the weights; what the caller keeps for itself may be there by then.
        let scratch = scratch.max((self.refining + self.buffers * threads).saturating_sub(kv_cache));
        let other = PROGRAM + TOKENIZER * self.tokenizer + TENSOR * self.tensors as u64 + THREAD * threads + self.reserved;
        Memory { weights: 0, kv_cache, scratch, other, total: kv_cache + scratch + other, budget }
    }
}

impl Memory {
    /// The same with weights.
    #[must_use]
    pub fn with_weights(mut self, weights: u64) -> Memory {
        self.total = self.total - self.weights + weights;
        self.weights = weights;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn besides()(
            (hidden, heads, kv_heads, head_dim) in (1usize..64, 1usize..5, 1usize..3, 1usize..65),
            (layers, experts, width, vocab) in (1usize..50, 1usize..130, 1usize..64, 1usize..200_000),
            (tokenizer, buffers, reserved) in (0u64..20_000_000, 0u64..10_000_000, 0u64..1_000_000_000),
            (context, kv, candle, threads) in (1usize..40_000, 0usize..4, any::<bool>(), 1usize..200),
            sequences in 1usize..40,
            kv_tokens in proptest::option::of(1usize..100_000),
        ) -> Besides {
            let json = format!(
                r#"{{"model_type": "mixtral", "vocab_size": {vocab}, "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {layers},
                "num_attention_heads": {}, "num_key_value_heads": {kv_heads}, "head_dim": {}, "num_local_experts": {experts},
                "num_experts_per_tok": {}, "max_position_embeddings": 40000, "rms_norm_eps": 1e-6, "rope_theta": 1e6}}"#,
                64 * hidden,
                16 * width,
                heads * kv_heads,
                2 * head_dim,
                experts.min(8)
            );
            let description = Description::from_json(&json).expect("a configuration");
            let kv = KvElement::ALL[kv];
            let backend = if candle { Backend::Candle(ram_models::candle_core::Device::Cpu) } else { Backend::Fused };
            Besides { tensors: description.tensors().len(), description, backend, ordered: sequences % 2 == 0, tokenizer, buffers, context, sequences, kv_tokens, kv, reserved, threads, refining: buffers * 30 }
        }
    }

    proptest! {
        #[test]
        fn the_least_budget_is_the_least_and_larger_ones_work(b in besides(), least in 0u64..1_000_000_000_000, more in 0u64..1_000_000_000_000) {
            let need = b.least_budget(least);
            let fits = |budget: u64| b.within(Limit::Process(budget), least).0.total + least <= budget;
            prop_assert!(fits(need));
            prop_assert!(!fits(need - 1));
            for larger in [need + 1, need + more % 1_000_000, need + more, need * 2] {
                prop_assert!(fits(larger), "{} of {}", larger, need);
            }
        }
    }
}
