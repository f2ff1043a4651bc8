//! Run a Mixture-of-Experts model in the memory you have: open a checkpoint, plan what every tensor gets, load, run.
//!
//! ```
//! # fn main() -> Result<(), ram_run::Error> {
//! use ram_run::{Checkpoint, Limit, Model, Protocol, Request, Sampling, plan};
//!
//! let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe");
//! let checkpoint = Checkpoint::open(folder.as_ref())?;
//! let request = Request { limit: Limit::Weights(7_000_000), ..Request::default() };
//! let plan = plan(&checkpoint, &request, &|_| ())?; // nothing is quantized yet
//! let model = Model::load(&checkpoint, &plan, &|_| ())?;
//!
//! let mut cache = model.cache();
//! let prompt = model.tokenizer.encode("The river", true)?;
//! let tokens = model.generate(&mut cache, prompt, Sampling::default(), 8)?.collect::<Result<Vec<u32>, _>>()?;
//! println!("{}", model.tokenizer.decode(&tokens)?);
//!
//! let text = "The river flows through the town . ".repeat(20);
//! println!("{}", model.perplexity(&text, &Protocol::windows(64, 64), None, None, &mut |_| ())?.perplexity);
//! # Ok(())
//! # }
//! ```

mod allocate;
mod budget;
mod checkpoint;
mod error;
mod expert_shares;
pub mod files;
mod generate;
mod header;
pub mod hub;
mod load;
mod machine;
mod memory;
mod model;
pub mod packed;
mod panics;
mod perplexity;
pub mod plan;
mod quantized;
mod rd_curve;
mod sampler;
mod sensitivity;
pub mod size;
mod source;
mod template;
mod tokenizer;
pub mod wikitext;

pub use allocate::{Choice, allocate};
pub use budget::{Limit, Memory};
pub use checkpoint::{Checkpoint, TensorInfo};
pub use error::{Error, Setting};
pub use generate::{Generator, Stats};
pub use load::{Loaded, load, load_arriving, read_rows};
pub use machine::{Available, available, bandwidth_bytes, read_bandwidth};
pub use memory::peak_rss;
pub use model::Model;
pub use perplexity::{Protocol, Report, Running};
pub use plan::{Measured, Method, Pin, Plan, Request, choose, measure, outline, plan};
pub use ram_kernels::{Effort, Format, KvElement, integer_peak, isa::Level};
pub use ram_models::{Backend, Description, Kind, KvCache, PackedLinear, TensorSpec, Transformer, candle_core, description};
pub use rd_curve::{Curve, Point, curves, trellis_menu};
pub use sampler::{Sampler, Sampling};
pub use template::{Message, Template, conversation_bytes};
pub use tokenizer::{Decoder, Tokenizer};

/// The instruction set that kernels run on, or a sentence where `RAM_RUN_ISA` names none that this machine has.
///
/// # Errors
/// The sentence.
pub fn isa() -> Result<ram_kernels::isa::Level, String> {
    ram_kernels::isa::Level::from_env()
}
