//! What can be typed.
mod export;
mod parts;
#[cfg(feature = "server")]
mod serve;

pub use export::{ExportArgs, TargetName};
pub use parts::{MeasureArgs, PackArgs, SurveyArgs};
#[cfg(feature = "server")]
pub use serve::ServeArgs;

use crate::cli::Error;
use clap::{
    Args as Group, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use ram_run::{Backend, Effort, Format, KvElement, Limit, Method, Pin, Request, Sampler, Sampling, candle_core::Device, size};
use std::{num::NonZeroUsize, path::PathBuf};

/// Run a Mixture-of-Experts language model in the memory you have.
#[derive(Parser)]
#[command(version = super::version(), about, max_term_width = 100)]
pub struct Args {
    /// Folder of a checkpoint (config.json, *.safetensors, tokenizer.json), or ORG/NAME at the hub [default: the bundled model]
    #[arg(long, short, global = true, help_heading = "Model", value_name = "FOLDER|ORG/NAME")]
    pub model: Option<String>,
    /// Branch, tag or commit of a model at the hub
    #[arg(long, global = true, help_heading = "Model", value_name = "REV", default_value = "main")]
    pub revision: String,
    /// Ask the hub nothing: only what its cache has
    #[arg(long, global = true, help_heading = "Model")]
    pub offline: bool,
    /// Delete each weight file once it is quantized: a fetched model takes two of its files and its packed form on disk
    #[arg(long, global = true, help_heading = "Model")]
    pub no_keep: bool,
    /// Memory of the whole process: weights, KV cache, scratch and everything else (24GB or 24G is 24 * 10^9 bytes, 24GiB or 24Gi is 24 * 2^30)
    #[arg(long, short, global = true, help_heading = "Memory", allow_hyphen_values = true, value_name = "SIZE", value_parser = size::parse, conflicts_with = "weights")]
    pub budget: Option<u64>,
    /// Bytes of the weights alone, for comparisons at equal bytes
    #[arg(long, global = true, help_heading = "Memory", allow_hyphen_values = true, value_name = "SIZE", value_parser = size::parse)]
    pub weights: Option<u64>,
    /// Fix tensors to a format, for example 'lm_head=t8g64'; may be given again
    #[arg(long, global = true, help_heading = "Plan", value_name = "REGEX=FORMAT")]
    pub pin: Vec<String>,
    /// One format for all matrices but routers (t4g64, a4g64, bf16)
    #[arg(long, global = true, help_heading = "Plan", value_name = "FORMAT", value_parser = |s: &str| s.parse::<Format>(), conflicts_with_all = ["dense", "objective"])]
    pub uniform: Option<Format>,
    /// Every tensor as the checkpoint has it, float32 activations and KV cache
    #[arg(long, global = true, help_heading = "Plan", conflicts_with = "objective")]
    pub dense: bool,
    /// What formats are chosen for
    #[arg(long, global = true, help_heading = "Plan", value_enum)]
    pub objective: Option<Objective>,
    /// Tokens that the KV cache holds [default: the model's own maximum, at most 4096]
    #[arg(long, global = true, help_heading = "Memory", allow_hyphen_values = true, value_name = "TOKENS", value_parser = tokens)]
    pub ctx: Option<usize>,
    /// What the KV cache holds: q8 halves its bytes, q4 takes a quarter [default: f16; f32 with --dense]
    #[arg(long, global = true, help_heading = "Memory", value_name = "NUMBERS", value_parser = kv())]
    pub kv: Option<KvElement>,
    /// How long to look for the best coding of each weight: fast loads in half the time at up to 9 % more squared error,
    /// best in 2.5 times the time at 1 % less
    #[arg(long, global = true, help_heading = "Plan", value_enum, default_value_t = EffortName::Default)]
    pub effort: EffortName,
    /// Do not look at all weights before planning, with random tokens: sooner, and worse at the same bytes
    #[arg(long, global = true, help_heading = "Plan", conflicts_with = "dense")]
    pub no_survey: bool,
    /// A file that `survey` wrote, instead of looking at all weights now
    #[arg(long, global = true, help_heading = "Plan", value_name = "FILE", conflicts_with_all = ["dense", "no_survey"])]
    pub survey: Option<PathBuf>,
    /// Files that `measure` wrote of all parts, instead of measuring now; the last of all arguments, as what follows is a file
    #[arg(long, global = true, help_heading = "Plan", value_name = "FILE", num_args = 1.., conflicts_with_all = ["dense", "refine"])]
    pub curves: Vec<PathBuf>,
    /// Code weights for text that the model writes itself first, every error making up for those before it: better at the same bytes, once
    /// for several times as long; kept for the next start
    #[arg(long, global = true, help_heading = "Plan", conflicts_with_all = ["dense", "no_survey"])]
    pub refine: bool,
    /// What computes: fused, all of a processor at once, or candle, its plain operations one by one: slow, to compare with, and for other devices
    #[arg(long, global = true, help_heading = "Run", value_enum, default_value_t = BackendName::Fused)]
    pub backend: BackendName,
    /// Threads [default: one per core]
    #[arg(long, global = true, help_heading = "Run", allow_hyphen_values = true, value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Packed weights on disk for the next start [auto: models of 256 MiB or more]
    #[arg(long, global = true, help_heading = "Run", value_enum, default_value_t = Keep::Auto)]
    pub cache: Keep,
    /// No statistics before and after an answer
    #[arg(long, short, global = true, help_heading = "Run")]
    pub quiet: bool,
    /// Settings from this file alone
    #[arg(long, global = true, help_heading = "Settings", value_name = "FILE", conflicts_with = "no_config")]
    pub config_file: Option<PathBuf>,
    /// Settings from no file
    #[arg(long, global = true, help_heading = "Settings")]
    pub no_config: bool,
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
    /// Answer clients of OpenAI's protocol over HTTP
    #[cfg(feature = "server")]
    Serve(ServeArgs),
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
    /// Settings from files and variables, and where each comes from
    Config(ConfigArgs),
    /// Completions for a shell, to stdout
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// The manual page of this program or of one of its commands, to stdout
    Man(ManArgs),
    /// Perplexity and KL divergence at equal bytes: this plan, RAM's method, uniform affine, dense
    Compare(CompareArgs),
    /// Write a plan as another engine's checkpoint: MLX's, or compressed-tensors for vLLM and SGLang
    Export(ExportArgs),
    /// Look at all weights as every plan does, and write down what was seen, for --survey on other machines
    Survey(SurveyArgs),
    /// Measure what every format would do to the weights, of a part of the checkpoint, for `plan --curves`
    Measure(MeasureArgs),
    /// Quantize into the cache for the next start, or a part of the checkpoint into a file, or such files into the cache
    Pack(PackArgs),
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
    /// Keep what was computed of the text in a file, and compute only what another text does not begin with
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
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
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, value_parser = |s: &str| number(s, |temperature| Sampling { temperature, ..Sampling::default() }))]
    pub temp: Option<f32>,
    /// Only the K likeliest tokens; 0 for all [default: the model's own, else 40]
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 0))]
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability [default: the model's own, else 0.95]
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, value_parser = |s: &str| number(s, |top_p| Sampling { top_p, ..Sampling::default() }))]
    pub top_p: Option<f32>,
    /// Only tokens at least this fraction as likely as the likeliest [default: the model's own, else 0.05]
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, value_parser = |s: &str| number(s, |min_p| Sampling { min_p, ..Sampling::default() }))]
    pub min_p: Option<f32>,
    /// Divide the logits of the last 64 tokens by this [default: the model's own, else 1]
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, value_parser = |s: &str| number(s, |repeat_penalty| Sampling { repeat_penalty, ..Sampling::default() }))]
    pub repeat_penalty: Option<f32>,
    /// Seed of the sampler: same seed, same text
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, default_value_t = 0, value_parser = seed)]
    pub seed: u64,
    /// Tokens at most
    #[arg(long, help_heading = "Sampling", allow_hyphen_values = true, default_value_t = 1024, value_parser = |s: &str| whole(s, 1))]
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
    #[arg(long, help_heading = "Windows", value_enum, conflicts_with_all = ["window", "stride"])]
    pub protocol: Option<ProtocolName>,
    /// Tokens per window
    #[arg(long, help_heading = "Windows", value_name = "N", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 2))]
    pub window: Option<usize>,
    /// Tokens from one window's start to the next [default: the window]
    #[arg(long, help_heading = "Windows", value_name = "N", requires = "window", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 1))]
    pub stride: Option<usize>,
    /// Windows at most
    #[arg(long, help_heading = "Windows", value_name = "N", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 1))]
    pub max_windows: Option<usize>,
}

