//! What can be typed for work that several machines share.
use clap::Args as Group;
use ram_run::PartOf;
use std::path::PathBuf;

#[derive(Group)]
pub struct SurveyArgs {
    /// The file that is made
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
}

#[derive(Group)]
pub struct MeasureArgs {
    /// Which part of how many, 1/4 to 4/4 of four: it reads its own tensors alone [default: all]
    #[arg(long, value_name = "I/N", value_parser = |s: &str| s.parse::<PartOf>())]
    pub part: Option<PartOf>,
    /// The file that is made
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What was measured, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Group)]
pub struct PackArgs {
    /// Which part of how many, 1/4 to 4/4 of four: it reads its own tensors alone
    #[arg(long, value_name = "I/N", requires = "out", value_parser = |s: &str| s.parse::<PartOf>())]
    pub part: Option<PartOf>,
    /// The file of that part
    #[arg(long, value_name = "FILE", requires = "part")]
    pub out: Option<PathBuf>,
    /// Files of all parts, to be put together in the cache
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["part", "out"])]
    pub parts: Vec<PathBuf>,
    /// What was packed, as JSON
    #[arg(long)]
    pub json: bool,
}
