//! Matrices that a checkpoint has quantized already (GPTQ, AWQ, MLX, compressed-tensors): found by the tensors it holds, checked, and put into tiles
//! code by code.
use super::{Checkpoint, Source};
use crate::Error;
use half::{bf16, f16};
use ram_kernels::{Format, Groups, Scheme, place};
use ram_models::{Awq, ConfigError, Gptq, PackedNumbers, Quantization, TensorSpec};
use regex::Regex;
use safetensors::Dtype;
use std::collections::HashMap;

/// How a matrix lies in the files.
#[derive(Clone, Debug)]
pub struct Coded {
    /// What it is in memory: the same codes, scales and zeros.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Its name but for `.weight`.
    module: String,
    layout: Layout,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// `qweight` (inputs in words, outputs), `scales` and `qzeros` (groups, outputs): columns are streams of codes.
    Gptq { plain_zeros: bool, sym: bool },
    /// `weight` (outputs, inputs in words), `scales` and `biases` (outputs, groups): rows are streams of codes.
    Mlx,
    /// `weight_packed` (outputs, inputs in words), `weight_scale` (outputs, groups): the same, and zero is the middle of the codes; or
    /// `weight_zero_point` (outputs in words, groups), whose columns are streams of zeros.
    Packed { zeros: bool },
    /// `qweight` (inputs, outputs in words), `qzeros` (groups, outputs in words), `scales` (groups, outputs): 8 outputs a word, in an order of
    /// their own.
    Awq,
}

/// Where in a word AWQ has each of 8 outputs.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Coded {
    /// The tensors that it is made of.
    pub fn parts(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let names: &[&str] = match self.layout {
            Layout::Mlx => &["weight", "scales", "biases"],
            Layout::Gptq { .. } => &["qweight", "scales", "qzeros", "g_idx"],
            Layout::Packed { .. } => &["weight_packed", "weight_scale", "weight_zero_point", "weight_shape"],
            Layout::Awq => &["qweight", "scales", "qzeros"],
        };
        let all = names.iter().map(|part| format!("{}.{part}", self.module));
        all.filter(|name| checkpoint.find(name).is_some()).collect()
    }
}

fn wrong(name: impl Into<String>, reason: String) -> Error {
    Error::Tensor { name: name.into(), reason }
}

/// The quantized ones of a checkpoint's matrices.
///
/// # Errors
/// Where a tensor is not what config.json says of its module.
pub fn find(checkpoint: &Checkpoint) -> Result<HashMap<String, Coded>, Error> {
    let rules = match &checkpoint.description().quantization {
        Some(Quantization::Gptq(gptq)) => rules(checkpoint, gptq)?,
        _ => Vec::new(),
    };
    let mut found = HashMap::new();
    for spec in checkpoint.specs().iter().filter(|s| s.kind.is_matrix()) {
        let module = spec.name.strip_suffix(".weight").unwrap_or(&spec.name);
        let has = |part: &str| checkpoint.find(&format!("{module}.{part}")).is_some();
        let own = if let (true, Some(Quantization::Awq(how))) = (has("qweight"), &checkpoint.description().quantization) {
            awq(checkpoint, spec, module, *how)?
        } else if has("qweight") {
            gptq(checkpoint, spec, module, &rules)?
        } else if has("weight_packed") {
            packed(checkpoint, spec, module)?
        } else if has("scales") || checkpoint.find(&spec.name).is_some_and(|i| i.dtype == Dtype::U32) {
            mlx(checkpoint, spec, module)?
        } else {
            continue;
        };
        found.insert(spec.name.clone(), own);
    }
    Ok(found)
}

/// The rules of `dynamic`, made ready.
fn rules(checkpoint: &Checkpoint, gptq: &Gptq) -> Result<Vec<Regex>, Error> {
    let each = gptq.dynamic.iter().map(|(pattern, _)| {
        Regex::new(&format!("^(?:{pattern})")).map_err(|e| Error::Config {
            path: checkpoint.folder().join("config.json"),
            source: ConfigError::Invalid {
                key: "quantization_config.dynamic".into(),
                found: format!("'{pattern}'"),
                expected: format!("a regular expression ({})", e.to_string().lines().last().unwrap_or_default()),
            },
        })
    });
    each.collect()
}

