//! `ram-run eval-ppl`: the perplexity of a text, with its protocol and its error.
use super::{
    args::{Args, EvalArgs, ProtocolName, WindowArgs},
    open, print,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{Checkpoint, Limit, Method, Model, Protocol, Report, Request, Tokenizer, files, hub::Hub, peak_rss, size, wikitext};
use sha2::{Digest, Sha256};
use std::{fmt, path::Path, time::Instant};

/// Evaluates and prints the report.
pub fn run(args: &Args, a: &EvalArgs) -> Result<(), Error> {
    let text = Text::find(args, a.text.as_deref())?;
    let checkpoint = open::checkpoint(args)?;
    let protocol = protocol(&a.windows, &open::tokenizer(&checkpoint)?);
    let mut request = open::request(args)?;
    request.context = Some(args.ctx.unwrap_or(protocol.window).max(protocol.window));
    request.reserved = text.reserved();
    // The dense model is there beside this one; where it is another's, its own plan says what it takes. Nothing of it is as this one's
    // tensors or cache were asked for.
    let dense = Request { method: Method::Dense, limit: Limit::None, pins: Vec::new(), kv: None, reserved: 0, refine: false, ..request.clone() };
    let other = a.kl_against.as_ref().map(|folder| Checkpoint::open(folder)).transpose()?;
    let dense = match (&other, a.kl) {
        (Some(other), _) => Some(open::plan(other, &dense)?),
        (None, true) if checkpoint.is_quantized() => {
            let folder = checkpoint.folder().display();
            return Err(Error::Usage(format!(
                "--kl: {folder} is quantized itself; --kl-against FOLDER names the dense checkpoint that it was made from"
            )));
        }
        (None, true) => Some(open::plan(&checkpoint, &dense)?),
        _ => None,
    };
    request.reserved += dense.as_ref().map_or(0, |d| d.memory.total - d.memory.other);
    let plan = open::planned(args, &checkpoint, request)?;
    let (text, source) = text.read()?;
    if let Some(other) = &other {
        same_tokens(&checkpoint, other, &text)?;
    }
    let reference = dense.map(|dense| open::model(args, other.as_ref().unwrap_or(&checkpoint), &dense)).transpose()?;
    let model = open::model(args, &checkpoint, &plan)?;
    let start = Instant::now();
    let report = score(&model, reference.as_ref(), &text, &protocol, a.windows.max_windows)?;
    let seconds = start.elapsed().as_secs_f64();
    if a.json {
        let mut json = serde_json::to_value(&report).map_err(|e| Error::Failed(e.to_string()))?;
        let more = serde_json::json!({
            "dataset": a.dataset, "text_sha256": source.hash, "text_is": source.is, "bits_per_weight": plan.bits_per_weight, "weight_bytes": plan.weight_bytes,
            "seconds": seconds, "peak_rss": peak_rss(), "budget": plan.memory.budget, "plan": plan.fingerprint, "method": plan.method.to_string(),
            "expected_kl": plan.expected_kl,
        });
        if let (Some(json), serde_json::Value::Object(more)) = (json.as_object_mut(), more) {
            json.extend(more);
        }
        return print(&format!("{json:#}\n"));
    }
    print(&sentence(&report, &source))?;
    let budget = plan.memory.budget.map_or(String::new(), |b| format!(" of {}", size::show(b)));
    let peak = peak_rss().map_or("unknown".into(), size::show);
    print(&format!(
        "{:.3} bits per weight, {} weight bytes, plan {}; peak memory {peak}{budget}; {seconds:.1} s, {:.0} tokens/s\n",
        plan.bits_per_weight,
        plan.weight_bytes,
        plan.fingerprint,
        (report.windows * protocol.window) as f64 / seconds
    ))
}

/// Distributions can be compared only where a text is the same tokens to both.
pub fn same_tokens(a: &Checkpoint, b: &Checkpoint, text: &str) -> Result<(), Error> {
    let same = a.description().vocab_size == b.description().vocab_size
        && open::tokenizer(a)?.encode(text, false)? == open::tokenizer(b)?.encode(text, false)?;
    let [a, b] = [a, b].map(|c| c.folder().display());
    if same { Ok(()) } else { Err(Error::Usage(format!("{a} and {b} have different tokenizers, so that their distributions cannot be compared"))) }
}

/// Runs the protocol with progress on stderr.
pub fn score(
    model: &Model,
    reference: Option<&Model>,
    text: &str,
    protocol: &Protocol,
    max_windows: Option<usize>,
) -> Result<Report, ram_run::Error> {
    let mut progress: Option<Progress> = None;
    model.perplexity(text, protocol, max_windows, reference, &mut |r| {
        let p = progress.get_or_insert_with(|| Progress::new("scoring", r.windows as u64));
        p.show(1, &format!("window {} of {}, perplexity {:.3}", r.window, r.windows, r.perplexity));
    })
}

/// What a text is.
pub struct Source {
    is: String,
    hash: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "text {}, sha256 {}", self.is, self.hash)
    }
}

