//! `ram-run pack`: packed weights before they are needed, also by several machines.
use super::{
    args::{Args, PackArgs},
    open, output, print,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{Checkpoint, Limit, PartOf, Plan, packed, size};
use std::path::Path;

/// Makes the plan, and packs what was asked for.
pub fn run(args: &Args, a: &PackArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let request = args.request()?;
    if request.limit == Limit::None && args.uniform.is_none() {
        return Err(Error::Usage("pack needs a size, as what is free changes: give --budget SIZE or --weights SIZE".into()));
    }
    if args.refine && (a.part.is_some() || !a.parts.is_empty()) {
        return Err(Error::Usage("--refine: error feedback needs the model from its first layer on: leave --part and --parts out".into()));
    }
    a.out.iter().try_for_each(|path| output::check(path))?;
    let plan = open::planned(args, &checkpoint, request)?;
    match (a.part, &a.out) {
        (Some(part), Some(out)) => write_part(&checkpoint, &plan, part, out)?,
        _ => into_cache(args, a, &checkpoint, &plan)?,
    }
    let path = match &a.out {
        Some(out) => out.clone(),
        None => packed::path(&folder()?, &checkpoint, &plan)?,
    };
    let bytes = path.metadata().map_err(Error::io(&path))?.len();
    if a.json {
        let json = serde_json::json!({ "file": path, "bytes": bytes, "plan": plan.fingerprint, "bits_per_weight": plan.bits_per_weight });
        return print(&format!("{json}\n"));
    }
    print(&format!("{}: {}, plan {}, {:.3} bits per weight\n", path.display(), size::show(bytes), plan.fingerprint, plan.bits_per_weight))
}

fn write_part(checkpoint: &Checkpoint, plan: &Plan, part: PartOf, out: &Path) -> Result<(), Error> {
    let progress = Progress::new("packing", open::weights(checkpoint) / part.of() as u64);
    Ok(ram_run::pack_part(checkpoint, plan, part, out, &|n| progress.add(n as u64))?)
}

fn into_cache(args: &Args, a: &PackArgs, checkpoint: &Checkpoint, plan: &Plan) -> Result<(), Error> {
    let path = packed::path(&folder()?, checkpoint, plan)?;
    if a.parts.is_empty() {
        return open::loaded(args, checkpoint, plan).map(|_| ());
    }
    let weights = {
        let progress = Progress::new("assembling", plan.weight_bytes);
        ram_run::assemble(checkpoint, plan, &a.parts, &|n| progress.add(n as u64))?
    };
    let progress = Progress::new("caching", plan.weight_bytes);
    Ok(packed::write(&path, checkpoint, plan, &weights, &|n| progress.add(n as u64))?)
}

fn folder() -> Result<std::path::PathBuf, Error> {
    packed::folder().ok_or_else(|| Error::Usage("there is no place for a cache: set RAM_RUN_CACHE or HOME".into()))
}
