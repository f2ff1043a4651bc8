//! What can be typed for `export`.
use clap::{Args as Group, ValueEnum};
use std::{num::NonZeroUsize, path::PathBuf};

#[derive(Group)]
pub struct ExportArgs {
    /// The engine
    #[arg(long, value_enum)]
    pub to: TargetName,
    /// The folder that is made; for gguf-recipe the file
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Processors that will share every matrix (vLLM's --tensor-parallel-size): groups of inputs end where theirs do
    #[arg(long, value_name = "N", default_value = "1")]
    pub tp: NonZeroUsize,
    /// What was written, every module by name, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum TargetName {
    Mlx,
    Vllm,
    /// Types for llama.cpp's own quantizer, as a file for llama-quantize --tensor-type-file
    GgufRecipe,
}