/// A part of a module, of the shape and one of the types that it must have.
fn part(checkpoint: &Checkpoint, name: String, shape: &[usize], types: &[Dtype], why: &str) -> Result<Dtype, Error> {
    let info = checkpoint.find(&name).ok_or_else(|| Error::MissingTensor(name.clone()))?;
    if info.shape != shape {
        return Err(wrong(name, format!("has shape {:?}, and config.json asks for {shape:?}{why}", info.shape)));
    }
    if !types.contains(&info.dtype) {
        return Err(wrong(name, format!("holds {:?}, and must hold {types:?}", info.dtype)));
    }
    Ok(info.dtype)
}

fn gptq(checkpoint: &Checkpoint, spec: &TensorSpec, module: &str, rules: &[Regex]) -> Result<Coded, Error> {
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let name = |part: &str| format!("{module}.{part}");
    let Some(Quantization::Gptq(config)) = &checkpoint.description().quantization else {
        return Err(wrong(name("qweight"), "is quantized, and config.json has no quantization_config of gptq".into()));
    };
    let rule = rules.iter().position(|r| r.is_match(module)).map(|i| config.dynamic[i].1);
    let Some(own) = rule.unwrap_or(Some(config.base)) else {
        return Err(wrong(name("qweight"), "is quantized, and quantization_config.dynamic leaves the module dense".into()));
    };
    let group = own.group_size.unwrap_or_else(|| cols.next_multiple_of(32));
    let format = |ordered| u16::try_from(group).ok().and_then(|g| Format::gptq(own.bits as u8, g, ordered));
    let Some(plain) = format(false).filter(|_| (cols * own.bits).is_multiple_of(32) && (rows * own.bits).is_multiple_of(32)) else {
        let reason = format!(
            "has {} bits, groups of {group} and {rows} x {cols} weights: 2, 3, 4 and 8 bits with groups of a multiple of 32 are read",
            own.bits
        );
        return Err(wrong(name("qweight"), reason));
    };
    let (groups, why) = (cols.div_ceil(group), format!(" ({} bits, groups of {group})", own.bits));
    part(checkpoint, name("qweight"), &[cols * own.bits / 32, rows], &[Dtype::I32], &why)?;
    part(checkpoint, name("scales"), &[groups, rows], &[Dtype::F16, Dtype::BF16], &why)?;
    part(checkpoint, name("qzeros"), &[groups, rows * own.bits / 32], &[Dtype::I32], &why)?;
    let mut ordered = false;
    if checkpoint.find(&name("g_idx")).is_some() || own.desc_act {
        part(checkpoint, name("g_idx"), &[cols], &[Dtype::I32], "")?;
        // Without the flag the order is looked at while loading, where there is a file.
        ordered = own.desc_act && groups > 1 && order(checkpoint, None, module, group, cols)?.is_some();
    }
    let layout = Layout::Gptq { plain_zeros: config.plain_zeros, sym: own.sym };
    Ok(Coded { format: if ordered { format(true).unwrap_or(plain) } else { plain }, rows, module: module.into(), layout })
}

/// The inputs by rising group, where they are not that already.
fn order(checkpoint: &Checkpoint, source: Option<&Source>, module: &str, group: usize, cols: usize) -> Result<Option<Vec<u32>>, Error> {
    let name = format!("{module}.g_idx");
    let mut bytes = vec![0; 4 * cols];
    checkpoint.read_from(source, &name, 0, &mut bytes)?;
    let index: Vec<i32> = bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
    let groups = cols.div_ceil(group);
    if let Some((at, bad)) = index.iter().enumerate().find(|(_, i)| !(0..groups as i32).contains(i)) {
        return Err(wrong(name, format!("gives input {at} the group {bad}, and there are {groups}")));
    }
    let mut order: Vec<u32> = (0..cols as u32).collect();
    order.sort_by_key(|&c| index[c as usize]);
    if let Some(at) = order.iter().enumerate().position(|(i, &c)| index[c as usize] as usize != i / group) {
        return Err(wrong(name, format!("does not give group {} its {group} inputs", at / group)));
    }
    Ok(Some(order).filter(|o| !o.is_sorted()))
}

