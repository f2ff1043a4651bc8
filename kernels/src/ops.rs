//! What happens to tokens between products.
mod attention;
mod checkpoints;
mod delta;
mod finite;
mod kv;
mod residual;
pub mod rotate;
mod scores;
mod values;

pub use attention::{Look, attend, attend_numbers, attention, attention_at};
pub use checkpoints::Checkpoints;
pub use delta::{DeltaLayer, DeltaShape, DeltaWeights, TAPS, delta_net, delta_numbers};
pub use finite::{NotFinite, Watch, finite};
pub use kv::{Heads, KvElement, KvLayer, PAGE, centre};
pub use residual::{Pairs, Share, Turn, add_shares, add_tiles, gate_heads, norm_rows, normed};
pub use scores::{divergence, log_sum_exp};
pub use values::{Clamped, Gated, Normed as NormedRow, Reordered, Same, Tiled, Values};
