//! What was looked at of a part of a checkpoint, as a file: put together, all parts give the plan that one machine would have made, bit for bit,
//! and need no weights for it.
//!
//! A file is two lines of JSON: a version with a checksum, then [`Contents`]. Numbers are written so that they are read back as they were.
use super::{
    measured::{Known, Measured, Published, measured_of, prepared, tokenizer_bytes},
    rd_curve::{Curve, Point, rows_looked_at},
    request::Request,
    seen::{Seen, look},
};
use crate::{Checkpoint, Error, PartOf, files};
use ram_kernels::Format;
use ram_models::{Description, TensorSpec};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_64;

/// Of this file and of how weights are looked at.
const VERSION: u32 = 1;
/// Bytes of a file at most: a model of 10^12 weights has 70,000 matrices, with 30 numbers each 50 MB.
const LONGEST: u64 = 4 << 30;

#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "ram-run measurements")]
    version: u32,
    checksum: String,
}

/// What was measured of one part of a checkpoint ([`measure_part`]).
#[derive(Serialize, Deserialize)]
pub struct MeasuredPart {
    number: usize,
    of: usize,
    /// Where the checkpoint was, for people.
    model: String,
    /// Which it was, wherever it lies.
    content: String,
    fingerprint: String,
    config: String,
    /// Bytes of tokenizer.json.
    tokenizer: u64,
    effort: String,
    /// The checksum of the survey by which channels were scaled.
    survey: Option<String>,
    /// u of the head, of the part that has it.
    head: Option<f64>,
    /// ||r||^2 of every row of a layer's router.
    routers: BTreeMap<usize, Vec<f64>>,
    /// Formats that matrices were measured in.
    menus: Vec<Vec<String>>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Serialize, Deserialize)]
struct Tensor {
    /// What keeps it as it is.
    own: String,
    /// Codes that it is published in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coded: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    by_columns: bool,
    /// The number of its menu.
    menu: usize,
    /// Squared relative errors by that; none where it only stays what it is.
    errors: Vec<f64>,
    /// Mean square of its weights.
    square: Option<f64>,
}

/// Looks at a part of a checkpoint, for plans by this request or one like it. `done` is told the number of weights of each matrix.
///
/// # Errors
/// As for [`measure`](super::measure()), and [`Error::Mismatch`] for weights that are quantized already: of these nothing is to be measured.
pub fn measure_part(checkpoint: &Checkpoint, request: &Request, part: PartOf, done: &(dyn Fn(usize) + Sync)) -> Result<MeasuredPart, Error> {
    if checkpoint.is_quantized() {
        let folder = checkpoint.folder().display();
        return Err(Error::Mismatch(format!("the weights of {folder} are quantized already: there is nothing to measure, plan it as it is")));
    }
    let (Measured { effort, survey, .. }, all) = prepared(checkpoint, request)?;
    let own = part.tensors(checkpoint, &work);
    let seen = look(checkpoint, &all, effort, survey.as_deref(), &|spec| own.contains(spec.name.as_str()), done)?;
    let mut menus: Vec<Vec<String>> = Vec::new();
    let mut tensors = BTreeMap::new();
    for spec in checkpoint.specs().iter().filter(|spec| own.contains(spec.name.as_str())) {
        let curve = seen.curves.get(&spec.name);
        let points = curve.map_or(&[][..], |curve| &curve.points);
        let menu: Vec<String> = points.iter().map(|point| point.format.to_string()).collect();
        let number = menus.iter().position(|known| *known == menu).unwrap_or(menus.len());
        if number == menus.len() {
            menus.push(menu);
        }
        let tensor = Tensor {
            own: checkpoint.own_format(&spec.name).to_string(),
            coded: checkpoint.published(&spec.name).map(|format| format.to_string()),
            by_columns: checkpoint.by_columns(&spec.name),
            menu: number,
            errors: points.iter().map(|point| point.error).collect(),
            square: curve.and_then(|curve| curve.square),
        };
        tensors.insert(spec.name.clone(), tensor);
    }
    Ok(MeasuredPart {
        number: part.number(),
        of: part.of(),
        model: checkpoint.folder().display().to_string(),
        content: checkpoint.content_anywhere()?,
        fingerprint: checkpoint.fingerprint(),
        config: checkpoint.config().into(),
        tokenizer: tokenizer_bytes(checkpoint),
        effort: effort.to_string(),
        survey: survey.map(|survey| survey.checksum()),
        head: seen.head,
        routers: seen.routers,
        menus,
        tensors,
    })
}