/// A text that is there, but not yet in memory where it is a file: it may be larger than the budget.
pub enum Text<'a> {
    /// A file, and its bytes.
    File(&'a Path, u64),
    /// WikiText-2's from the hub, and what it is.
    Hub(String, String),
}

impl Text<'_> {
    /// The file asked for, or WikiText-2's test split.
    pub fn find<'a>(args: &Args, path: Option<&'a Path>) -> Result<Text<'a>, Error> {
        let Some(path) = path else {
            let hub = Hub::from_env(args.offline)?;
            let (text, joined) = open::fetching(|progress| wikitext::test_split(&hub, progress))?;
            return Ok(Text::Hub(text, format!("Salesforce/wikitext test: {}", joined.name())));
        };
        let about = files::open(path)?.metadata().map_err(Error::io(path))?;
        Ok(Text::File(path, about.len()))
    }

    /// Bytes that it takes while it is scored: its own, and its tokens' four, of which there are not more than bytes.
    pub fn reserved(&self) -> u64 {
        5 * match self {
            Text::File(_, bytes) => *bytes,
            Text::Hub(text, _) => text.len() as u64,
        }
    }

    /// The text, and what it is.
    pub fn read(self) -> Result<(String, Source), Error> {
        let (text, is) = match self {
            Text::File(path, bytes) => (read(path, bytes)?, path.display().to_string()),
            Text::Hub(text, is) => (text, is),
        };
        let hash = hex::encode(Sha256::digest(&text));
        Ok((text, Source { is, hash }))
    }
}

fn read(path: &Path, bytes: u64) -> Result<String, Error> {
    let text = files::text(path, bytes)?;
    if text.trim().is_empty() { Err(Error::file(path, "is empty: there is nothing to score")) } else { Ok(text) }
}

/// The protocol asked for; hf-2048 where none is.
pub fn protocol(a: &WindowArgs, tokenizer: &Tokenizer) -> Protocol {
    match (a.protocol, a.window) {
        (Some(ProtocolName::Llamacpp512), _) => Protocol::llamacpp_512(tokenizer.bos),
        (_, Some(window)) => Protocol::windows(window, a.stride.unwrap_or(window)),
        _ => Protocol::hf_2048(),
    }
}

fn sentence(r: &Report, source: &Source) -> String {
    let p = &r.protocol;
    let name = p.name.map_or(String::new(), |n| format!("{n}: "));
    let bos = p.bos.map_or("no BOS".into(), |b| format!("BOS {b}"));
    let mut out = format!("perplexity {:.4} +/- {:.4} (mean NLL {:.5} +/- {:.5})\n", r.perplexity, r.perplexity_error, r.mean_nll, r.standard_error);
    out += &format!("windows: mean {:.4}, median {:.4}\n", r.mean_window, r.median_window);
    if let (Some(kl), Some(error), Some(top1)) = (r.kl, r.kl_standard_error, r.top1_agreement) {
        out += &format!("KL divergence from the dense run {kl:.6} +/- {error:.6} nats per token, same likeliest token {:.2} %\n", 100.0 * top1);
    }
    out + &format!("{name}window {}, stride {}, {bos}, {} windows, {} tokens scored, {source}\n", p.window, p.stride, r.windows, r.tokens_scored)
}