fn mlx(checkpoint: &Checkpoint, spec: &TensorSpec, module: &str) -> Result<Coded, Error> {
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let name = |part: &str| format!("{module}.{part}");
    let Some(Quantization::Mlx(config)) = &checkpoint.description().quantization else {
        return Err(wrong(name("weight"), "is quantized, and config.json has no quantization of MLX".into()));
    };
    let stacked = checkpoint.description().stacked(spec).filter(|s| config.modules.contains_key(s));
    let Some(own) = config.modules.get(stacked.as_deref().unwrap_or(module)).copied().unwrap_or(Some(config.base)) else {
        return Err(wrong(name("weight"), "is quantized, and config.json's quantization leaves the module dense".into()));
    };
    let why = format!(" ({} bits, groups of {})", own.bits, own.group_size);
    let group = u16::try_from(own.group_size).unwrap_or(0);
    let Some(format) = Format::affine(own.bits as u8, group).filter(|_| cols.is_multiple_of(own.group_size)) else {
        return Err(wrong(name("weight"), format!("has rows of {cols}{why}: 2 to 6 and 8 bits with whole groups of 32, 64 and 128 are read")));
    };
    let groups = [rows, cols / own.group_size];
    part(checkpoint, name("weight"), &[rows, cols * own.bits / 32], &[Dtype::U32], &why)?;
    let dtype = part(checkpoint, name("scales"), &groups, &[Dtype::F16, Dtype::BF16], &why)?;
    part(checkpoint, name("biases"), &groups, &[dtype], &why)?;
    let bf16 = Format::affine_bf16(own.bits as u8, group).filter(|_| dtype == Dtype::BF16);
    Ok(Coded { format: bf16.unwrap_or(format), rows, module: module.into(), layout: Layout::Mlx })
}

fn awq(checkpoint: &Checkpoint, spec: &TensorSpec, module: &str, how: Awq) -> Result<Coded, Error> {
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let name = |part: &str| format!("{module}.{part}");
    let group = how.group_size.unwrap_or_else(|| cols.next_multiple_of(32));
    let format = u16::try_from(group).ok().and_then(|group| Format::gptq(4, group, false));
    let Some(format) = format.filter(|_| rows.is_multiple_of(8)) else {
        let reason = format!("has groups of {group} and {rows} x {cols} weights: groups of a multiple of 32 and outputs of a multiple of 8 are read");
        return Err(wrong(name("qweight"), reason));
    };
    let (groups, why) = (cols.div_ceil(group), format!(" (4 bits, groups of {group})"));
    part(checkpoint, name("qweight"), &[cols, rows / 8], &[Dtype::I32], &why)?;
    part(checkpoint, name("scales"), &[groups, rows], &[Dtype::F16, Dtype::BF16], &why)?;
    part(checkpoint, name("qzeros"), &[groups, rows / 8], &[Dtype::I32], &why)?;
    Ok(Coded { format, rows, module: module.into(), layout: Layout::Awq })
}

fn packed(checkpoint: &Checkpoint, spec: &TensorSpec, module: &str) -> Result<Coded, Error> {
    let (rows, cols) = (spec.shape[0], spec.shape[1]);
    let name = |part: &str| format!("{module}.{part}");
    let Some(Quantization::Packed(said)) = &checkpoint.description().quantization else {
        return Err(wrong(name("weight_packed"), "is quantized, and config.json has no quantization_config of compressed-tensors".into()));
    };
    // Of several groups the one that has such shapes.
    let last = |part: &str| checkpoint.find(&name(part)).and_then(|info| info.shape.last().copied());
    let fits = |own: &&PackedNumbers| {
        let groups = own.group_size.map_or(1, |group| cols.div_ceil(group));
        last("weight_packed") == Some(cols * own.bits / 32)
            && last("weight_scale") == Some(groups)
            && last("weight_zero_point").is_none() == own.symmetric
    };
    let Some(&PackedNumbers { bits, group_size, symmetric }) = said.iter().find(fits).or(said.first()) else {
        return Err(wrong(name("weight_packed"), "is quantized, and quantization_config has no group".into()));
    };
    let group = group_size.unwrap_or_else(|| cols.next_multiple_of(32));
    let why = format!(" ({bits} bits, groups of {group})");
    let format = u16::try_from(group).ok().and_then(|group| {
        let symmetric = Format::symmetric(bits as u8, group).filter(|_| symmetric);
        symmetric.or_else(|| Format::gptq(bits as u8, group, false))
    });
    let Some(format) = format.filter(|_| (cols * bits).is_multiple_of(32)) else {
        let reason = format!("has {rows} x {cols} weights{why}: 2, 3, 4 and 8 bits with groups of a multiple of 32 are read");
        return Err(wrong(name("weight_packed"), reason));
    };
    part(checkpoint, name("weight_packed"), &[rows, cols * bits / 32], &[Dtype::I32], &why)?;
    part(checkpoint, name("weight_scale"), &[rows, cols.div_ceil(group)], &[Dtype::F16, Dtype::BF16], &why)?;
    if checkpoint.find(&name("weight_shape")).is_some() {
        part(checkpoint, name("weight_shape"), &[2], &[Dtype::I64, Dtype::I32], &why)?;
    }
    if !symmetric {
        part(checkpoint, name("weight_zero_point"), &[(rows * bits).div_ceil(32), cols.div_ceil(group)], &[Dtype::I32], &why)?;
    } else if checkpoint.find(&name("weight_zero_point")).is_some() {
        return Err(wrong(name("weight_zero_point"), "is there, and config.json says symmetric".into()));
    }
    Ok(Coded { format, rows, module: module.into(), layout: Layout::Packed { zeros: !symmetric } })
}

