//! From what was typed to a model that runs, with progress on stderr.
use super::{
    args::{Args, Command},
    progress::Progress,
};
use ram_run::{
    Checkpoint, Error, Model, Plan, Request, Tokenizer,
    hub::{self, Hub, Place, Repository, Snapshot},
};
use std::path::PathBuf;

/// The bundled model, found beside the sources that this program was built from.
const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe");

/// The checkpoint asked for, or the bundled one; one at the hub is fetched first.
pub fn checkpoint(args: &Args) -> Result<Checkpoint, Error> {
    match place(args) {
        Place::Folder(folder) => Checkpoint::open(&folder),
        Place::Hub(repository) => Checkpoint::open(&fetch(args, &repository)?),
    }
}

/// The same to look at alone: weights that are not in the cache stay at the hub.
pub fn headers(args: &Args) -> Result<Checkpoint, Error> {
    let repository = match place(args) {
        Place::Folder(folder) => return Checkpoint::open(&folder),
        Place::Hub(repository) => repository,
    };
    let hub = Hub::from_env(args.offline)?;
    let snapshot = Snapshot::find(&hub, &repository, "config.json")?;
    fetching(|progress| {
        let (folder, weights) = snapshot.texts(progress)?;
        if snapshot.has(&weights) { Checkpoint::open(&folder) } else { Checkpoint::open_remote(&snapshot, progress) }
    })
}

fn place(args: &Args) -> Place {
    let Some(name) = &args.model else { return Place::Folder(BUNDLED.into()) };
    let place = hub::place(name, &args.revision, matches!(args.command, Command::Chat(_)));
    if let Place::Hub(Repository { id, .. }) = &place
        && id != name
    {
        eprintln!("{name} is {id} here");
    }
    place
}

fn fetch(args: &Args, repository: &Repository) -> Result<PathBuf, Error> {
    let hub = Hub::from_env(args.offline)?;
    let snapshot = Snapshot::find(&hub, repository, "config.json")?;
    fetching(|progress| snapshot.whole(progress))
}

/// Runs what fetches files, with a line of progress for each.
pub fn fetching<T>(run: impl FnOnce(hub::Progress) -> Result<T, Error>) -> Result<T, Error> {
    let mut shown: Option<(String, u64, Progress)> = None;
    run(&mut |file, done, total| {
        if shown.as_ref().is_none_or(|(name, ..)| name != file) {
            shown = Some((file.into(), 0, Progress::new("fetching", total)));
        }
        if let Some((_, before, progress)) = &mut shown {
            // A file that begins again has fewer bytes than before.
            progress.show(done.saturating_sub(*before), file);
            *before = done;
        }
    })
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
