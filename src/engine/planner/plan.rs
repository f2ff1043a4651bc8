//! A plan: what every tensor gets, before any weight is quantized. Pure: same checkpoint and request, same plan.
use super::{
    allocate::{Choice, allocate},
    budget::{Besides, Limit, Memory},
    items::{Item, items, loss},
    method::Method,
    rd_curve::{self, Point},
    refining, sensitivity,
    shares::Shares,
};
use crate::{
    Error,
    checkpoint::{Checkpoint, buffer_bytes},
    error::Setting,
    survey::Survey,
};
use ram_kernels::{Effort, Format, KvElement, Scheme};
use ram_models::{Backend, Description, Kind, Quantization, TensorSpec};
use regex::Regex;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

/// Tensors fixed to a format: those whose name the pattern matches.
#[derive(Clone, Debug)]
pub struct Pin {
    /// Searched in the tensor's name.
    pub pattern: Regex,
    /// What they get.
    pub format: Format,
}

impl Pin {
    /// One tensor.
    pub fn exact(name: &str, format: Format) -> Pin {
        let pattern = Regex::new(&format!("^{}$", regex::escape(name))).expect("a name without its special characters is a pattern");
        Pin { pattern, format }
    }
}

impl std::str::FromStr for Pin {
    type Err = Error;
    fn from_str(s: &str) -> Result<Pin, Error> {
        let usage = |why: String| Error::setting(Setting::Pin, s, why);
        let (pattern, format) = s.rsplit_once('=').ok_or_else(|| usage("write it as REGEX=FORMAT, for example 'lm_head=t8g64'".into()))?;
        Ok(Pin { pattern: Regex::new(pattern).map_err(|e| usage(e.to_string()))?, format: format.parse().map_err(|e| usage(format!("{e}")))? })
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to keep to.
    pub limit: Limit,
    /// How formats are chosen.
    pub method: Method,
    /// Tensors fixed beforehand.
    pub pins: Vec<Pin>,
    /// Tokens that the KV cache holds; `None` for the model's own maximum, at most 4,096.
    pub context: Option<usize>,
    /// Sequences that have a cache at once, and are computed in one batch.
    pub sequences: usize,
    /// Tokens that all sequences hold together, with beginnings that are kept for later ([`Engine`](crate::Engine)); `None` for as many as all
    /// have room for.
    pub kv_tokens: Option<usize>,
    /// What the KV cache holds; `None` for f16, or f32 where everything is dense.
    pub kv: Option<KvElement>,
    /// How long the encoder searches.
    pub effort: Effort,
    /// What is known of the weights: channels are scaled before they are coded, and [`Method::Kl`] knows what an error costs. For other
    /// methods than that and [`Method::Uniform`] it is not asked.
    pub survey: Option<Arc<Survey>>,
    /// What will compute with the weights.
    pub backend: Backend,
    /// Bytes of a process' limit that the caller keeps for itself: texts, other models.
    pub reserved: u64,
    /// Whether to set aside what coding with error feedback takes, as a survey with text asks for.
    pub refine: bool,
}

impl Default for Request {
    fn default() -> Request {
        let (limit, method, effort, backend) = (Limit::None, Method::Kl, Effort::Default, Backend::Fused);
        let (sequences, kv_tokens) = (1, None);
        Request {
            limit,
            method,
            pins: Vec::new(),
            context: None,
            sequences,
            kv_tokens,
            kv: None,
            effort,
            survey: None,
            backend,
            reserved: 0,
            refine: false,
        }
    }
}

impl Request {
    /// Tokens that the KV cache of a model holds.
    pub fn context_for(&self, description: &Description) -> usize {
        self.context.unwrap_or(description.max_position_embeddings.min(4096))
    }
}

/// One tensor of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Which tensor.
    #[serde(flatten, serialize_with = "spec")]
    pub spec: TensorSpec,
    /// What it gets.
    #[serde(serialize_with = "text")]
    pub format: Format,
    /// Exactly what it takes in memory.
    pub bytes: u64,
    /// Expected ||W - Q(W)||^2 / ||W||^2; with error feedback, of errors without that cost as much.
    pub error: f64,
    /// Nats of KL divergence per unit of squared relative error.
    pub u: f64,
}

impl Entry {
    /// Nats of KL divergence that this tensor is expected to add.
    pub fn loss(&self) -> f64 {
        loss(&self.spec, self.u, self.format, self.error)
    }
}

