//! A model that runs: text to tokens and back, tokens one after another, conversations, perplexity.
mod generate;
mod guide;
mod model;
mod perplexity;
mod sampler;
mod score;
mod session;
mod template;
mod tokenizer;

pub use generate::Generator;
pub use guide::Guide;
pub use model::Model;
pub use perplexity::{Protocol, Report, Running};
pub use sampler::{Sampler, Sampling};
pub use score::Scored;
pub use session::{Session, Stats};
pub use template::{Conversation, Message, Template};
pub use tokenizer::{Decoder, Tokenizer};