#[derive(Group)]
pub struct BenchArgs {
    /// Prompt lengths to prefill [default: 16,512; none where --generate alone is given]
    #[arg(long, short = 'p', value_delimiter = ',', value_name = "TOKENS", allow_hyphen_values = true, value_parser = tokens)]
    pub prompt: Vec<usize>,
    /// Tokens to decode [default: 128; none where --prompt alone is given]
    #[arg(long, short = 'n', value_delimiter = ',', value_name = "TOKENS", allow_hyphen_values = true, value_parser = tokens)]
    pub generate: Vec<usize>,
    /// Tokens that are in the KV cache before
    #[arg(long, short, value_delimiter = ',', default_value = "0", value_name = "TOKENS", allow_hyphen_values = true, value_parser = depth)]
    pub depth: Vec<usize>,
    /// Sequences that decode at once, in one batch
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N", allow_hyphen_values = true, value_parser = |s: &str| whole(s, 1))]
    pub parallel: Vec<usize>,
    /// Runs of each test, after one to warm up
    #[arg(long, short, default_value_t = 5, allow_hyphen_values = true, value_parser = |s: &str| whole(s, 1))]
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
        #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = size::parse)]
        keep: Option<u64>,
    },
}

#[derive(Group)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Every setting of a command with its origin; of all commands those that are set
    Show {
        /// The command, like `serve` [default: all]
        #[arg(value_name = "COMMAND")]
        of: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Files that are read, the first one first
    Path,
    /// Names that stand for a model with its settings
    Aliases,
}