/// Rows from `first`, a multiple of 16, of a (.., cols) matrix into tiles; behind them the order of the inputs, where `out` has
/// room for it.
///
/// # Errors
/// Where they cannot be read or hold what they must not; the tensor is named.
pub fn read(checkpoint: &Checkpoint, source: Option<&Source>, q: &Coded, rows: [usize; 2], cols: usize, out: &mut [u8]) -> Result<(), Error> {
    let [first, n] = rows;
    let (bits, group) = (q.format.bits(), q.format.group());
    let groups = cols.div_ceil(group);
    let (out, behind) = out.split_at_mut(q.format.row_bytes(n, cols));
    let fetch = |part: &str, at: usize, out: &mut [u8]| checkpoint.read_from(source, &format!("{}.{part}", q.module), at as u64, out);
    // Of rows that are streams of codes.
    let row_codes = |part: &str, codes: &mut [u8]| {
        let mut words = vec![0; n * cols * bits / 8];
        fetch(part, first * cols * bits / 8, &mut words)?;
        unpack(bits, |i| u32::from_le_bytes(words.as_chunks().0[i]), 0, 1, codes);
        Ok::<(), Error>(())
    };
    let mut codes = vec![0u8; n * cols];
    let (mut scales, mut offsets) = (vec![0u16; n * groups], vec![0u16; n * groups]);
    match q.layout {
        Layout::Mlx => {
            row_codes("weight", &mut codes)?;
            let mut bytes = vec![0; 2 * n * groups];
            for (part, to) in [("scales", &mut scales), ("biases", &mut offsets)] {
                fetch(part, 2 * first * groups, &mut bytes)?;
                to.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, b)| *to = u16::from_le_bytes(*b));
            }
        }
        Layout::Awq => {
            let name = |part: &str| format!("{}.{part}", q.module);
            let all = checkpoint.info(&name("scales")).shape[1];
            let (dtype, mut words, mut bytes) = (checkpoint.info(&name("scales")).dtype, vec![0; n / 2], vec![0; 2 * n]);
            // Of a word's 8 outputs the one of a row.
            let code = |words: &[u8], row: usize| words[row / 8 * 4 + AWQ_PLACES[row % 8] / 2] >> (4 * (AWQ_PLACES[row % 8] % 2)) & 15;
            for c in 0..cols {
                fetch("qweight", (c * all + first) / 2, &mut words)?;
                (0..n).for_each(|r| codes[r * cols + c] = code(&words, r));
            }
            for g in 0..groups {
                fetch("qzeros", (g * all + first) / 2, &mut words)?;
                fetch("scales", 2 * (g * all + first), &mut bytes)?;
                for (r, b) in bytes.as_chunks().0.iter().enumerate() {
                    scales[r * groups + g] = half_bits(&name("scales"), dtype, *b)?;
                    offsets[r * groups + g] = u16::from(code(&words, r));
                }
            }
        }
        Layout::Packed { zeros } => {
            row_codes("weight_packed", &mut codes)?;
            let (name, mut bytes) = (format!("{}.weight_scale", q.module), vec![0; 2 * n * groups]);
            fetch("weight_scale", 2 * first * groups, &mut bytes)?;
            let dtype = checkpoint.info(&name).dtype;
            for (to, b) in scales.iter_mut().zip(bytes.as_chunks().0) {
                *to = half_bits(&name, dtype, *b)?;
            }
            offsets.fill(1 << (bits - 1));
            if zeros {
                let (mut words, mut column) = (vec![0; (q.rows * bits).div_ceil(32) * groups * 4], vec![0u8; q.rows]);
                fetch("weight_zero_point", 0, &mut words)?;
                for g in 0..groups {
                    unpack(bits, |i| u32::from_le_bytes(words.as_chunks().0[i]), g, groups, &mut column);
                    (0..n).for_each(|r| offsets[r * groups + g] = u16::from(column[first + r]));
                }
            }
        }
        Layout::Gptq { plain_zeros, sym } => {
            let name = |part: &str| format!("{}.{part}", q.module);
            let all = checkpoint.info(&name("qweight")).shape[1];
            let mut words = vec![0; cols * bits / 8 * n];
            for (k, words) in words.chunks_exact_mut(4 * n).enumerate() {
                fetch("qweight", 4 * (k * all + first), words)?;
            }
            for (r, codes) in codes.chunks_exact_mut(cols).enumerate() {
                unpack(bits, |i| u32::from_le_bytes(words.as_chunks().0[i]), r, n, codes);
            }
            let (mut bytes, mut packed) = (vec![0; 2 * n], vec![0; (n * bits).div_ceil(8)]);
            let dtype = checkpoint.info(&name("scales")).dtype;
            for g in 0..groups {
                fetch("scales", 2 * (g * all + first), &mut bytes)?;
                fetch("qzeros", (g * all + first) * bits / 8, &mut packed)?;
                for (r, b) in bytes.as_chunks().0.iter().enumerate() {
                    let at = r * groups + g;
                    scales[at] = half_bits(&name("scales"), dtype, *b)?;
                    let (byte, shift) = (r * bits / 8, r * bits % 8);
                    let two = u16::from(packed[byte]) | u16::from(*packed.get(byte + 1).unwrap_or(&0)) << 8;
                    offsets[at] = ((two >> shift) + u16::from(!plain_zeros)) & ((1 << bits) - 1);
                    if sym && offsets[at] != 1 << (bits - 1) {
                        let reason = format!("has a zero of {}, and quantization_config says sym: its checkpoint_format may be wrong", offsets[at]);
                        return Err(wrong(name("qzeros"), reason));
                    }
                }
            }
            let order = if checkpoint.find(&name("g_idx")).is_some() && groups > 1 && (first == 0 || q.format.order_bytes(cols) > 0) {
                order(checkpoint, source, &q.module, group, cols)?
            } else {
                None
            };
            match order {
                Some(_) if q.format.order_bytes(cols) == 0 => {
                    return Err(wrong(name("g_idx"), "has inputs in another order, and quantization_config says desc_act: false".into()));
                }
                Some(order) => {
                    let mut row = vec![0; cols];
                    for codes in codes.chunks_exact_mut(cols) {
                        row.copy_from_slice(codes);
                        codes.iter_mut().zip(&order).for_each(|(to, &c)| *to = row[c as usize]);
                    }
                    behind.as_chunks_mut().0.iter_mut().zip(order).for_each(|(to, c)| *to = c.to_le_bytes());
                }
                None => {}
            }
        }
    }
    let infinite = |v: &u16| if q.format.scheme() == Scheme::AffineBf16 { !bf16::from_bits(*v).is_finite() } else { !f16::from_bits(*v).is_finite() };
    if scales.iter().any(infinite) || q.layout == Layout::Mlx && offsets.iter().any(infinite) {
        let part = if matches!(q.layout, Layout::Packed { .. }) { "weight_scale" } else { "scales" };
        return Err(wrong(format!("{}.{part}", q.module), "holds a number that is not finite, so the checkpoint is damaged: fetch it again".into()));
    }
    let offsets = if q.format.scheme() == Scheme::Symmetric { &[][..] } else { &offsets };
    place(q.format, cols, &codes, Groups { scales: &scales, offsets }, out);
    Ok(())
}

