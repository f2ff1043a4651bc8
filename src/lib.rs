//! Run a Mixture-of-Experts model in the memory you have: open a checkpoint, plan what every tensor gets, load, run.
//!
//! ```
//! # fn main() -> Result<(), ram_run::Error> {
//! use ram_run::{Checkpoint, Limit, Model, Protocol, Request, Sampling, Survey, plan};
//!
//! let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe");
//! let checkpoint = Checkpoint::open(folder.as_ref())?;
//! let survey = Survey::measure(&checkpoint, &|_| ())?; // not needed, but plans are better with it
//! let request = Request { limit: Limit::Weights(7_000_000), survey: Some(survey.into()), ..Request::default() };
//! let plan = plan(&checkpoint, &request, &|_| ())?; // nothing is quantized yet
//! let model = Model::load(&checkpoint, &plan, &|_| ())?;
//!
//! let mut session = model.session(Sampling::default())?;
//! session.prompt(&model.tokenizer.encode("The river", true)?)?;
//! let tokens = model.generate(&mut session, 8).collect::<Result<Vec<u32>, _>>()?;
//! println!("{}", model.tokenizer.decode(&tokens)?);
//!
//! let text = "The river flows through the town . ".repeat(20);
//! println!("{}", model.perplexity(&text, &Protocol::windows(64, 64), None, None, &mut |_| ())?.perplexity);
//! # Ok(())
//! # }
//! ```

#[doc(inline)]
pub use ram_engine::*;
