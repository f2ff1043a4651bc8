//! From what was typed to a model that runs, with progress on stderr.
use super::{
    args::{Args, Command, Keep, TargetName},
    bundled,
    progress::Progress,
    refine,
};
use crate::cli::{Error, note};
use ram_run::{
    Available, Checkpoint, Limit, Loaded, Measured, MeasuredParts, Method, Model, Plan, Request, Survey, Tokenizer,
    hub::{self, Hub, Place, Repository, Snapshot},
    packed::{self, Found},
    size,
};
use std::path::{Path, PathBuf};

/// The checkpoint asked for, or the bundled one. One at the hub is fetched first, but where its weights are only looked at
/// or not kept: then those that are not in the cache stay there.
pub fn checkpoint(args: &Args) -> Result<Checkpoint, Error> {
    let repository = match place(args)? {
        Place::Folder(folder) => return Ok(Checkpoint::open(&folder)?),
        Place::Hub(repository) => repository,
    };
    let hub = Hub::from_env(args.offline)?;
    let snapshot = Snapshot::find(&hub, &repository, "config.json")?;
    let opened = fetching(|progress| {
        if !args.no_keep && !reads_parts(&args.command) {
            return Checkpoint::open(&snapshot.whole(progress)?);
        }
        let (folder, weights) = snapshot.texts(progress)?;
        if snapshot.has(&weights) { Checkpoint::open(&folder) } else { Checkpoint::open_remote(&snapshot, progress) }
    })?;
    Ok(opened)
}

/// Whether a command reads little of the weights, so that those at the hub stay there.
fn reads_parts(command: &Command) -> bool {
    match command {
        Command::Plan(_) | Command::Inspect(_) | Command::Measure(_) => true,
        Command::Pack(a) => a.part.is_some() || !a.parts.is_empty(),
        Command::Export(a) => a.to == TargetName::GgufRecipe,
        _ => false,
    }
}

fn place(args: &Args) -> Result<Place, Error> {
    let own = match &args.command {
        Command::Inspect(a) => a.of.as_ref(),
        Command::Compare(a) => a.of.as_ref(),
        _ => None,
    };
    let Some(name) = own.or(args.model.as_ref()) else { return bundled::folder().map(Place::Folder) };
    let place = hub::place(name, &args.revision, talks(&args.command))?;
    // An address says its repository itself.
    if let Place::Hub(Repository { id, .. }) = &place
        && !name.contains(id.as_str())
    {
        note(&format!("{name} is {id} here"));
    }
    Ok(place)
}

/// Whether a command is for conversations: then a short name means the model that was made for them.
fn talks(command: &Command) -> bool {
    #[cfg(feature = "server")]
    if matches!(command, Command::Serve(_)) {
        return true;
    }
    matches!(command, Command::Chat(_))
}