/// Weights of a matrix that are coded in every format.
fn work(spec: &TensorSpec) -> u64 {
    if spec.kind.is_matrix() { (rows_looked_at(spec.shape[0]) * spec.shape[1]) as u64 } else { 0 }
}

impl MeasuredPart {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        files::write_whole(path, |file| {
            let contents = serde_json::to_string(self)?;
            let header = Header { version: VERSION, checksum: format!("{:016x}", xxh3_64(contents.as_bytes())) };
            writeln!(file, "{}", serde_json::to_string(&header)?)?;
            writeln!(file, "{contents}")
        })
    }

    /// How many matrices it has.
    pub fn matrices(&self) -> usize {
        self.tensors.values().filter(|tensor| !tensor.errors.is_empty()).count()
    }

    fn read(path: &Path) -> Result<MeasuredPart, Error> {
        let bad = |reason: &str| Error::File { path: path.into(), reason: format!("{reason}: write it again with `ram-run measure`") };
        let text = files::text(path, LONGEST)?;
        let (header, contents) = text.split_once('\n').ok_or_else(|| bad("holds no measurements"))?;
        let header: Header = serde_json::from_str(header).map_err(|_| bad("holds no measurements"))?;
        if header.version != VERSION {
            return Err(bad("holds measurements of another version"));
        }
        let contents = contents.trim_end();
        if header.checksum != format!("{:016x}", xxh3_64(contents.as_bytes())) {
            return Err(bad("is damaged"));
        }
        serde_json::from_str(contents).map_err(|_| bad("is damaged"))
    }

    fn part(&self) -> Option<PartOf> {
        PartOf::new(self.number, self.of)
    }
}

/// All parts of a checkpoint's measurements.
pub struct MeasuredParts {
    model: String,
    content: String,
    fingerprint: String,
    description: Description,
    specs: Vec<TensorSpec>,
    published: HashMap<String, Kept>,
    tokenizer: u64,
    effort: String,
    survey: Option<String>,
    seen: Seen,
}

/// What keeps a tensor as it is published.
#[derive(Clone, Copy)]
struct Kept {
    own: Format,
    coded: Option<Format>,
    by_columns: bool,
}

impl MeasuredParts {
    /// Reads the files of all parts, in any order.
    ///
    /// # Errors
    /// Names the file that is damaged, of another checkpoint or measured otherwise, or given twice as it were; or the part that is missing.
    pub fn read(paths: &[PathBuf]) -> Result<MeasuredParts, Error> {
        let mut parts: Vec<(&Path, MeasuredPart)> = Vec::new();
        for path in paths {
            let part = MeasuredPart::read(path)?;
            let bad = |reason: String| Err(Error::File { path: path.clone(), reason });
            let Some(own) = part.part() else { return bad("is damaged: write it again with `ram-run measure`".into()) };
            if let Some((other, first)) = parts.first() {
                let other = other.display();
                if part.content != first.content {
                    return bad(format!("was measured of {}, and {other} of {}, which is another checkpoint", part.model, first.model));
                }
                if (&part.effort, &part.survey) != (&first.effort, &first.survey) {
                    return bad(format!("was not measured as {other} was: give both the same --effort and --survey"));
                }
                if part.of != first.of {
                    return bad(format!("is part {own}, and {other} is one of {}: give the parts of one division", first.of));
                }
            }
            if let Some((other, _)) = parts.iter().find(|(_, known)| known.number == part.number) {
                return bad(format!("is part {own}, and so is {}: give one of both", other.display()));
            }
            parts.push((path, part));
        }
        let Some((path, first)) = parts.first() else { return Err(Error::Mismatch("no measurements are given".into())) };
        let of = first.of;
        if let Some(missing) = (1..=of).find(|number| parts.iter().all(|(_, part)| part.number != *number)) {
            let reason = format!("is one of {of} parts, and part {missing} is not given: write it with `ram-run measure --part {missing}/{of}`");
            return Err(Error::File { path: path.to_path_buf(), reason });
        }
        MeasuredParts::together(parts)
    }

