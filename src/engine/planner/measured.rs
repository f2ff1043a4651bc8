//! What plans are chosen from: what every format of every matrix takes and costs, under a request.
use super::{
    allocate::Choice,
    budget::{Besides, Limit, Memory},
    items::{Item, items},
    method::Method,
    rd_curve::{self, Point},
    refining,
    request::{Pin, Request},
    seen::{Seen, look},
    sensitivity,
    shares::Shares,
};
use crate::{
    Error,
    checkpoint::{Checkpoint, buffer_bytes},
    error::Setting,
    survey::Survey,
};
use ram_kernels::{Effort, Format, KvElement, Scheme};
use ram_models::{Description, Kind, Quantization, TensorSpec};
use std::{collections::BTreeMap, sync::Arc};

/// All that is known before bytes are divided: what every choice takes and costs. Plans of one request at several limits
/// need it once.
pub struct Measured {
    /// The checkpoint's fingerprint, and its tensors in order.
    pub(super) checkpoint: String,
    pub(super) specs: Vec<TensorSpec>,
    pub(super) method: Method,
    pub(super) effort: Effort,
    pub(super) survey: Option<Arc<Survey>>,
    pub(super) besides: Besides,
    /// Bytes of norms and biases.
    pub(super) vectors: u64,
    /// Per matrix, each format of its menu.
    pub(super) curves: Vec<Vec<Point>>,
    pub(super) items: Vec<Item>,
    pub(super) choices: Vec<Vec<Choice>>,
    /// Per tensor.
    pub(super) u: Vec<f64>,
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
    pub(super) fn packed(&self) -> Option<Vec<Vec<Choice>>> {
        let each = self.items.iter().zip(&self.choices).map(|(item, choices)| {
            let formats = item.formats(self.method, &self.curves);
            let dense = |f: Format| f.is_dense() && !item.router && formats.len() > 1;
            let keep = |(c, f): (&Choice, &Format)| if dense(*f) { Choice { loss: f64::INFINITY, ..*c } } else { *c };
            choices.iter().zip(&formats).map(keep).collect()
        });
        matches!(self.method, Method::Kl | Method::For(_)).then(|| each.collect())
    }

    /// Puts other sensitivities in the place of those from the weights, in nats per unit of squared relative error. To compare the planner's
    /// with measured ones.
    pub fn price(&mut self, u: &dyn Fn(&TensorSpec) -> f64) {
        let matrices: Vec<&TensorSpec> = self.specs.iter().filter(|s| s.kind.is_matrix()).collect();
        self.choices = self.items.iter().map(|item| item.choices(self.method, &matrices, &self.curves, u)).collect();
        self.u = self.specs.iter().map(u).collect();
    }

    /// With what was looked at.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where a format of a menu was not.
    fn with(mut self, menus: &[Vec<Format>], known: &Known, seen: &Seen) -> Result<Measured, Error> {
        let survey = self.survey.clone();
        let left = |spec: &TensorSpec| survey.as_ref().map_or(1.0, |survey| survey.left(&spec.name));
        let matrices: Vec<&TensorSpec> = known.specs.iter().filter(|s| s.kind.is_matrix()).collect();
        let curves = matrices.iter().zip(menus).map(|(spec, menu)| seen.curve(spec, menu, (known.published.own)(spec)));
        let mut curves = curves.collect::<Result<Vec<_>, _>>()?;
        let shares = Shares::of_norms(known.description, &matrices, &curves, &seen.routers);
        for (curve, spec) in curves.iter_mut().zip(&matrices) {
            curve.points.iter_mut().filter(|p| p.format.takes_feedback()).for_each(|p| p.error *= left(spec));
        }
        self.curves = curves.into_iter().map(|curve| curve.points).collect();
        let head = seen.head.ok_or_else(|| Error::MissingTensor("lm_head.weight".into()))?;
        self.price(&|s| sensitivity::of(s, head, &shares, known.description, survey.as_deref()));
        Ok(self)
    }

