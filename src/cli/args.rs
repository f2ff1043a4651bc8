//! What can be typed.
use crate::cli::Error;
use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use ram_run::{Effort, Format, KvElement, Limit, Method, Pin, Request, Sampling, size};
use std::{num::NonZeroUsize, path::PathBuf};

/// Run a Mixture-of-Experts language model in the memory you have.
#[derive(Parser)]
#[command(version = super::version(), about, max_term_width = 100)]
pub struct Args {
    /// Folder of a checkpoint (config.json, *.safetensors, tokenizer.json), or ORG/NAME at the hub [default: the bundled model]
    #[arg(long, short, global = true, value_name = "FOLDER|ORG/NAME")]
    pub model: Option<String>,
    /// Branch, tag or commit of a model at the hub
    #[arg(long, global = true, value_name = "REV", default_value = "main")]
    pub revision: String,
    /// Ask the hub nothing: only what its cache has
    #[arg(long, global = true)]
    pub offline: bool,
    /// Delete each weight file once it is quantized: a fetched model takes two of its files and its packed form on disk
    #[arg(long, global = true)]
    pub no_keep: bool,
    /// Memory of the whole process: weights, KV cache, scratch and everything else (24GB, 24GiB, 64MB)
    #[arg(long, short, global = true, value_name = "SIZE", value_parser = size::parse, conflicts_with = "weights")]
    pub budget: Option<u64>,
    /// Bytes of the weights alone, for comparisons at equal bytes
    #[arg(long, global = true, value_name = "SIZE", value_parser = size::parse)]
    pub weights: Option<u64>,
    /// Fix tensors to a format, for example 'lm_head=t8g64'; may be given again
    #[arg(long, global = true, value_name = "REGEX=FORMAT")]
    pub pin: Vec<String>,
    /// One format for all matrices but routers (t4g64, a4g64, bf16)
    #[arg(long, global = true, value_name = "FORMAT", value_parser = |s: &str| s.parse::<Format>(), conflicts_with_all = ["dense", "objective"])]
    pub uniform: Option<Format>,
    /// Every tensor as the checkpoint has it, float32 activations and KV cache
    #[arg(long, global = true, conflicts_with = "objective")]
    pub dense: bool,
    /// What formats are chosen for
    #[arg(long, global = true, value_enum)]
    pub objective: Option<Objective>,
    /// Tokens that the KV cache holds [default: the model's own maximum, at most 4096]
    #[arg(long, global = true, value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// What the KV cache holds [default: f16; f32 with --dense]
    #[arg(long, global = true, value_enum)]
    pub kv: Option<Kv>,
    /// How long to look for the best coding of each weight: fast loads in half the time at up to 9 % more squared error,
    /// best in 2.5 times the time at 1 % less
    #[arg(long, global = true, value_enum, default_value_t = EffortName::Default)]
    pub effort: EffortName,
    /// Threads [default: one per core]
    #[arg(long, global = true)]
    pub threads: Option<NonZeroUsize>,
    /// Packed weights on disk for the next start [auto: models of 256 MiB or more]
    #[arg(long, global = true, value_enum, default_value_t = Keep::Auto)]
    pub cache: Keep,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Keep {
    Auto,
    Always,
    Off,
}

#[derive(Subcommand)]
pub enum Command {
    /// Print what every tensor gets, and where the memory goes, before any weight is quantized
    Plan(PlanArgs),
    /// Continue a text (given, or on stdin)
    Generate(GenerateArgs),
    /// Talk with the model through its own chat template
    Chat(ChatArgs),
    /// Perplexity of a text
    EvalPpl(EvalArgs),
    /// Speed of loading, prefill and decode, against the machine's own read bandwidth
    Bench(BenchArgs),
    /// What a checkpoint is: configuration, tensors by kind, tokenizer, template
    Inspect(InspectArgs),
    /// What this machine has, and which known models fit
    Doctor(DoctorArgs),
    /// Packed weights that are kept for the next start
    Cache(CacheArgs),
    /// Completions for a shell, to stdout
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// The manual page, to stdout
    Man,
    /// Perplexity and KL divergence at equal bytes: this plan, RAM's method, uniform affine, dense
    Compare(CompareArgs),
}

#[derive(Group)]
pub struct PlanArgs {
    /// Also a page with pictures: bits by layer and kind, loss against size
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Every tensor by name, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Group)]
pub struct GenerateArgs {
    /// The text to continue; - for stdin [default: stdin]
    pub prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long, short, value_name = "FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// One JSON object at the end instead of streamed text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Think {
    On,
    Off,
    Hide,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Overflow {
    Stop,
    Slide,
}

#[derive(Group)]
pub struct ChatArgs {
    /// A system message, where the model's template takes one
    #[arg(long)]
    pub system: Option<String>,
    /// A Jinja template instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// What the model thinks before it answers, where it does: shown, not asked for, or not shown
    #[arg(long, value_enum, default_value_t = Think::On)]
    pub think: Think,
    /// When the context is full: stop, or forget the oldest messages
    #[arg(long, value_enum, default_value_t = Overflow::Stop)]
    pub overflow: Overflow,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// What is not given here comes from the model's generation_config.json.
#[derive(Group)]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token [default: the model's own, else 0.8]
    #[arg(long)]
    pub temp: Option<f32>,
    /// Only the K likeliest tokens; 0 for all [default: the model's own, else 40]
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability [default: the model's own, else 0.95]
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Only tokens at least this fraction as likely as the likeliest [default: the model's own, else 0.05]
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Divide the logits of the last 64 tokens by this [default: the model's own, else 1]
    #[arg(long)]
    pub repeat_penalty: Option<f32>,
    /// Seed of the sampler: same seed, same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Tokens at most
    #[arg(long, default_value_t = 1024)]
    pub max_tokens: usize,
}

#[derive(Group)]
pub struct EvalArgs {
    /// The data set: fetched from the hub, or what --text holds
    #[arg(value_parser = ["wikitext2"], default_value = "wikitext2")]
    pub dataset: String,
    /// The text: for wikitext2 the raw test split, wiki.test.raw [default: fetched from the hub]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Also the mean KL divergence from a dense run, and how often both have the same likeliest token
    #[arg(long)]
    pub kl: bool,
    /// The same against another checkpoint, run as it is: for a quantized one, that which it was made from
    #[arg(long, value_name = "FOLDER", conflicts_with = "kl")]
    pub kl_against: Option<PathBuf>,
    /// The report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Group)]
pub struct WindowArgs {
    /// How the text is cut and what is scored [default: hf-2048]
    #[arg(long, value_enum, conflicts_with_all = ["window", "stride"])]
    pub protocol: Option<ProtocolName>,
    /// Tokens per window
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Tokens from one window's start to the next [default: the window]
    #[arg(long, value_name = "N", requires = "window")]
    pub stride: Option<usize>,
    /// Windows at most
    #[arg(long, value_name = "N")]
    pub max_windows: Option<usize>,
}

#[derive(Group)]
pub struct BenchArgs {
    /// Prompt lengths to prefill
    #[arg(long, short = 'p', value_delimiter = ',', default_value = "16,512", value_name = "TOKENS")]
    pub prompt: Vec<usize>,
    /// Tokens to decode
    #[arg(long, short = 'n', value_delimiter = ',', default_value = "128", value_name = "TOKENS")]
    pub generate: Vec<usize>,
    /// Tokens that are in the KV cache before
    #[arg(long, short, value_delimiter = ',', default_value = "0", value_name = "TOKENS")]
    pub depth: Vec<usize>,
    /// Runs of each test, after one to warm up
    #[arg(long, short, default_value_t = 5)]
    pub repeat: usize,
    /// The table as JSON
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// The table as CSV
    #[arg(long)]
    pub csv: bool,
}

#[derive(Group)]
pub struct InspectArgs {
    /// As --model
    #[arg(value_name = "MODEL")]
    pub of: Option<String>,
    /// Everything as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Group)]
pub struct DoctorArgs {
    /// What was found as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Group)]
pub struct CacheArgs {
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Subcommand)]
pub enum CacheCommand {
    /// List the entries, most recently used first
    Ls,
    /// Remove entries by the start of their name, or all of them
    Rm {
        /// As `ls` shows them
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// Every entry
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Read every entry and check it; exit code 1 where one is damaged
    Verify,
    /// Remove what no run will use: half-written files, other versions, and what goes beyond --keep
    Gc {
        /// Keep the most recently used entries up to this size
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        keep: Option<u64>,
    },
}

#[derive(Group)]
pub struct CompareArgs {
    /// As --model
    #[arg(value_name = "MODEL")]
    pub of: Option<String>,
    /// The text [default: WikiText-2's raw test split, fetched from the hub]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Uniform affine formats whose bytes every other method gets [default: a3g64,a3g32,a4g64,a4g32 where neither --weights nor --against is given]
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', value_parser = |s: &str| s.parse::<Format>())]
    pub at: Vec<Format>,
    /// Quantized checkpoints of the same model: each as it is, then this project's plan at its bytes, with the same tensors dense
    #[arg(long, value_name = "FOLDER")]
    pub against: Vec<PathBuf>,
    /// Also the table as a Markdown file
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Also a picture: KL divergence against bits per weight, one curve per method
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ProtocolName {
    #[value(name = "hf-2048")]
    Hf2048,
    #[value(name = "llamacpp-512")]
    Llamacpp512,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Objective {
    /// Least expected KL divergence over trellis formats (the default)
    Kl,
    /// The published RAM method
    Ram,
    /// The published RAM method with every expert's tensor an item
    RamExperts,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Kv {
    F16,
    F32,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum EffortName {
    Fast,
    Default,
    Best,
}

impl Args {
    /// The plan asked for.
    pub fn request(&self) -> Result<Request, Error> {
        let method = match (self.uniform, self.dense, self.objective) {
            (Some(format), ..) => Method::Uniform(format),
            (_, true, _) => Method::Dense,
            (.., Some(Objective::Ram)) => Method::Ram,
            (.., Some(Objective::RamExperts)) => Method::RamExperts,
            _ => Method::Kl,
        };
        let limit = match (self.budget, self.weights) {
            (Some(b), _) => Limit::Process(b),
            (_, Some(w)) => Limit::Weights(w),
            _ => Limit::None,
        };
        let pins = self.pin.iter().map(|p| p.parse::<Pin>()).collect::<Result<_, _>>()?;
        let kv = self.kv.map(|kv| match kv {
            Kv::F16 => KvElement::F16,
            Kv::F32 => KvElement::F32,
        });
        let effort = match self.effort {
            EffortName::Fast => Effort::Fast,
            EffortName::Default => Effort::Default,
            EffortName::Best => Effort::Best,
        };
        Ok(Request { limit, method, pins, context: self.ctx, kv, effort, reserved: 0 })
    }
}

impl SamplingArgs {
    /// What the sampler does: what was typed, over what the model's authors published.
    pub fn over(&self, published: &Sampling) -> Sampling {
        Sampling {
            temperature: self.temp.unwrap_or(published.temperature),
            top_k: self.top_k.unwrap_or(published.top_k),
            top_p: self.top_p.unwrap_or(published.top_p),
            min_p: self.min_p.unwrap_or(published.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(published.repeat_penalty),
            seed: self.seed,
            ..published.clone()
        }
    }
}

/// `--budget 24 GB` is read by every parser as 24 bytes and a command GB: say what to write instead.
pub fn split_size(words: impl Iterator<Item = String>) -> Option<String> {
    let words: Vec<String> = words.collect();
    let flag = words.windows(3).find(|w| {
        let unit = w[2].to_ascii_lowercase();
        ["--budget", "-b", "--weights"].contains(&w[0].as_str())
            && w[1].parse::<f64>().is_ok()
            && ["b", "kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib", "g", "m"].contains(&unit.as_str())
    });
    flag.map(|w| format!("{} {} {}: write the size as one word, {} {}{}", w[0], w[1], w[2], w[0], w[1], w[2]))
}
