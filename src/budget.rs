//! A budget is a promise about the process: weights, KV cache, scratch and everything else, while loading and after.
use ram_kernels::KvElement;
use ram_models::{Config, KvCache, TensorSpec, Transformer};
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
    /// Keys and values of the whole context.
    pub kv_cache: u64,
    /// Buffers of loading, and of one forward pass with its logits.
    pub scratch: u64,
    /// Program, tokenizer, allocator, thread stacks: an estimate from above.
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
/// Threads whose loading buffers are counted, whatever the machine has: a plan does not depend on it.
const LOADERS: u64 = 8;
/// Tokens per forward at the most and at the least.
const CHUNKS: std::ops::RangeInclusive<usize> = 32..=512;
/// Bytes of logits that are alive at once, more than one row of them: 8 MiB, less where that is more than a part in 32.
pub fn logits_bytes(budget: Option<u64>) -> usize {
    budget.map_or(8 << 20, |b| (b / 32).min(8 << 20) as usize)
}

/// Tokens per forward pass of a prompt: 512, fewer where their scratch would take more than a sixteenth of the budget.
pub fn chunk(config: &Config, limit: Limit) -> usize {
    let mut chunk = *CHUNKS.end();
    if let Limit::Process(budget) = limit {
        while chunk > *CHUNKS.start() && Transformer::scratch_bytes(config, chunk) as u64 > budget / 16 {
            chunk /= 2;
        }
    }
    chunk
}

/// Everything but the weights, which are 0 here. `tokenizer` is the size of tokenizer.json in bytes, `buffers` what one thread
/// needs to load.
pub fn fixed(config: &Config, specs: &[TensorSpec], tokenizer: u64, buffers: u64, context: usize, kv: KvElement, limit: Limit) -> Memory {
    let chunk = chunk(config, limit);
    let budget = if let Limit::Process(b) = limit { Some(b) } else { None };
    let logits = (config.vocab_size * 4).max(logits_bytes(budget)) as u64;
    let forward = Transformer::scratch_bytes(config, chunk.min(context)) as u64 + logits;
    // Both at once: the system's allocator keeps what loading freed, and a quarter more than a forward needs.
    let scratch = forward + forward / 4 + buffers * LOADERS;
    let kv_cache = KvCache::bytes(config, context, kv) as u64;
    let other = PROGRAM + TOKENIZER * tokenizer + TENSOR * specs.len() as u64;
    Memory { weights: 0, kv_cache, scratch, other, total: kv_cache + scratch + other, budget }
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