#[derive(Group)]
pub struct ManArgs {
    /// The command, like `plan` or `cache gc` [default: the program]
    #[arg(value_name = "COMMAND")]
    pub of: Vec<String>,
    /// Write every page as a file into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "of")]
    pub dir: Option<PathBuf>,
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
pub enum BackendName {
    Fused,
    Candle,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum EffortName {
    Fast,
    Default,
    Best,
}

/// Names of what a KV cache may hold.
fn kv() -> impl TypedValueParser<Value = KvElement> {
    let named = |name: String| KvElement::ALL.into_iter().find(|e| e.name() == name).unwrap_or(KvElement::F16);
    PossibleValuesParser::new(KvElement::ALL.map(KvElement::name)).map(named)
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
        let effort = match self.effort {
            EffortName::Fast => Effort::Fast,
            EffortName::Default => Effort::Default,
            EffortName::Best => Effort::Best,
        };
        let backend = match self.backend {
            BackendName::Fused => Backend::Fused,
            BackendName::Candle => Backend::Candle(device().map_err(|e| Error::Failed(format!("--backend candle: {e}")))?),
        };
        Ok(Request {
            limit,
            method,
            pins,
            context: self.ctx,
            sequences: 1,
            kv_tokens: None,
            kv: self.kv,
            effort,
            survey: None,
            backend,
            reserved: 0,
            refine: self.refine,
        })
    }
}

/// What `--backend candle` runs on, by the features that this was built with.
fn device() -> Result<Device, ram_run::candle_core::Error> {
    if cfg!(feature = "cuda") {
        Device::new_cuda(0)
    } else if cfg!(feature = "metal") {
        Device::new_metal(0)
    } else {
        Ok(Device::Cpu)
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

/// Most tokens of anything: beyond it a number is a mistake, and sums of a few fit.
const MOST_TOKENS: usize = 1 << 30;

/// A whole number, checked while it is parsed, so that the flag at fault is named.
fn whole(text: &str, least: usize) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n >= least).ok_or_else(|| format!("write a whole number, {least} or more"))
}

fn tokens(text: &str) -> Result<usize, String> {
    at_most(whole(text, 1)?)
}

fn depth(text: &str) -> Result<usize, String> {
    at_most(whole(text, 0)?)
}

fn at_most(tokens: usize) -> Result<usize, String> {
    if tokens <= MOST_TOKENS { Ok(tokens) } else { Err(format!("write {MOST_TOKENS} tokens or less")) }
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "write a whole number, 1 or more".into())
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write a whole number, 0 or more".into())
}

/// A number that the sampler takes.
fn number(text: &str, how: impl Fn(f32) -> Sampling) -> Result<f32, String> {
    let value = text.parse().map_err(|_| "write a number, like 0.8")?;
    match Sampler::new(how(value)) {
        Ok(_) => Ok(value),
        Err(ram_run::Error::Setting { reason, .. }) => Err(reason),
        Err(e) => Err(e.to_string()),
    }
}

/// `--budget 24 GB` is read by every parser as 24 bytes and a command GB: say what to write instead.
pub fn split_size(words: impl Iterator<Item = String>) -> Option<String> {
    const FLAGS: [&str; 4] = ["--budget", "-b", "--weights", "--keep"];
    let words: Vec<String> = words.collect();
    words.windows(2).enumerate().find_map(|(i, pair)| {
        let (number, unit) = (&pair[0], &pair[1]);
        // The number follows its flag, or hangs on it.
        let hangs = FLAGS.iter().find_map(|flag| Some((*flag, number.strip_prefix(flag)?.trim_start_matches('='))));
        let follows = i.checked_sub(1).and_then(|i| FLAGS.iter().find(|flag| **flag == words[i])).map(|flag| (*flag, number.as_str()));
        let (flag, number) = hangs.filter(|(_, n)| !n.is_empty()).or(follows)?;
        let split = number.parse::<f64>().is_ok() && unit.bytes().all(|b| b.is_ascii_alphabetic()) && size::parse(&format!("{number}{unit}")).is_ok();
        split.then(|| format!("{flag} {number} {unit}: write the size as one word, {flag} {number}{unit}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_two_words_is_explained() {
        let said = |line: &str| split_size(line.split(' ').map(String::from));
        for line in ["--budget 24 GB", "-b 24 g", "plan --weights 1.5 gib", "--budget=24 GB plan", "-b24 GB", "cache gc --keep 2 T"] {
            assert!(said(line).is_some_and(|s| s.contains("as one word")), "{line}");
        }
        for line in
            ["--budget 24GB plan", "--budget GB", "-b 24 chat", "--budget 24 gen", "--ctx 24 GB", "-b 1 GBB", "bench -b 5MB", "GB", "--budget", ""]
        {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
