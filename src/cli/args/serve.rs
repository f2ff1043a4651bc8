//! What can be typed for `serve`.
use super::{SamplingArgs, Think, seed, tokens, whole};
use clap::Args as Group;
use std::{net::IpAddr, path::PathBuf};

#[derive(Group)]
pub struct ServeArgs {
    /// Address to listen at [default: 127.0.0.1 and ::1]; any but these wants a key
    #[arg(long, help_heading = "Network", value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// Port to listen at; 0 for any
    #[arg(long, help_heading = "Network", default_value_t = 8080)]
    pub port: u16,
    /// A key that requests must have; may be given again. Others see what is typed: RAM_RUN_API_KEY and --api-key-file are safer
    #[arg(long, help_heading = "Access", value_name = "KEY")]
    pub api_key: Vec<String>,
    /// A file with a key in each line
    #[arg(long, help_heading = "Access", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Serve whoever can reach this machine, without a key
    #[arg(long, help_heading = "Access", conflicts_with_all = ["api_key", "api_key_file"])]
    pub no_auth: bool,
    /// A name that this server goes by, besides localhost and addresses; may be given again
    #[arg(long, help_heading = "Access", value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// An origin whose pages may ask, such as https://chat.example; may be given again
    #[arg(long, help_heading = "Access", value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Requests that are computed at once
    #[arg(long, help_heading = "Memory", default_value_t = 4, value_name = "N", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 1).and_then(at_once))]
    pub parallel: usize,
    /// Tokens of keys and values in all: of what is computed, and of what is kept for texts that begin alike [default: twice --ctx]
    #[arg(long, help_heading = "Memory", value_name = "TOKENS", allow_hyphen_values = true, value_parser = tokens)]
    pub kv_tokens: Option<usize>,
    /// Requests that may wait; others are told to come back
    #[arg(long, help_heading = "Network", default_value_t = 64, value_name = "N", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 0))]
    pub queue: usize,
    /// Seconds that one may wait
    #[arg(long, help_heading = "Network", default_value_t = 600, value_name = "SECONDS", allow_hyphen_values = true, value_parser = seed)]
    pub queue_timeout: u64,
    /// Seconds of silence after which a stream says that it is still there; 0 for never
    #[arg(long, help_heading = "Network", default_value_t = 5, value_name = "SECONDS", allow_hyphen_values = true, value_parser = seed)]
    pub sse_ping: u64,
    /// The name that clients see [default: the model's]
    #[arg(long, help_heading = "Network", value_name = "NAME")]
    pub alias: Option<String>,
    /// Refuse requests for a model of another name
    #[arg(long, help_heading = "Access")]
    pub strict_model: bool,
    /// A Jinja template instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Whether the model thinks before it answers, where it can and a request does not say
    #[arg(long, value_enum, default_value_t = Think::On)]
    pub think: Think,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Sequences that are computed at once: more would only share the same memory bandwidth among them.
fn at_once(sequences: usize) -> Result<usize, String> {
    if sequences <= 64 { Ok(sequences) } else { Err("write 64 or less".into()) }
}