/// Runs what fetches files, with a line of progress for each.
pub fn fetching<T>(run: impl FnOnce(hub::Progress) -> Result<T, ram_run::Error>) -> Result<T, ram_run::Error> {
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
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, ram_run::Error> {
    Tokenizer::open(checkpoint.folder(), checkpoint.description().vocab_size)
}

/// The plan of a request, with progress.
pub fn plan(checkpoint: &Checkpoint, request: &Request) -> Result<Plan, ram_run::Error> {
    let progress = Progress::new("planning", weights(checkpoint));
    ram_run::plan(checkpoint, request, &|n| progress.add(n as u64))
}

/// The plan that was asked for: of all that is known of the weights, or was measured elsewhere.
pub fn planned(args: &Args, checkpoint: &Checkpoint, request: Request) -> Result<Plan, Error> {
    let limit = request.limit;
    Ok(ram_run::choose(&measured(args, checkpoint, request)?, limit)?)
}

/// What it is chosen from, with progress.
pub fn measured(args: &Args, checkpoint: &Checkpoint, request: Request) -> Result<Measured, Error> {
    if !args.curves.is_empty() {
        let parts = given_curves(args)?;
        parts.check(checkpoint)?;
        return measured_elsewhere(args, &parts, request);
    }
    let request = surveyed(args, checkpoint, request)?;
    let progress = Progress::new("planning", weights(checkpoint));
    Ok(ram_run::measure(checkpoint, &request, &|n| progress.add(n as u64))?)
}

/// The same of measurements alone, with the survey that is given.
pub fn measured_elsewhere(args: &Args, parts: &MeasuredParts, mut request: Request) -> Result<Measured, Error> {
    request.survey = given_survey(args)?.map(Into::into);
    Ok(parts.measured(&request)?)
}

/// What `--curves` names.
pub fn given_curves(args: &Args) -> Result<MeasuredParts, Error> {
    match args.curves.iter().find(|path| !path.exists()) {
        Some(path) => Err(Error::file(path, "is not there: all that follows --curves are files, other arguments stand before it")),
        None => Ok(MeasuredParts::read(&args.curves)?),
    }
}

/// What `--survey` names.
pub fn given_survey(args: &Args) -> Result<Option<Survey>, Error> {
    let Some(path) = &args.survey else { return Ok(None) };
    let wrong = || Error::file(path, "is no survey of this version, or damaged: write it again with `ram-run survey`");
    Ok(Some(Survey::read(path).ok_or_else(wrong)?))
}

/// The request with what is known of all weights, where that is of use: kept from before, else looked at now, with progress; and with the
/// model's own text where that was asked for.
pub fn surveyed(args: &Args, checkpoint: &Checkpoint, request: Request) -> Result<Request, Error> {
    if args.refine {
        refine::check(args, checkpoint, &request)?;
    }
    let mut request = plainly_surveyed(args, checkpoint, request)?;
    if args.refine {
        request.survey = Some(refine::survey(args, checkpoint, &request, weights(checkpoint))?.into());
    }
    Ok(request)
}

/// The same without text.
pub fn plainly_surveyed(args: &Args, checkpoint: &Checkpoint, mut request: Request) -> Result<Request, Error> {
    if checkpoint.is_remote() && !args.no_survey && args.survey.is_none() && request.method == Method::Kl {
        note("the weights are at the hub, so this plan comes without a survey: once they are here, it will be a better one");
    }
    if args.no_survey || (args.survey.is_none() && !Survey::possible(checkpoint)) || !request.method.asks_survey() {
        return Ok(request);
    }
    // What cannot be is said before minutes are spent.
    ram_run::check(checkpoint, &request)?;
    let kept = match (packed::folder(), args.cache) {
        (None, _) | (_, Keep::Off) => None,
        (Some(_), Keep::Auto) if 2 * weights(checkpoint) < WORTH_KEEPING => None,
        (Some(folder), _) => Some(Survey::path(&folder, checkpoint)?),
    };
    let survey = match given_survey(args)? {
        None => kept.as_deref().and_then(Survey::read),
        given => given,
    };
    let survey = match survey {
        Some(survey) => survey,
        None => {
            let progress = Progress::new("surveying", weights(checkpoint));
            let survey = Survey::measure(checkpoint, &|n| progress.add(n as u64))?;
            drop(progress);
            if let Some(Err(e)) = kept.map(|path| survey.write(&path)) {
                note(&format!("the survey is not kept for the next start: {e}"));
            }
            survey
        }
    };
    request.survey = Some(survey.into());
    Ok(request)
}

/// What is asked for; where no size is, the memory that is free, less a margin.
pub fn request(args: &Args) -> Result<Request, Error> {
    Ok(limited(args.request()?))
}

/// The same for a request that is more than what was typed.
pub fn limited(mut request: Request) -> Request {
    if request.limit == Limit::None
        && let Some(free) = ram_run::available()
    {
        let budget = default_budget(&free);
        request.limit = Limit::Process(budget);
        note(&format!("budget {}: {} of {}, less a margin (--budget SIZE sets another)", size::show(budget), size::show(free.bytes), free.limit));
    }
    request
}

/// A tenth is left to others, at most 1 GB: the page cache that loading runs through, and what starts meanwhile.
pub fn default_budget(free: &Available) -> u64 {
    free.bytes - (free.bytes / 10).min(1_000_000_000)
}

/// The model that a plan describes, with progress.
pub fn model(args: &Args, checkpoint: &Checkpoint, plan: &Plan) -> Result<Model, Error> {
    Ok(Model::new(checkpoint, plan, &loaded(args, checkpoint, plan)?)?)
}

/// Its weights: from the cache where they lie there, else quantized and put there.
pub fn loaded(args: &Args, checkpoint: &Checkpoint, plan: &Plan) -> Result<Loaded, Error> {
    if let (Some(budget), Some(machine)) = (plan.memory.budget, ram_run::available())
        && budget > machine.total
    {
        let total = size::show(machine.total);
        return Err(Error::Usage(format!("--budget {}: this machine has {total}; leave it out to use what is free", size::show(budget))));
    }
    let talks = matches!(args.command, Command::Chat(_) | Command::Generate(_)) && !args.quiet;
    let Some(path) = cached(args, checkpoint, plan)? else {
        if talks {
            refine::hint(checkpoint, plan);
        }
        return Ok(quantize(args, checkpoint, plan, None)?);
    };
    let read = {
        let progress = Progress::new("loading", plan.weight_bytes);
        packed::read(&path, plan, &|n| progress.add(n as u64))?
    };
    match read {
        Found::Whole(weights) => return Ok(weights),
        Found::Nothing if talks => refine::hint(checkpoint, plan),
        Found::Nothing => {}
        Found::Damaged(why) => note(&format!("{}: {why}; quantizing again", path.display())),
    }
    let journal = plan.survey.text().map(|_| packed::journal(&path));
    let weights = quantize(args, checkpoint, plan, journal.as_deref())?;
    let progress = Progress::new("caching", plan.weight_bytes);
    match packed::write(&path, checkpoint, plan, &weights, &|n| progress.add(n as u64)) {
        // What is left of it then is the cache's to collect.
        Ok(()) => drop(journal.map(std::fs::remove_file)),
        Err(e) => {
            drop(progress);
            note(&format!("the packed weights are not kept for the next start: {e}"));
        }
    }
    Ok(weights)
}

/// The same, whatever the cache has: for plans that are tried once.
pub fn uncached(args: &Args, checkpoint: &Checkpoint, plan: &Plan) -> Result<Model, ram_run::Error> {
    Model::new(checkpoint, plan, &quantize(args, checkpoint, plan, None)?)
}

fn quantize(args: &Args, checkpoint: &Checkpoint, plan: &Plan, journal: Option<&Path>) -> Result<Loaded, ram_run::Error> {
    if checkpoint.is_remote() {
        return fetching(|progress| ram_run::load_arriving(checkpoint, plan, !args.no_keep, progress, &|_| ()));
    }
    let progress = Progress::new(if args.refine { "refining" } else { "quantizing" }, weights(checkpoint));
    match journal {
        Some(journal) => ram_run::load_resuming(checkpoint, plan, journal, &|n| progress.add(n as u64)),
        None => ram_run::load(checkpoint, plan, &|n| progress.add(n as u64)),
    }
}

/// Bytes of weights from which packed ones are kept: smaller models quantize in a second.
const WORTH_KEEPING: u64 = 256 << 20;

fn cached(args: &Args, checkpoint: &Checkpoint, plan: &Plan) -> Result<Option<PathBuf>, ram_run::Error> {
    let wanted = match args.cache {
        _ if matches!(args.command, Command::Pack(_)) => true,
        Keep::Always => true,
        Keep::Off => false,
        // Weights as they came are quantized by nobody.
        Keep::Auto if plan.survey.text().is_some() => true,
        Keep::Auto => plan.weight_bytes >= WORTH_KEEPING && plan.method != Method::Dense && !checkpoint.is_quantized(),
    };
    match packed::folder() {
        Some(folder) if wanted => packed::path(&folder, checkpoint, plan).map(Some),
        _ => Ok(None),
    }
}

/// Numbers of all matrices.
pub fn weights(checkpoint: &Checkpoint) -> u64 {
    checkpoint.specs().iter().filter(|s| s.kind.is_matrix()).map(|s| s.shape.iter().product::<usize>() as u64).sum()
}
