//! What happens to tokens between products.
mod attention;
mod checkpoints;
mod delta;
mod finite;
mod kv;
mod norm;
mod residual;
pub mod rotate;
mod scores;
mod values;

pub use attention::{Look, attend, attend_numbers, attention, attention_at};
pub use checkpoints::Checkpoints;
pub use delta::{DeltaLayer, DeltaShape, DeltaWeights, TAPS, delta_net, delta_numbers};
pub use finite::{NotFinite, Watch, finite};
pub use kv::{Heads, KvElement, KvLayer, PAGE, centre};
pub use norm::{Normed as NormedRow, RowNorm};
pub use residual::{Pairs, Share, Turn, add_shares, add_tiles, gate_heads};
pub use scores::{bound, divergence, log_sum_exp};
pub use values::{Clamped, Gated, Reordered, Same, Tiled, Values};
