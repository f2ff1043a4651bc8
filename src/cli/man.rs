//! `ram-run man`: a page for the program and one for each command.
use super::{args::ManArgs, flags, print};
use crate::cli::Error;

/// Prints a page, or writes all of them.
pub fn run(a: &ManArgs) -> Result<(), Error> {
    let mut page = flags::shown().disable_help_subcommand(true);
    page.build();
    if let Some(folder) = &a.dir {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        return clap_mangen::generate_to(page, folder).map_err(Error::io(folder));
    }
    for name in &a.of {
        let Some(of) = page.find_subcommand(name) else {
            let known: Vec<&str> = page.get_subcommands().map(clap::Command::get_name).collect();
            let known = if known.is_empty() { "no commands".into() } else { known.join(", ") };
            return Err(Error::Usage(format!("man {}: {} has {known}", a.of.join(" "), page.get_bin_name().unwrap_or("ram-run"))));
        };
        page = of.clone();
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out).map_err(Error::io("stdout"))?;
    print(&String::from_utf8_lossy(&out))
}