/// What every tensor gets, and what that comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// sha256 over the checkpoint's fingerprint, the encoder's effort, whether there was a survey, text that it has, and every tensor's format, first 16 digits.
    pub fingerprint: String,
    /// The checkpoint's own fingerprint.
    pub checkpoint: String,
    /// How formats were chosen.
    #[serde(serialize_with = "text")]
    pub method: Method,
    /// How long the encoder searches.
    #[serde(serialize_with = "text")]
    pub effort: Effort,
    /// Whether a survey of the weights says how channels are scaled and what errors cost.
    pub surveyed: bool,
    /// How channels are scaled: not at all where nothing was surveyed.
    #[serde(skip)]
    pub survey: Survey,
    /// Numbers in the checkpoint.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// 8 * weight_bytes / parameters.
    pub bits_per_weight: f64,
    /// Sum of all tensors' [`Entry::loss`] in nats per token.
    pub expected_kl: f64,
    /// Tokens that a sequence has at the most.
    pub context: usize,
    /// Sequences that are computed at once at the most.
    pub sequences: usize,
    /// Tokens whose keys and values there is memory for.
    pub kv_tokens: usize,
    /// Tokens per forward pass of a prompt.
    pub chunk: usize,
    /// What the KV cache holds.
    #[serde(serialize_with = "kv")]
    pub kv: KvElement,
    /// What computes with the weights.
    #[serde(skip)]
    pub backend: Backend,
    /// Where the process' memory goes.
    pub memory: Memory,
    /// Every tensor, in the model's order.
    pub entries: Vec<Entry>,
}

fn spec<S: Serializer>(spec: &TensorSpec, s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields<'a> {
        name: &'a str,
        shape: &'a [usize],
        kind: String,
        layer: Option<usize>,
        expert: Option<usize>,
    }
    Fields { name: &spec.name, shape: &spec.shape, kind: spec.kind.to_string(), layer: spec.layer, expert: spec.expert }.serialize(s)
}

fn text<T: fmt::Display, S: Serializer>(v: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(v)
}

fn kv<S: Serializer>(v: &KvElement, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(v.name())
}

/// Makes the plan; `done` is told the number of weights of each matrix whose curve is known.
///
/// # Errors
/// [`Error::Budget`] with the smallest limit that works; [`Error::Setting`] for a pin that matches nothing; the
/// checkpoint's own errors.
pub fn plan(checkpoint: &Checkpoint, request: &Request, done: &(dyn Fn(usize) + Sync)) -> Result<Plan, Error> {
    choose(checkpoint, &measure(checkpoint, request, done)?, request.limit)
}

/// All that is known before bytes are divided: what every choice takes and costs. Plans of one request at several limits
/// need it once.
pub struct Measured {
    method: Method,
    effort: Effort,
    survey: Option<Arc<Survey>>,
    besides: Besides,
    /// Bytes of norms and biases.
    vectors: u64,
    /// Per matrix, each format of its menu.
    curves: Vec<Vec<Point>>,
    items: Vec<Item>,
    choices: Vec<Vec<Choice>>,
    /// Per tensor.
    u: Vec<f64>,
}

impl Measured {
    /// Weight bytes of the smallest plan and of the largest.
    pub fn range(&self) -> (u64, u64) {
        let sum = |pick: fn(u64, u64) -> u64| self.choices.iter().filter_map(|c| c.iter().map(|c| c.bytes).reduce(pick)).sum::<u64>();
        (self.vectors + sum(u64::min), self.vectors + sum(u64::max))
    }

    /// The choices without dense matrices, but for routers: while some matrix is coded in fewer than 8 bits, none takes 16.
    /// That would gain next to nothing (the rounding of its inputs) and cost decoding time: a head of 150,000 rows in bf16
    /// is a quarter of what a token of Qwen3-30B-A3B reads at 4 bits.
    fn packed(&self) -> Option<Vec<Vec<Choice>>> {
        let each = self.items.iter().zip(&self.choices).map(|(item, choices)| {
            let formats = item.formats(self.method, &self.curves);
            let dense = |f: Format| f.is_dense() && !item.router && formats.len() > 1;
            let keep = |(c, f): (&Choice, &Format)| if dense(*f) { Choice { loss: f64::INFINITY, ..*c } } else { *c };
            choices.iter().zip(&formats).map(keep).collect()
        });
        matches!(self.method, Method::Kl | Method::For(_)).then(|| each.collect())
    }

