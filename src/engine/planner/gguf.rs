//! Types of llama.cpp's files, chosen as formats are: what each takes, what it does to the weights, what an error costs.
//!
//! Errors are those of candle's quantizers of the same types, without an importance matrix. Weights there cannot be scaled before they are coded;
//! what a survey says that an error costs holds for scaled ones, whose columns the noise reaches evenly. With s the scale, c the squared norm of a
//! column and a the mean square of its input, s^4 = a / c (`survey`), so that unscaled ones cost
//! mean(a) mean(c) / mean(a / s^2) mean(s^2 c) = mean(s^4 c) mean(c) / mean(s^2 c)^2 times as much: 1 where s is the same everywhere.
use super::{
    allocate::{Choice, allocate},
    rd_curve::{Curve, is_large, rows_looked_at},
    seen::is_head,
    sensitivity,
    shares::Shares,
};
use crate::{
    Error,
    checkpoint::{self, Checkpoint},
    survey::Survey,
};
use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use ram_kernels::Format;
use ram_models::{Kind, TensorSpec};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// How llama.cpp stores a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufType(GgmlDType);

impl GgufType {
    /// Its name, as llama-quantize reads it.
    pub fn name(self) -> &'static str {
        match self.0 {
            GgmlDType::F32 => "f32",
            GgmlDType::F16 => "f16",
            GgmlDType::BF16 => "bf16",
            GgmlDType::Q4_0 => "q4_0",
            GgmlDType::Q4_1 => "q4_1",
            GgmlDType::Q5_0 => "q5_0",
            GgmlDType::Q5_1 => "q5_1",
            GgmlDType::Q8_0 => "q8_0",
            GgmlDType::Q8_1 => "q8_1",
            GgmlDType::Q2K => "q2_K",
            GgmlDType::Q3K => "q3_K",
            GgmlDType::Q4K => "q4_K",
            GgmlDType::Q5K => "q5_K",
            GgmlDType::Q6K => "q6_K",
            GgmlDType::Q8K => "q8_K",
        }
    }

    /// Bytes of a matrix (rows, cols).
    fn bytes(self, shape: &[usize]) -> u64 {
        (shape.iter().product::<usize>() / self.0.block_size() * self.0.type_size()) as u64
    }

    /// The type of numbers that a dense format has.
    fn dense(format: Format) -> GgufType {
        GgufType(match format {
            Format::F32 => GgmlDType::F32,
            Format::F16 => GgmlDType::F16,
            _ => GgmlDType::BF16,
        })
    }

    /// What a matrix may get: types whose blocks its rows are made of, and its own numbers.
    fn menu(spec: &TensorSpec, own: Format) -> Vec<GgufType> {
        use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let coded: &[GgmlDType] = match spec.shape[1] {
            cols if cols.is_multiple_of(256) => &[Q2K, Q3K, Q4K, Q5K, Q6K, Q8_0],
            cols if cols.is_multiple_of(32) => &[Q4_0, Q4_1, Q5_0, Q5_1, Q8_0],
            _ => &[],
        };
        coded.iter().map(|&dtype| GgufType(dtype)).chain([GgufType::dense(own)]).collect()
    }
}

/// Tensors that get one type together: all experts of a layer, of each projection.
pub struct Typed {
    /// Their numbers among the checkpoint's.
    pub tensors: Vec<usize>,
    /// What they get.
    pub kind: GgufType,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Nats of KL divergence that they are expected to add.
    pub loss: f64,
}

/// Whether llama.cpp's quantizer leaves a tensor as numbers of 32 bits.
fn stays(spec: &TensorSpec) -> bool {
    !spec.kind.is_matrix() || spec.kind.steers()
}

/// What was looked at of a matrix.
struct Look {
    errors: Vec<(GgufType, f64)>,
    square: f64,
    /// What an error costs, by what the survey says of it.
    dearer: f64,
}

