//! A model that runs: text to tokens and back, tokens one after another, conversations, perplexity.
mod generate;
mod model;
mod perplexity;
mod sampler;
mod session;
mod template;
mod tokenizer;

pub use generate::Generator;
pub use model::Model;
pub use perplexity::{Protocol, Report, Running};
pub use sampler::{Sampler, Sampling};
pub use session::{Session, Stats};
pub use template::{Conversation, Message, Template};
pub use tokenizer::{Decoder, Tokenizer};
