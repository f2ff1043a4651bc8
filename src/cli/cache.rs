//! `ram-run cache`: packed weights that are kept for the next start.
use super::{
    args::{CacheArgs, CacheCommand},
    print,
};
use crate::cli::Error;
use ram_run::{
    packed::{self, Entry, Kept},
    size,
};
use std::fs;

/// Lists, removes, verifies, cleans up.
pub fn run(a: &CacheArgs) -> Result<(), Error> {
    let folder = packed::folder().ok_or_else(|| Error::Usage("there is no place for a cache: set RAM_RUN_CACHE or HOME".into()))?;
    let entries = packed::list(&folder)?;
    match &a.command {
        CacheCommand::Ls => {
            for e in &entries {
                print(&format!("{}  {:>9}  {}\n", name(e), size::show(e.bytes), about(e)))?;
            }
            let total = entries.iter().map(|e| e.bytes).sum();
            print(&format!("{} entries, {} in {}\n", entries.len(), size::show(total), folder.display()))
        }
        CacheCommand::Rm { names, all } => {
            for n in names {
                if !entries.iter().any(|e| name(e).starts_with(n)) {
                    return Err(Error::Usage(format!("cache rm {n}: no entry begins so; `ram-run cache ls` shows them")));
                }
            }
            for e in entries.iter().filter(|e| *all || names.iter().any(|n| name(e).starts_with(n))) {
                fs::remove_file(&e.path).map_err(Error::io(&e.path))?;
                print(&format!("removed {} ({})\n", name(e), size::show(e.bytes)))?;
            }
            Ok(())
        }
        CacheCommand::Verify => {
            let mut damaged = 0;
            for e in &entries {
                let good = packed::verify(&e.path);
                damaged += usize::from(!good);
                print(&format!("{}  {}\n", name(e), if good { "ok" } else { "damaged" }))?;
            }
            if damaged == 0 {
                return Ok(());
            }
            Err(Error::Failed(format!(
                "{damaged} of {} entries are damaged: the next run makes them again, `ram-run cache rm` removes them",
                entries.len()
            )))
        }
        CacheCommand::Gc { keep } => print(&format!("freed {}\n", size::show(packed::gc(&folder, *keep)?))),
    }
}

fn name(e: &Entry) -> String {
    e.path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

fn about(e: &Entry) -> String {
    match &e.kept {
        Kept::Packed { plan, bits_per_weight } => format!("{bits_per_weight:.2} bits per weight, plan {plan}, {}", e.model),
        Kept::Survey => format!("survey of {}", e.model),
        Kept::Unknown => "of another version".into(),
    }
}
