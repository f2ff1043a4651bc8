//! From what was typed to a model that runs, with progress on stderr.
use super::{args::Args, progress::Progress};
use ram_run::{Checkpoint, Error, Model, Plan, Request, Tokenizer};
use std::path::{Path, PathBuf};

/// The bundled model, found beside the sources that this program was built from.
const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe");

/// The checkpoint asked for, or the bundled one.
pub fn checkpoint(args: &Args) -> Result<Checkpoint, Error> {
    let folder = args.model.clone().unwrap_or_else(|| PathBuf::from(BUNDLED));
    Checkpoint::open(Path::new(&folder))
}

/// The checkpoint's tokenizer.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, Error> {
    Tokenizer::open(checkpoint.folder(), checkpoint.config().vocab_size)
}

/// The plan, with progress.
pub fn plan(checkpoint: &Checkpoint, request: &Request) -> Result<Plan, Error> {
    let progress = Progress::new("planning", weights(checkpoint));
    ram_run::plan(checkpoint, request, &|n| progress.add(n as u64))
}

/// The model that a plan describes, with progress.
pub fn model(checkpoint: &Checkpoint, plan: &Plan) -> Result<Model, Error> {
    let progress = Progress::new("quantizing", weights(checkpoint));
    Model::load(checkpoint, plan, &|n| progress.add(n as u64))
}

fn weights(checkpoint: &Checkpoint) -> u64 {
    checkpoint.specs().iter().filter(|s| s.kind.is_matrix()).map(|s| s.shape.iter().product::<usize>() as u64).sum()
}
