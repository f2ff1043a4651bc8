//! A plan: what every tensor gets, before any weight is quantized. Pure: same checkpoint and request, same plan.
use super::{
    allocate::{Choice, allocate},
    budget::{Limit, Memory},
    items::loss,
    measured::{Measured, measure, outlined},
    method::Method,
    rd_curve::Point,
    request::Request,
};
use crate::{Error, checkpoint::Checkpoint, survey::Survey};
use ram_kernels::{Effort, Format, KvElement};
use ram_models::{Backend, Description, TensorSpec};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

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
    choose(&measure(checkpoint, request, done)?, request.limit)
}

/// What the plan of a checkpoint would be of which only config.json is known: errors are those of Gaussian weights, which
/// rotated ones are like, dense tensors are bf16, losses are fractions of what the head's unit would cost.
///
/// # Errors
/// As for [`plan`].
pub fn outline(description: &Description, request: &Request) -> Result<Plan, Error> {
    choose(&outlined(description, request)?, request.limit)
}

/// The best plan within `limit`.
///
/// # Errors
/// [`Error::Budget`] with the smallest limit that works.
pub fn choose(m: &Measured, limit: Limit) -> Result<Plan, Error> {
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
    let entries: Vec<Entry> = m.specs.iter().zip(&m.u).map(|(spec, &u)| entry(spec, &chosen, &mut matrix, u)).collect();
    Ok(finish(m, memory, chunk, entries))
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

fn finish(m: &Measured, memory: Memory, chunk: usize, entries: Vec<Entry>) -> Plan {
    let weight_bytes = entries.iter().map(|e| e.bytes).sum::<u64>();
    let parameters = entries.iter().map(|e| e.spec.shape.iter().product::<usize>() as u64).sum::<u64>();
    let coded: HashSet<&str> = entries.iter().filter(|e| !e.format.is_dense()).map(|e| e.spec.name.as_str()).collect();
    let survey = m.survey.as_ref().map_or_else(Survey::default, |survey| survey.only(&|name| coded.contains(name)));
    Plan {
        fingerprint: fingerprint(&m.checkpoint, m.effort, m.survey.is_some(), &survey, &entries),
        checkpoint: m.checkpoint.clone(),
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
