//! Which tensors an export has, and where in which file each lies.
use crate::{
    Checkpoint, Error, files,
    planner::{Entry, Plan, Shared, Target},
    size,
    weight_files::SINGLE,
};
use half::{bf16, f16};
use ram_kernels::{Format, Scheme};
use ram_models::{Description, Kind, TensorSpec, description::Mixer};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::{collections::HashMap, path::Path};

/// Bytes of a file at the most, but where one module has more.
const FILE: u64 = 5_000_000_000;

/// The one type of 16 bits that an export has: another beside it would make an engine compute in 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    F16,
    Bf16,
}

impl Half {
    pub fn dtype(self) -> Dtype {
        match self {
            Half::F16 => Dtype::F16,
            Half::Bf16 => Dtype::BF16,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Half::F16 => "float16",
            Half::Bf16 => "bfloat16",
        }
    }

    pub fn format(self) -> Format {
        match self {
            Half::F16 => Format::F16,
            Half::Bf16 => Format::BF16,
        }
    }

    pub fn bits(self, v: f32) -> u16 {
        match self {
            Half::F16 => f16::from_f32(v).to_bits(),
            Half::Bf16 => bf16::from_f32(v).to_bits(),
        }
    }
}

/// That of a checkpoint: what it has itself, f16 where codes with such scales are kept.
fn half_of(checkpoint: &Checkpoint) -> Half {
    let mut matrices = checkpoint.specs().iter().filter(|spec| spec.kind.is_matrix()).map(|spec| checkpoint.own_format(&spec.name));
    let halves = |format: Format| !format.is_dense() && format.scheme() != Scheme::AffineBf16 || format == Format::F16;
    if matrices.any(halves) { Half::F16 } else { Half::Bf16 }
}

/// One part of what a plan's entry becomes.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is of its module.
    pub what: What,
    /// The file, and the byte of it where the entry's own begin.
    pub file: usize,
    pub at: u64,
    /// Bytes of a row; of all where there are no rows.
    pub row: u64,
    /// The entry's own bytes.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Numbers of 16 or 32 bits.
    Numbers(Dtype),
    Codes,
    Scales,
    Offsets,
    /// Rows and columns, as two numbers of 64 bits.
    Shape,
}

/// Where an entry goes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The module's name there; a vector's whole name.
    pub module: String,
    pub parts: Vec<Part>,
}

impl Place {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// One tensor.
pub struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Of its file's data.
    at: u64,
    bytes: u64,
}

/// A file: its tensors in order, its header, and the bytes behind it.
#[derive(Default)]
pub struct File {
    tensors: Vec<Tensor>,
    pub header: Vec<u8>,
    pub bytes: u64,
}

/// What an export is like.
#[derive(Clone, Copy)]
pub struct Style {
    pub target: Target,
    pub half: Half,
}

