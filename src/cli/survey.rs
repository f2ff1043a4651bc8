//! `ram-run survey`: what a plan looks at all weights for, as a file.
use super::{
    args::{Args, SurveyArgs},
    open, output,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::Survey;

/// Looks, and writes.
pub fn run(args: &Args, a: &SurveyArgs) -> Result<(), Error> {
    output::check(&a.out)?;
    let checkpoint = open::checkpoint(args)?;
    let progress = Progress::new("surveying", open::weights(&checkpoint));
    let survey = Survey::measure(&checkpoint, &|n| progress.add(n as u64))?;
    drop(progress);
    Ok(survey.write(&a.out)?)
}