    /// Puts other sensitivities in the place of those from the weights, in nats per unit of squared relative error; `specs`
    /// are the checkpoint's. To compare the planner's with measured ones.
    pub fn price(&mut self, specs: &[TensorSpec], u: &dyn Fn(&TensorSpec) -> f64) {
        let matrices: Vec<&TensorSpec> = specs.iter().filter(|s| s.kind.is_matrix()).collect();
        self.choices = self.items.iter().map(|item| item.choices(self.method, &matrices, &self.curves, u)).collect();
        self.u = specs.iter().map(u).collect();
    }

    /// Where the process' memory goes besides the weights, tokens per forward pass, and bytes for weights, of which `least` are needed.
    ///
    /// # Errors
    /// [`Error::Budget`] with the smallest limit that works.
    fn within(&self, limit: Limit, least: u64) -> Result<(Memory, usize, u64), Error> {
        let (memory, chunk) = self.besides.within(limit, least);
        let available = match limit {
            Limit::Process(b) => b.saturating_sub(memory.total),
            Limit::Weights(b) => b,
            Limit::None => u64::MAX,
        };
        match limit {
            Limit::Process(have) if available < least => Err(Error::Budget { need: self.besides.least_budget(least), have, weights_only: false }),
            Limit::Weights(have) if available < least => Err(Error::Budget { need: least, have, weights_only: true }),
            _ => Ok((memory, chunk, available)),
        }
    }
}

/// Whether a request can be met at all, as far as that can be told without looking at weights.
///
/// # Errors
/// As for [`plan`].
pub fn check(checkpoint: &Checkpoint, request: &Request) -> Result<(), Error> {
    prepared(checkpoint, request).map(|_| ())
}

fn prepared(checkpoint: &Checkpoint, request: &Request) -> Result<(Measured, Vec<Vec<Format>>), Error> {
    let tokenizer = std::fs::metadata(checkpoint.folder().join("tokenizer.json")).map_or(0, |m| m.len());
    let published = Published {
        own: &|spec| checkpoint.own_format(&spec.name),
        coded: &|spec| checkpoint.published(&spec.name),
        by_columns: &|spec| checkpoint.by_columns(&spec.name),
    };
    prepare(checkpoint.description(), checkpoint.specs(), &published, tokenizer, request)
}

/// The curves of a request; `done` as for [`plan`].
///
/// # Errors
/// As for [`plan`].
pub fn measure(checkpoint: &Checkpoint, request: &Request, done: &(dyn Fn(usize) + Sync)) -> Result<Measured, Error> {
    let (description, specs) = (checkpoint.description(), checkpoint.specs());
    let (mut measured, menu) = prepared(checkpoint, request)?;
    let head = sensitivity::head(checkpoint)?;
    let matrices: Vec<&TensorSpec> = specs.iter().filter(|s| s.kind.is_matrix()).collect();
    let survey = measured.survey.clone();
    if survey.as_ref().is_some_and(|survey| !survey.belongs_to(checkpoint)) {
        return Err(Error::Mismatch(format!("the survey was not made of {}: make another", checkpoint.folder().display())));
    }
    let curves = rd_curve::curves(checkpoint, &matrices, &menu, measured.effort, survey.as_deref(), done)?;
    let shares = Shares::measure(checkpoint, &matrices, &curves)?;
    let left = |spec: &TensorSpec| survey.as_ref().map_or(1.0, |survey| survey.left(&spec.name));
    let weighed = |(mut c, spec): (rd_curve::Curve, &&TensorSpec)| {
        c.points.iter_mut().filter(|p| p.format.takes_feedback()).for_each(|p| p.error *= left(spec));
        c.points
    };
    measured.curves = curves.into_iter().zip(&matrices).map(weighed).collect();
    measured.price(specs, &|s| sensitivity::of(s, head, &shares, description, survey.as_deref()));
    Ok(measured)
}

/// What the plan of a checkpoint would be of which only config.json is known: errors are those of Gaussian weights, which
/// rotated ones are like, dense tensors are bf16, losses are fractions of what the head's unit would cost.
///
/// # Errors
/// As for [`plan`].
pub fn outline(description: &Description, request: &Request) -> Result<Plan, Error> {
    /// Bytes of the tokenizer.json of a vocabulary of 150,000.
    const TOKENIZER: u64 = 8 << 20;
    let specs = description.tensors();
    let experts = |spec: &TensorSpec| (spec.expert.is_some() && description.quantization == Some(Quantization::Mxfp4)).then_some(Format::MXFP4);
    let published = Published { own: &|_| Format::BF16, coded: &experts, by_columns: &|_| false };
    let (mut measured, menu) = prepare(description, &specs, &published, TOKENIZER, request)?;
    let matrices: Vec<&TensorSpec> = specs.iter().filter(|s| s.kind.is_matrix()).collect();
    measured.curves = rd_curve::gaussian(&matrices, &menu, measured.effort);
    for (curve, spec) in measured.curves.iter_mut().zip(&matrices) {
        curve.iter_mut().filter(|point| experts(spec) == Some(point.format)).for_each(|point| point.error = 0.0);
    }
    measured.price(&specs, &|s| sensitivity::of(s, 1.0, &Shares::default(), description, None));
    select("unseen".into(), &specs, &measured, request.limit)
}

