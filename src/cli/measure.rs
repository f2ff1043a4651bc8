//! `ram-run measure`: what a plan measures, of a part of the checkpoint, as a file.
use super::{
    args::{Args, MeasureArgs},
    open, output, print,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{PartOf, size};

/// Measures, writes, and says what was read.
pub fn run(args: &Args, a: &MeasureArgs) -> Result<(), Error> {
    output::check(&a.out)?;
    let checkpoint = open::checkpoint(args)?;
    let mut request = args.request()?;
    request.survey = open::given_survey(args)?.map(Into::into);
    let part = a.part.unwrap_or(PartOf::WHOLE);
    let progress = Progress::new("measuring", open::weights(&checkpoint) / part.of() as u64);
    let measured = ram_run::measure_part(&checkpoint, &request, part, &|n| progress.add(n as u64))?;
    drop(progress);
    measured.write(&a.out)?;
    let (matrices, fetched) = (measured.matrices(), checkpoint.fetched().map(|(fetched, _)| fetched));
    if a.json {
        let json = serde_json::json!({ "part": part.number(), "of": part.of(), "matrices": matrices, "fetched_bytes": fetched, "file": a.out });
        return print(&format!("{json}\n"));
    }
    let fetched = fetched.map_or(String::new(), |fetched| format!(", {} fetched", size::show(fetched)));
    print(&format!("{}: part {part}, {matrices} matrices{fetched}\n", a.out.display()))
}
