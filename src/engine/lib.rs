//! From a published checkpoint to tokens, in the memory there is. `ram_run` is this crate with an example of its use.

mod answer;
mod batch;
mod checkpoint;
mod error;
mod export;
pub mod files;
pub mod hub;
mod load;
mod machine;
mod memory;
mod panics;
mod part_of;
mod planner;
mod refine;
mod run;
pub mod size;
mod survey;
mod weight_files;
pub mod wikitext;

pub use answer::{Answer, Call, Calls, Part, Section, THOUGHTS, Thinking, thinks_after};
pub use batch::{Done, Engine, Event, Job, Listener, Status};
pub use checkpoint::{Checkpoint, TensorInfo, read_rows};
pub use error::{Error, Setting};
pub use export::{Exported, Module, Recipe, check_export, check_recipe, export, recipe};
pub use load::{Loaded, assemble, load, load_arriving, load_resuming, pack_part, packed};
pub use machine::{Available, available, bandwidth_bytes, read_bandwidth};
pub use memory::{peak_rss, rss};
pub use part_of::PartOf;
pub use planner::{
    Choice, Curve, Entry, Limit, Measured, MeasuredPart, MeasuredParts, Memory, Method, Pin, Plan, Point, Request, Target, allocate, check, choose,
    curves, measure, measure_part, outline, plan, trellis_menu,
};
pub use ram_kernels::{Effort, Format, KvElement, integer_peak, isa::Level};
pub use ram_models::{Backend, Cancel, Description, Kind, KvCache, Next, PackedLinear, TensorSpec, Transformer, candle_core, description};
pub use refine::{Stage, refined, refined_path};
pub use run::{
    Conversation, Decoder, Generator, Guide, Message, Model, Protocol, Report, Running, Sampler, Sampling, Scored, Session, Stats, Template,
    Tokenizer,
};
pub use survey::Survey;

/// The instruction set that kernels run on, or a sentence where `RAM_RUN_ISA` names none that this machine has.
///
/// # Errors
/// The sentence.
pub fn isa() -> Result<ram_kernels::isa::Level, String> {
    ram_kernels::isa::Level::from_env()
}