/// What matrices are published in.
struct Published<'a> {
    /// The format that keeps one as it is, or its numbers dense.
    own: &'a dyn Fn(&TensorSpec) -> Format,
    /// Codes that may be kept or coded again.
    coded: &'a dyn Fn(&TensorSpec) -> Option<Format>,
    /// Whether rows are columns of what is stored.
    by_columns: &'a dyn Fn(&TensorSpec) -> bool,
}

/// What does not depend on the weights: memory, items, and every matrix' menu.
fn prepare(
    description: &Description,
    specs: &[TensorSpec],
    published: &Published,
    tokenizer: u64,
    request: &Request,
) -> Result<(Measured, Vec<Vec<Format>>), Error> {
    let own = published.own;
    let context = request.context_for(description);
    if context == 0 || context > description.max_position_embeddings {
        return Err(Error::setting(Setting::Context, context, format!("the model was made for 1 to {} tokens", description.max_position_embeddings)));
    }
    if let Some(tokens) = request.kv_tokens.filter(|tokens| *tokens < context) {
        return Err(Error::setting(Setting::KvTokens, tokens, format!("a sequence of the whole context has {context}: it takes as many or more")));
    }
    let kv = request.kv.unwrap_or(if request.method == Method::Dense { KvElement::F32 } else { KvElement::F16 });
    let mut besides = Besides {
        description: description.clone(),
        backend: request.backend.clone(),
        ordered: specs.iter().any(|s| s.kind.is_matrix() && own(s).scheme() == Scheme::GptqOrdered),
        tensors: specs.len(),
        tokenizer,
        buffers: buffer_bytes(specs, own, published.by_columns),
        context,
        sequences: request.sequences.max(1),
        kv_tokens: request.kv_tokens,
        kv,
        reserved: request.reserved,
        threads: rayon::current_num_threads(),
        refining: 0,
    };
    let matrices: Vec<&TensorSpec> = specs.iter().filter(|s| s.kind.is_matrix()).collect();
    let pins = pinned(&matrices, &request.pins)?;
    refuse_again(own, request.method, &matrices, &pins)?;
    let vectors: u64 = specs.iter().filter(|s| !s.kind.is_matrix()).map(|s| 4 * s.shape.iter().product::<usize>() as u64).sum();
    let menu = menu(request, published, &matrices, &pins);
    if request.refine || request.survey.as_ref().is_some_and(|survey| survey.text().is_some()) {
        besides.refining = refining::bytes(description, &matrices, &menu, besides.threads);
    }
    let items = items(request.method, &matrices, description.layers.len());
    if let Some(item) = items.iter().find(|item| !menu[item.matrices[0]].iter().any(|f| item.matrices.iter().all(|&m| menu[m].contains(f)))) {
        let name = &matrices[item.matrices[0]].name;
        if request.pins.is_empty() {
            let reason = format!("and others that are one with it for {} are coded in other formats: give the dense checkpoint", request.method);
            return Err(Error::Tensor { name: name.clone(), reason });
        }
        let pins = request.pins.iter().map(|pin| format!("{}={}", pin.pattern, pin.format)).collect::<Vec<_>>().join(" ");
        return Err(Error::setting(
            Setting::Pin,
            pins,
            format!("{name} and others that share its format would have none in common: pin all of them"),
        ));
    }
    // As it was published: affine formats by their rule.
    let ram = matches!(request.method, Method::Ram | Method::RamExperts);
    let (method, effort) = (request.method, if ram { Effort::Fast } else { request.effort });
    let survey = request.survey.clone().filter(|_| method.asks_survey());
    let measured = Measured { method, effort, survey, besides, vectors, curves: Vec::new(), items, choices: Vec::new(), u: Vec::new() };
    // Before a weight is read: exact bytes of the cheapest formats do not depend on the weights, but where RAM's veto does.
    let least =
        vectors + matrices.iter().zip(&menu).map(|(s, m)| m.iter().map(|f| f.bytes(s.shape[0], s.shape[1]) as u64).min().unwrap_or(0)).sum::<u64>();
    if !ram {
        measured.within(request.limit, least)?;
    }
    Ok((measured, menu))
}