    fn together(mut parts: Vec<(&Path, MeasuredPart)>) -> Result<MeasuredParts, Error> {
        parts.sort_by_key(|(_, part)| part.number);
        let (path, first) = &parts[0];
        let damaged = |path: &Path| Error::File { path: path.into(), reason: "is damaged: write it again with `ram-run measure`".into() };
        let mut description = Description::from_json(&first.config).map_err(|source| Error::Config { path: path.to_path_buf(), source })?;
        description.adopt_names(parts.iter().flat_map(|(_, part)| part.tensors.keys().map(String::as_str)));
        let specs = description.tensors();
        let mut by_name: HashMap<&str, &TensorSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        let mut all = MeasuredParts {
            model: first.model.clone(),
            content: first.content.clone(),
            fingerprint: first.fingerprint.clone(),
            description,
            specs: specs.clone(),
            published: HashMap::new(),
            tokenizer: first.tokenizer,
            effort: first.effort.clone(),
            survey: first.survey.clone(),
            seen: Seen::default(),
        };
        for (path, part) in parts {
            let bad = || damaged(path);
            let format = |name: &String| name.parse::<Format>().map_err(|_| bad());
            let menus = part.menus.iter().map(|menu| menu.iter().map(format).collect::<Result<Vec<_>, _>>());
            let menus = menus.collect::<Result<Vec<_>, _>>()?;
            all.seen.head = all.seen.head.or(part.head);
            all.seen.routers.extend(part.routers);
            for (name, tensor) in part.tensors {
                let spec = by_name.remove(name.as_str()).ok_or_else(bad)?;
                let kept = Kept { own: format(&tensor.own)?, coded: tensor.coded.as_ref().map(format).transpose()?, by_columns: tensor.by_columns };
                all.published.insert(name.clone(), kept);
                let menu = menus.get(tensor.menu).filter(|menu| menu.len() == tensor.errors.len()).ok_or_else(bad)?;
                if spec.kind.is_matrix() {
                    let bytes = |format: Format| format.bytes(spec.shape[0], spec.shape[1]) as u64;
                    let points = menu.iter().zip(tensor.errors).map(|(&format, error)| Point { format, bytes: bytes(format), error });
                    all.seen.curves.insert(name, Curve { points: points.collect(), square: tensor.square });
                }
            }
        }
        match by_name.into_keys().min() {
            Some(name) => Err(Error::MissingTensor(name.into())),
            None => Ok(all),
        }
    }

    /// The folder of the checkpoint that they were measured of.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether they were measured of this checkpoint.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where they were not.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        if self.content == checkpoint.content_anywhere()? {
            return Ok(());
        }
        let folder = checkpoint.folder().display();
        Err(Error::Mismatch(format!("the measurements are those of {}, and {folder} is another checkpoint: measure that one", self.model)))
    }

    /// What plans are chosen from, without a weight.
    ///
    /// # Errors
    /// As for [`measure`](super::measure()), and [`Error::Mismatch`] for a request that they were not measured for.
    pub fn measured(&self, request: &Request) -> Result<Measured, Error> {
        let kept = |spec: &TensorSpec| self.published[&spec.name];
        let published = Published { own: &|spec| kept(spec).own, coded: &|spec| kept(spec).coded, by_columns: &|spec| kept(spec).by_columns };
        let known =
            Known { fingerprint: &self.fingerprint, description: &self.description, specs: &self.specs, published, tokenizer: self.tokenizer };
        let measured = measured_of(&known, &self.seen, request)?;
        if measured.effort.to_string() != self.effort {
            let reason = format!("the measurements are for effort {}, not {}: give the same --effort", self.effort, measured.effort);
            return Err(Error::Mismatch(reason));
        }
        match (&self.survey, measured.survey.as_ref().map(|survey| survey.checksum())) {
            (own, given) if *own == given => Ok(measured),
            (Some(_), None) => Err(Error::Mismatch("weights were measured by a survey: give the same file with --survey".into())),
            (None, Some(_)) => {
                Err(Error::Mismatch("weights were measured without a survey: leave --survey out, or measure them again with it".into()))
            }
            _ => Err(Error::Mismatch("weights were measured by another survey: give the same file with --survey".into())),
        }
    }
}