/// The types with the least expected loss within `weights` bytes. `done` is told the number of weights of each matrix.
///
/// # Errors
/// [`Error::Budget`] with the fewest bytes that would do; the checkpoint's own errors.
pub fn gguf_types(checkpoint: &Checkpoint, survey: Option<&Survey>, weights: u64, done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Typed>, Error> {
    let (specs, description) = (checkpoint.specs(), checkpoint.description());
    let half = is_large(specs);
    let looks = specs.par_iter().map(|spec| {
        let rows = rows_looked_at(spec.shape[0]) / if half { 2 } else { 1 };
        let look = if stays(spec) { None } else { Some(look(checkpoint, spec, rows.max(1), survey)?) };
        done(look.as_ref().map_or(0, |_| spec.shape.iter().product()));
        Ok::<_, Error>(look)
    });
    let looks = looks.collect::<Result<Vec<_>, _>>()?;
    let head = specs.iter().find(|spec| is_head(checkpoint, spec)).ok_or_else(|| Error::MissingTensor("lm_head.weight".into()))?;
    let head = sensitivity::head(checkpoint, head)?;
    let routers = super::seen::routers(checkpoint, &|_| true)?;
    let matrices: Vec<&TensorSpec> = specs.iter().filter(|spec| spec.kind.is_matrix()).collect();
    let squares = specs.iter().zip(&looks).filter(|(spec, _)| spec.kind.is_matrix());
    let squares: Vec<Curve> = squares.map(|(_, look)| Curve { points: Vec::new(), square: look.as_ref().map(|look| look.square) }).collect();
    let shares = Shares::of_norms(description, &matrices, &squares, &routers);

    let mut items: Vec<Vec<usize>> = Vec::new();
    let mut stacks: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (i, spec) in specs.iter().enumerate().filter(|(_, spec)| !stays(spec)) {
        let stack = spec.layer.filter(|_| spec.expert.is_some()).map(|layer| (layer, spec.kind as usize));
        let at = stack.and_then(|stack| stacks.get(&stack).copied()).unwrap_or(items.len());
        if at == items.len() {
            items.push(Vec::new());
            stacks.extend(stack.map(|stack| (stack, at)));
        }
        items[at].push(i);
    }
    let each = |tensors: &Vec<usize>| -> Vec<(GgufType, Choice)> {
        let known = || tensors.iter().filter_map(|&i| looks[i].as_ref().map(|look| (&specs[i], look)));
        let Some((_, first)) = known().next() else { return Vec::new() };
        let kinds = first.errors.iter().enumerate();
        let choice = kinds.map(|(at, &(kind, _))| {
            let bytes = known().map(|(spec, _)| kind.bytes(&spec.shape)).sum();
            let cost = |spec: &TensorSpec, look: &Look| sensitivity::of(spec, head, &shares, description, survey) * look.dearer;
            let loss = known().map(|(spec, look)| cost(spec, look) * look.errors[at].1).sum();
            (kind, Choice { bytes, loss })
        });
        choice.collect()
    };
    let choices: Vec<Vec<(GgufType, Choice)>> = items.iter().map(each).collect();
    let fixed = specs.iter().filter(|spec| stays(spec)).map(|spec| 4 * spec.shape.iter().product::<usize>() as u64).sum::<u64>();
    let plain: Vec<Vec<Choice>> = choices.iter().map(|choices| choices.iter().map(|(_, choice)| *choice).collect()).collect();
    let at = allocate(&plain, weights.saturating_sub(fixed));
    let at = at.map_err(|need| Error::Budget { need: need + fixed, have: weights, weights_only: true })?;
    let typed = items.into_iter().zip(choices).zip(at).map(|((tensors, choices), at)| {
        let (kind, Choice { bytes, loss }) = choices[at];
        Typed { tensors, kind, bytes, loss }
    });
    let stay = specs.iter().enumerate().filter(|(_, spec)| stays(spec)).map(|(i, spec)| {
        let kind = GgufType(GgmlDType::F32);
        Typed { tensors: vec![i], kind, bytes: kind.bytes(&spec.shape), loss: 0.0 }
    });
    let mut all: Vec<Typed> = typed.chain(stay).collect();
    all.sort_by_key(|typed| typed.tensors[0]);
    Ok(all)
}

fn look(checkpoint: &Checkpoint, spec: &TensorSpec, count: usize, survey: Option<&Survey>) -> Result<Look, Error> {
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let picks = checkpoint::sampled_rows(rows, count, 8);
    let sample = checkpoint::read_rows(checkpoint, &spec.name, cols, &picks)?;
    let energy = |values: &mut dyn Iterator<Item = f32>| values.map(|w| f64::from(w).powi(2)).sum::<f64>();
    let total = energy(&mut sample.iter().copied());
    let own = checkpoint.own_format(&spec.name);
    let tensor = Tensor::from_slice(&sample, (picks.len(), cols), &Device::Cpu)?;
    let error = |kind: GgufType| {
        if kind == GgufType::dense(own) || total == 0.0 {
            return Ok(0.0);
        }
        let coded = QTensor::quantize(&tensor, kind.0)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        Ok::<_, Error>(energy(&mut sample.iter().zip(&coded).map(|(a, b)| a - b)) / total)
    };
    let errors = GgufType::menu(spec, own).into_iter().map(|kind| Ok((kind, error(kind)?))).collect::<Result<_, Error>>()?;
    // Without what a survey says of a matrix, the tables' costs are those of weights as they are.
    let scale = survey.filter(|survey| survey.cost(&spec.name).is_some()).and_then(|survey| survey.columns(&spec.name));
    let dearer = scale.map_or(1.0, |scale| {
        let mut columns = vec![0.0; cols];
        sample.chunks_exact(cols).for_each(|row| columns.iter_mut().zip(row).for_each(|(c, w)| *c += f64::from(*w).powi(2)));
        let mean = |power: i32| columns.iter().zip(scale).map(|(c, s)| c * f64::from(*s).powi(power)).sum::<f64>();
        if total > 0.0 { mean(4) * mean(0) / mean(2).powi(2) } else { 1.0 }
    });
    Ok(Look { errors, square: total / sample.len().max(1) as f64, dearer })
}

/// The name that llama.cpp has for a tensor, all experts of a layer together; none where it has another structure.
pub fn gguf_name(spec: &TensorSpec) -> Option<String> {
    let own = match (spec.kind, spec.expert) {
        (Kind::Embedding, _) => return Some("token_embd.weight".into()),
        (Kind::Head, _) => return Some("output.weight".into()),
        (Kind::Query, _) => "attn_q",
        (Kind::Key, _) => "attn_k",
        (Kind::Value, _) => "attn_v",
        (Kind::Output, _) => "attn_output",
        (Kind::Gate, None) => "ffn_gate",
        (Kind::Up, None) => "ffn_up",
        (Kind::Down, None) => "ffn_down",
        (Kind::Gate, Some(_)) => "ffn_gate_exps",
        (Kind::Up, Some(_)) => "ffn_up_exps",
        (Kind::Down, Some(_)) => "ffn_down_exps",
        (Kind::SharedGate, _) => "ffn_gate_shexp",
        (Kind::SharedUp, _) => "ffn_up_shexp",
        (Kind::SharedDown, _) => "ffn_down_shexp",
        _ => return None,
    };
    spec.layer.map(|layer| format!("blk.{layer}.{own}.weight"))
}