/// The best plan within `limit`.
///
/// # Errors
/// [`Error::Budget`] with the smallest limit that works.
pub fn choose(checkpoint: &Checkpoint, measured: &Measured, limit: Limit) -> Result<Plan, Error> {
    select(checkpoint.fingerprint(), checkpoint.specs(), measured, limit)
}

fn select(checkpoint: String, specs: &[TensorSpec], m: &Measured, limit: Limit) -> Result<Plan, Error> {
    let (memory, chunk, available) = m.within(limit, m.range().0)?;
    let available = available - m.vectors;
    let at = match m.packed() {
        Some(packed) if most(&packed) > available => allocate(&packed, available),
        _ => allocate(&m.choices, available),
    };
    let at = at.map_err(|need| Error::Budget { need, have: available, weights_only: true })?;
    let mut chosen: BTreeMap<usize, Point> = BTreeMap::new();
    for (item, &at) in m.items.iter().zip(&at) {
        let format = item.formats(m.method, &m.curves)[at];
        for &i in &item.matrices {
            chosen.extend(m.curves[i].iter().find(|p| p.format == format).map(|&p| (i, p)));
        }
    }
    let mut matrix = 0;
    let entries: Vec<Entry> = specs.iter().zip(&m.u).map(|(spec, &u)| entry(spec, &chosen, &mut matrix, u)).collect();
    Ok(finish(checkpoint, m, memory, chunk, entries))
}

/// Bytes of all items at their least loss.
fn most(items: &[Vec<Choice>]) -> u64 {
    items.iter().filter_map(|c| c.iter().min_by(|a, b| a.loss.total_cmp(&b.loss))).map(|c| c.bytes).sum()
}

fn entry(spec: &TensorSpec, chosen: &BTreeMap<usize, Point>, matrix: &mut usize, u: f64) -> Entry {
    let numbers = spec.shape.iter().product::<usize>() as u64;
    if !spec.kind.is_matrix() {
        return Entry { spec: spec.clone(), format: Format::F32, bytes: 4 * numbers, error: 0.0, u };
    }
    let p = chosen[matrix];
    *matrix += 1;
    Entry { spec: spec.clone(), format: p.format, bytes: p.bytes, error: p.error, u }
}

fn fingerprint(checkpoint: &str, effort: Effort, surveyed: bool, survey: &Survey, entries: &[Entry]) -> String {
    let mut hash = Sha256::new();
    hash.update(checkpoint);
    hash.update(format!("effort={effort}\n"));
    if surveyed {
        hash.update("surveyed\n");
    }
    for token in survey.text().into_iter().flatten().flatten() {
        hash.update(token.to_le_bytes());
    }
    for e in entries {
        hash.update(format!("{}={}\n", e.spec.name, e.format));
    }
    hex::encode(&hash.finalize()[..8])
}

impl Plan {
    /// Whether it was made for a checkpoint and says what it said then.
    pub(crate) fn belongs_to(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::Mismatch(format!("the plan {} {why} {}: make another", self.fingerprint, checkpoint.folder().display())));
        if self.checkpoint != checkpoint.fingerprint() {
            return wrong("was not made for");
        }
        let told = |e: &Entry| {
            let numbers = e.spec.shape.iter().product::<usize>();
            e.bytes as usize == if e.spec.kind.is_matrix() { e.format.bytes(e.spec.shape[0], e.spec.shape[1]) } else { 4 * numbers }
        };
        if self.fingerprint != fingerprint(&self.checkpoint, self.effort, self.surveyed, &self.survey, &self.entries)
            || !self.entries.iter().map(|e| &e.spec).eq(checkpoint.specs())
            || !self.entries.iter().all(told)
        {
            return wrong("was changed since it was made for");
        }
        Ok(())
    }
}