/// The bits of a scale as f16, where one of bf16 loses nothing.
fn half_bits(name: &str, dtype: Dtype, bytes: [u8; 2]) -> Result<u16, Error> {
    if dtype == Dtype::F16 {
        return Ok(u16::from_le_bytes(bytes));
    }
    let scale = bf16::from_le_bytes(bytes);
    let half = f16::from_f32(scale.to_f32());
    if half.to_f32() == scale.to_f32() { Ok(half.to_bits()) } else { Err(wrong(name, format!("holds {scale}, which f16 does not hold exactly"))) }
}

/// Codes of a stream of `bits` bits each, low bits first, in the words `first`, `first + step` and so on; 32 codes fill whole words.
fn unpack(bits: usize, word: impl Fn(usize) -> u32, first: usize, step: usize, codes: &mut [u8]) {
    let mut words = [0u32; 9];
    for (block, codes) in codes.chunks_mut(32).enumerate() {
        let used = (codes.len() * bits).div_ceil(32);
        words[..used].iter_mut().enumerate().for_each(|(i, w)| *w = word(first + (block * bits + i) * step));
        for (i, code) in codes.iter_mut().enumerate() {
            let (at, shift) = (i * bits / 32, i * bits % 32);
            let two = u64::from(words[at]) | u64::from(words[at + 1]) << 32;
            *code = (two >> shift) as u8 & ((1u16 << bits) - 1) as u8;
        }
    }
}