    /// Where the process' memory goes besides the weights, tokens per forward pass, and bytes for weights, of which `least` are needed.
    ///
    /// # Errors
    /// [`Error::Budget`] with the smallest limit that works.
    pub(super) fn within(&self, limit: Limit, least: u64) -> Result<(Memory, usize, u64), Error> {
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
/// As for [`plan`](super::plan()).
pub fn check(checkpoint: &Checkpoint, request: &Request) -> Result<(), Error> {
    prepared(checkpoint, request).map(|_| ())
}

/// What does not depend on weights, and every matrix' menu.
///
/// # Errors
/// As for [`check`].
pub fn prepared(checkpoint: &Checkpoint, request: &Request) -> Result<(Measured, Vec<Vec<Format>>), Error> {
    known(checkpoint, |known| prepare(known, request))
}

/// What is known of an opened checkpoint.
fn known<T>(checkpoint: &Checkpoint, run: impl FnOnce(&Known) -> T) -> T {
    let published = Published {
        own: &|spec| checkpoint.own_format(&spec.name),
        coded: &|spec| checkpoint.published(&spec.name),
        by_columns: &|spec| checkpoint.by_columns(&spec.name),
    };
    run(&Known {
        fingerprint: &checkpoint.fingerprint(),
        description: checkpoint.description(),
        specs: checkpoint.specs(),
        published,
        tokenizer: tokenizer_bytes(checkpoint),
    })
}

/// Bytes of a checkpoint's tokenizer.json.
pub fn tokenizer_bytes(checkpoint: &Checkpoint) -> u64 {
    std::fs::metadata(checkpoint.folder().join("tokenizer.json")).map_or(0, |m| m.len())
}

/// The curves of a request; `done` is told the number of weights of each matrix whose curve is known.
///
/// # Errors
/// As for [`plan`](super::plan()).
pub fn measure(checkpoint: &Checkpoint, request: &Request, done: &(dyn Fn(usize) + Sync)) -> Result<Measured, Error> {
    let (measured, menus) = prepared(checkpoint, request)?;
    let seen = look(checkpoint, &menus, measured.effort, measured.survey.as_deref(), &|_| true, done)?;
    known(checkpoint, |known| measured.with(&menus, known, &seen))
}

/// The same of what was looked at elsewhere, with what the caller knows of the checkpoint.
///
/// # Errors
/// As for [`measure`], and where a format of a menu was not looked at.
pub fn measured_of(known: &Known, seen: &Seen, request: &Request) -> Result<Measured, Error> {
    let (measured, menus) = prepare(known, request)?;
    measured.with(&menus, known, seen)
}

/// What is guessed of a checkpoint of which only config.json is known.
///
/// # Errors
/// As for [`check`].
pub fn outlined(description: &Description, request: &Request) -> Result<Measured, Error> {
    /// Bytes of the tokenizer.json of a vocabulary of 150,000.
    const TOKENIZER: u64 = 8 << 20;
    let specs = description.tensors();
    let experts = |spec: &TensorSpec| (spec.expert.is_some() && description.quantization == Some(Quantization::Mxfp4)).then_some(Format::MXFP4);
    let published = Published { own: &|_| Format::BF16, coded: &experts, by_columns: &|_| false };
    let known = Known { fingerprint: "unseen", description, specs: &specs, published, tokenizer: TOKENIZER };
    let (mut measured, menus) = prepare(&known, request)?;
    let matrices: Vec<&TensorSpec> = specs.iter().filter(|s| s.kind.is_matrix()).collect();
    measured.curves = rd_curve::gaussian(&matrices, &menus, measured.effort);
    for (curve, spec) in measured.curves.iter_mut().zip(&matrices) {
        curve.iter_mut().filter(|point| experts(spec) == Some(point.format)).for_each(|point| point.error = 0.0);
    }
    measured.price(&|s| sensitivity::of(s, 1.0, &Shares::default(), description, None));
    Ok(measured)
}

/// What is known of a checkpoint before its weights are looked at.
pub struct Known<'a> {
    /// Of the checkpoint.
    pub fingerprint: &'a str,
    /// What it computes.
    pub description: &'a Description,
    /// Its tensors, in order.
    pub specs: &'a [TensorSpec],
    /// What they are published in.
    pub published: Published<'a>,
    /// Bytes of tokenizer.json.
    pub tokenizer: u64,
}

/// What matrices are published in.
pub struct Published<'a> {
    /// The format that keeps one as it is, or its numbers dense.
    pub own: &'a dyn Fn(&TensorSpec) -> Format,
    /// Codes that may be kept or coded again.
    pub coded: &'a dyn Fn(&TensorSpec) -> Option<Format>,
    /// Whether rows are columns of what is stored.
    pub by_columns: &'a dyn Fn(&TensorSpec) -> bool,
}

/// What does not depend on the weights: memory, items, and every matrix' menu.
fn prepare(known: &Known, request: &Request) -> Result<(Measured, Vec<Vec<Format>>), Error> {
    let Known { fingerprint, description, specs, published, tokenizer } = known;
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
        description: (*description).clone(),
        backend: request.backend.clone(),
        ordered: specs.iter().any(|s| s.kind.is_matrix() && own(s).scheme() == Scheme::GptqOrdered),
        tensors: specs.len(),
        tokenizer: *tokenizer,
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
    if survey.as_ref().is_some_and(|survey| survey.checkpoint() != *fingerprint) {
        return Err(Error::Mismatch("the survey was made of another checkpoint: make one of this one".into()));
    }
    let (checkpoint, specs) = (fingerprint.to_string(), specs.to_vec());
    let measured =
        Measured { checkpoint, specs, method, effort, survey, besides, vectors, curves: Vec::new(), items, choices: Vec::new(), u: Vec::new() };
    // Before a weight is read: exact bytes of the cheapest formats do not depend on the weights, but where RAM's veto does.
    let least =
        vectors + matrices.iter().zip(&menu).map(|(s, m)| m.iter().map(|f| f.bytes(s.shape[0], s.shape[1]) as u64).min().unwrap_or(0)).sum::<u64>();
    if !ram {
        measured.within(request.limit, least)?;
    }
    Ok((measured, menu))
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