fn finish(checkpoint: String, m: &Measured, memory: Memory, chunk: usize, entries: Vec<Entry>) -> Plan {
    let weight_bytes = entries.iter().map(|e| e.bytes).sum::<u64>();
    let parameters = entries.iter().map(|e| e.spec.shape.iter().product::<usize>() as u64).sum::<u64>();
    let coded: HashSet<&str> = entries.iter().filter(|e| !e.format.is_dense()).map(|e| e.spec.name.as_str()).collect();
    let survey = m.survey.as_ref().map_or_else(Survey::default, |survey| survey.only(&|name| coded.contains(name)));
    Plan {
        fingerprint: fingerprint(&checkpoint, m.effort, m.survey.is_some(), &survey, &entries),
        checkpoint,
        method: m.method,
        effort: m.effort,
        surveyed: m.survey.is_some(),
        survey,
        parameters,
        weight_bytes,
        bits_per_weight: 8.0 * weight_bytes as f64 / parameters as f64,
        expected_kl: entries.iter().map(Entry::loss).sum(),
        context: m.besides.context,
        sequences: m.besides.sequences,
        kv_tokens: m.besides.kv_tokens.unwrap_or(m.besides.context.saturating_mul(m.besides.sequences)),
        chunk,
        kv: m.besides.kv,
        backend: m.besides.backend.clone(),
        memory: memory.with_weights(weight_bytes),
        entries,
    }
}

/// The pinned format of every matrix that has one; later pins win.
fn pinned(matrices: &[&TensorSpec], pins: &[Pin]) -> Result<BTreeMap<usize, Format>, Error> {
    let mut fixed = BTreeMap::new();
    for pin in pins {
        let matched: Vec<usize> = (0..matrices.len()).filter(|&m| pin.pattern.is_match(&matrices[m].name)).collect();
        if matched.is_empty() {
            let example = matrices.first().map_or("", |s| &s.name);
            let value = format!("{}={}", pin.pattern, pin.format);
            return Err(Error::setting(Setting::Pin, value, format!("no matrix has such a name (they look like {example})")));
        }
        fixed.extend(matched.into_iter().map(|m| (m, pin.format)));
    }
    Ok(fixed)
}

const ORDERED: &str = "formats with an order of inputs are only read from GPTQ checkpoints";

/// What is quantized already keeps its codes: quantizing it again would add an error that nothing here counts.
fn refuse_again(own: &dyn Fn(&TensorSpec) -> Format, method: Method, matrices: &[&TensorSpec], pins: &BTreeMap<usize, Format>) -> Result<(), Error> {
    let quantized = |m: &&TensorSpec| !own(m).is_dense();
    if let Some(m) = matrices.iter().find(|m| quantized(m) && !matches!(method, Method::Kl | Method::For(_) | Method::Dense)) {
        let reason = format!("{} is quantized already, as {}", m.name, own(m));
        return Err(Error::setting(Setting::Method, method, format!("quantizes dense checkpoints, and {reason}: leave it out")));
    }
    for (&m, &format) in pins {
        let (name, own) = (&matrices[m].name, own(matrices[m]));
        if !own.is_dense() && format != own {
            return Err(Error::setting(Setting::Pin, format!("{name}={format}"), format!("it is quantized already, as {own}")));
        }
        if own.is_dense() && format.order_bytes(1) > 0 {
            return Err(Error::setting(Setting::Pin, format!("{name}={format}"), ORDERED));
        }
    }
    match method {
        Method::Uniform(f) if f.order_bytes(1) > 0 => Err(Error::setting(Setting::Method, method, ORDERED)),
        _ => Ok(()),
    }
}

/// The formats that each matrix may get.
fn menu(request: &Request, published: &Published, matrices: &[&TensorSpec], pins: &BTreeMap<usize, Format>) -> Vec<Vec<Format>> {
    let each = matrices.iter().enumerate().map(|(m, spec)| {
        if let Some(&format) = pins.get(&m) {
            return vec![format];
        }
        let own = (published.own)(spec);
        // Rates are a thousandth of a model, and what is wrong in them is wrong in everything that is remembered.
        if !own.is_dense() || spec.kind == Kind::DeltaRates {
            return vec![own];
        }
        let mut menu = match request.method {
            Method::Kl => rd_curve::trellis_menu(),
            Method::Ram | Method::RamExperts => rd_curve::affine_menu(),
            Method::Uniform(format) if !spec.kind.steers() => return vec![format],
            Method::Uniform(_) | Method::Dense => Vec::new(),
            Method::For(target) => return target.menu(spec, own),
        };
        // Dense means exactly computed. Else what is published in codes has no dense form in its menu: that is four times as long, and rounds
        // inputs less, not weights.
        menu.push((published.coded)(spec).filter(|_| request.method == Method::Kl).unwrap_or(own));
        menu
    });
    each.collect()
}