/// Of an entry's part: what, how its name ends, its type, shape and bytes.
type Sized = (What, &'static str, Dtype, Vec<usize>, u64);

impl Style {
    /// Inputs that share a scale there: a longer group is several with the same.
    pub fn group(self, e: &Entry) -> usize {
        if self.target != Target::Mlx {
            return e.format.group();
        }
        let fits = |group: &usize| e.format.group().is_multiple_of(*group) && e.spec.shape[1].is_multiple_of(*group);
        [128, 64, 32].into_iter().find(fits).unwrap_or(e.format.group())
    }

    /// What an entry is there.
    pub fn format(self, e: &Entry) -> Format {
        if !e.spec.kind.is_matrix() || e.format.is_dense() {
            return self.half.format();
        }
        let (bits, group) = (e.format.bits() as u8, self.group(e) as u16);
        let affine = match self.half {
            Half::F16 => Format::affine(bits, group),
            Half::Bf16 => Format::affine_bf16(bits, group),
        };
        affine.filter(|_| self.target == Target::Mlx).unwrap_or(e.format)
    }

    fn check(self, e: &Entry) -> Result<(), Error> {
        let target = self.target;
        let wrong = |reason: String| Err(Error::Tensor { name: e.spec.name.clone(), reason });
        if !e.spec.kind.is_matrix() || e.format.is_dense() {
            return Ok(());
        }
        if !target.holds(e.format) {
            return wrong(format!("is {}, which {target} does not hold", e.format));
        }
        let (cols, group) = (e.spec.shape[1], self.group(e));
        if !cols.is_multiple_of(group) {
            return wrong(format!("has rows of {cols}, which are no whole groups of {group}, as {target} needs them"));
        }
        Ok(())
    }

    fn parts(self, checkpoint: &Checkpoint, e: &Entry) -> Vec<Sized> {
        let sized = |what, end, dtype: Dtype, shape: Vec<usize>| {
            let bytes = (shape.iter().product::<usize>() * dtype.bitsize() / 8) as u64;
            (what, end, dtype, shape, bytes)
        };
        let half = self.half.dtype();
        let [rows, cols] = match e.spec.shape[..] {
            [rows, cols] if e.spec.kind.is_matrix() => [rows, cols],
            _ => {
                // Numbers that a checkpoint of 16 bits has in 32 need them.
                let of = |name: &str| checkpoint.find(name).map(|info| info.dtype);
                let first = checkpoint.specs().iter().find(|spec| spec.kind.is_matrix()).and_then(|spec| of(&spec.name));
                // But for norms, whose results are the stream: MLX would compute all of it in 32.
                let norm = self.target == Target::Mlx && e.spec.name.ends_with("norm.weight");
                let long = of(&e.spec.name) == Some(Dtype::F32) && first != Some(Dtype::F32) && !norm;
                let dtype = if long { Dtype::F32 } else { half };
                // MLX has the taps of a convolution last, and knows by that whether norms are stored whole, as they are here.
                let shape = match e.spec.shape[..] {
                    [channels, 1, taps] if self.target == Target::Mlx && e.spec.kind == Kind::Recurrence => vec![channels, taps, 1],
                    _ => e.spec.shape.clone(),
                };
                return vec![sized(What::Numbers(dtype), "", dtype, shape)];
            }
        };
        // What is made of latents MLX has head by head.
        let heads = match e.spec.layer.map(|layer| &checkpoint.description().layers[layer].mixer) {
            Some(Mixer::Latent(latent)) if self.target == Target::Mlx && matches!(e.spec.kind, Kind::KeyUp | Kind::ValueUp) => {
                latent.num_attention_heads
            }
            _ => 1,
        };
        let wide = |cols: usize| if heads > 1 { vec![heads, rows / heads, cols] } else { vec![rows, cols] };
        if e.format.is_dense() {
            return vec![sized(What::Numbers(half), ".weight", half, wide(cols))];
        }
        let (words, groups) = (wide(cols * e.format.bits() / 32), wide(cols / self.group(e)));
        match self.target {
            Target::Mlx => vec![
                sized(What::Codes, ".weight", Dtype::U32, words),
                sized(What::Scales, ".scales", half, groups.clone()),
                sized(What::Offsets, ".biases", half, groups),
            ],
            Target::Vllm { .. } => vec![
                sized(What::Codes, ".weight_packed", Dtype::I32, words),
                sized(What::Scales, ".weight_scale", half, groups),
                sized(What::Shape, ".weight_shape", Dtype::I64, vec![2]),
            ],
        }
    }
}

/// All of an export.
pub struct Layout {
    pub style: Style,
    pub files: Vec<File>,
    /// Per entry of the plan.
    pub places: Vec<Place>,
}

impl Layout {
    /// Of a plan for `target`, of a model that may see, too.
    ///
    /// # Errors
    /// Names a matrix in a format that the target does not hold, or one whose format others share and have not.
    pub fn new(checkpoint: &Checkpoint, plan: &Plan, target: Target, sees: bool) -> Result<Layout, Error> {
        let style = Style { target, half: half_of(checkpoint) };
        let mut layout = Layout { style, files: vec![File::default()], places: Vec::new() };
        // Of a tensor: its file, and its number there.
        let mut known: HashMap<String, [usize; 2]> = HashMap::new();
        let mut shared: HashMap<Shared, Format> = HashMap::new();
        // Under the names of the family's authors, which engines know, whatever tools have called them since.
        let path = checkpoint.folder().join("config.json");
        let mut authors = Description::from_json(checkpoint.config()).map_err(|source| Error::Config { path, source })?;
        // MLX has a text of a model that sees under a name of its own.
        if target == Target::Mlx && sees {
            authors.adopt_names(["language_model.model.embed_tokens.weight"].into_iter());
        }
        for (e, spec) in plan.entries.iter().zip(authors.tensors()) {
            style.check(e)?;
            if let Some(key) = target.shared(&e.spec).filter(|_| e.spec.kind.is_matrix()) {
                let own = *shared.entry(key).or_insert(e.format);
                if own != e.format {
                    let reason = format!("is {}, and others that {target} has as one with it are {own}: pin them alike", e.format);
                    return Err(Error::Tensor { name: e.spec.name.clone(), reason });
                }
            }
            let place = layout.place(checkpoint, e, module(&authors, target, &spec), &mut known);
            layout.places.push(place);
        }
        let format = if target == Target::Mlx { "mlx" } else { "pt" };
        for file in &mut layout.files {
            file.header = header(&file.tensors, format);
        }
        // From the beginning of the file.
        for part in layout.places.iter_mut().flat_map(|place| &mut place.parts) {
            part.at += layout.files[part.file].header.len() as u64;
        }
        Ok(layout)
    }

    /// Where an entry goes: into tensors of its own, or where those of other experts are.
    fn place(&mut self, checkpoint: &Checkpoint, e: &Entry, (module, stacked): Named, known: &mut HashMap<String, [usize; 2]>) -> Place {
        let [expert, experts] = stacked.unwrap_or([0, 1]);
        let parts = self.style.parts(checkpoint, e);
        let whole = parts.iter().map(|(.., bytes)| bytes * experts as u64).sum::<u64>();
        if expert == 0 && self.files.last().is_some_and(|file| file.bytes > 0 && file.bytes + whole > FILE) {
            self.files.push(File::default());
        }
        let number = self.files.len() - 1;
        let each = parts.into_iter().map(|(what, end, dtype, shape, bytes)| {
            let name = format!("{module}{end}");
            let rows = if e.spec.kind.is_matrix() && what != What::Shape { e.spec.shape[0] as u64 } else { 1 };
            let [file, tensor] = *known.entry(name.clone()).or_insert_with(|| {
                let file = &mut self.files[number];
                let shape = stacked.map_or(shape.clone(), |[_, experts]| [&[experts], &shape[..]].concat());
                let all = bytes * experts as u64;
                file.tensors.push(Tensor { name, dtype, shape, at: file.bytes, bytes: all });
                file.bytes += all;
                [number, file.tensors.len() - 1]
            });
            Part { what, file, at: self.files[file].tensors[tensor].at + expert as u64 * bytes, row: bytes / rows, bytes }
        });
        let parts = each.collect();
        Place { module, parts }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether the disk has room for all of it.
    ///
    /// # Errors
    /// Says how much is needed and how much there is.
    pub fn check_room(&self, out: &Path) -> Result<(), Error> {
        let Ok(about) = rustix::fs::statvfs(files::parent(out)) else { return Ok(()) };
        let (free, need) = (about.f_bavail.saturating_mul(about.f_frsize), self.bytes());
        if free < need {
            let reason = format!("needs {}, and its disk has {} left: free some or give another place", size::show(need), size::show(free));
            return Err(Error::File { path: out.into(), reason });
        }
        Ok(())
    }

    /// The name of a file.
    pub fn name(&self, file: usize) -> String {
        if self.files.len() == 1 { SINGLE.into() } else { format!("model-{:05}-of-{:05}.safetensors", file + 1, self.files.len()) }
    }

    /// The index of several files.
    pub fn index(&self) -> Option<String> {
        if self.files.len() == 1 {
            return None;
        }
        let mut map = Map::new();
        for (number, file) in self.files.iter().enumerate() {
            map.extend(file.tensors.iter().map(|t| (t.name.clone(), Value::from(self.name(number)))));
        }
        Some(format!("{:#}\n", json!({ "metadata": { "total_size": self.bytes() }, "weight_map": map })))
    }
}

/// The module that a tensor is part of there, a vector's whole name; where the experts of a layer are one, which of how many.
type Named = (String, Option<[usize; 2]>);

fn module(description: &Description, target: Target, spec: &TensorSpec) -> Named {
    if let (Target::Mlx, Some(stacked), Some(expert)) = (target, description.stacked(spec), spec.expert) {
        let count = spec.layer.and_then(|l| description.mixture(l)).map_or(1, |m| m.num_experts);
        return (stacked, Some([expert, count]));
    }
    let name = if spec.kind.is_matrix() { spec.name.strip_suffix(".weight").unwrap_or(&spec.name) } else { &spec.name };
    (name.into(), None)
}

/// A header of safetensors, as long as a multiple of 8.
fn header(tensors: &[Tensor], format: &str) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({ "format": format }));
    for t in tensors {
        map.insert(t.name.clone(), json!({ "dtype": format!("{:?}", t.dtype), "shape": t.shape, "data_offsets": [t.at, t.at + t.bytes] }));
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut all = (text.len() as u64).to_le_bytes().to_vec();
    all.extend(text);
    all
}
