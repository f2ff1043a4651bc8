//! `ram-run export`: a plan as another engine's checkpoint.
use super::{
    args::{Args, ExportArgs, TargetName},
    draw, open, output, plan, print,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{Limit, Method, Request, Target, check_export, check_recipe, size};
use std::fmt::Write;

/// Makes the plan for its target, writes it, and says what was written.
pub fn run(args: &Args, a: &ExportArgs) -> Result<(), Error> {
    let target = match a.to {
        TargetName::Mlx if a.tp.get() > 1 => return Err(Error::Usage("--tp: MLX shares no matrix among processors: leave it out".into())),
        TargetName::Mlx => Target::Mlx,
        TargetName::Vllm => Target::Vllm { ranks: a.tp.get() },
        TargetName::GgufRecipe => return recipe(args, a),
    };
    let checkpoint = open::checkpoint(args)?;
    let request = Request { method: Method::For(target), ..args.request()? };
    if request.limit == Limit::None && !checkpoint.is_quantized() {
        return Err(Error::Usage(
            "export needs a size: give --weights SIZE, the bytes of the weights, or --budget SIZE, what a process that runs them may take".into(),
        ));
    }
    // Family and place are looked at before the weights are.
    check_export(&checkpoint, target, &a.out)?;
    let request = open::surveyed(args, &checkpoint, request)?;
    let own = open::plan(&checkpoint, &request)?;
    let here = if checkpoint.is_quantized() {
        None
    } else {
        let request = Request { method: Method::Kl, pins: Vec::new(), limit: Limit::Weights(own.weight_bytes), ..request };
        Some(open::plan(&checkpoint, &request)?.expected_kl)
    };
    let weights = if args.refine { Some(open::loaded(args, &checkpoint, &own)?) } else { None };
    let progress = Progress::new("exporting", open::weights(&checkpoint));
    let exported = ram_run::export(&checkpoint, &own, weights.as_ref(), here, &a.out, &|n| progress.add(n as u64))?;
    drop(progress);
    if a.json {
        let json = serde_json::to_string_pretty(&exported).map_err(|e| Error::Failed(e.to_string()))?;
        return print(&format!("{json}\n"));
    }
    let mut said = plan::kinds(&own);
    let (bytes, bits) = (exported.weight_bytes, exported.bits_per_weight);
    let _ = writeln!(said, "\n{}: {bytes} bytes of weights ({}), {bits:.3} bits per weight", a.out.display(), size::show(bytes));
    let _ = write!(said, "expected KL divergence {} nats per token by {target}", draw::loss(exported.expected_kl));
    let _ = writeln!(said, "{}", here.map_or(String::new(), |here| format!(", {} by ram-run's own formats at as many bytes", draw::loss(here))));
    print(&said)
}

/// Writes types for llama.cpp's quantizer, and says how it is called with them.
fn recipe(args: &Args, a: &ExportArgs) -> Result<(), Error> {
    if a.tp.get() > 1 {
        return Err(Error::Usage("--tp: llama.cpp divides no matrix by inputs: leave it out".into()));
    }
    // What of a request has no meaning there.
    let without = [
        (args.refine, "--refine: llama.cpp's quantizer chooses the codes"),
        (!args.pin.is_empty(), "--pin: its formats are not llama.cpp's: change lines of the file"),
        (args.budget.is_some(), "--budget: what llama.cpp takes beside the weights is not known here: give --weights"),
    ];
    if let Some((_, why)) = without.iter().find(|(given, _)| *given) {
        return Err(Error::Usage((*why).into()));
    }
    let Some(weights) = args.weights else { return Err(Error::Usage("export --to gguf-recipe needs a size: give --weights SIZE".into())) };
    output::check(&a.out)?;
    let checkpoint = open::checkpoint(args)?;
    check_recipe(&checkpoint)?;
    let request = Request { method: Method::Kl, ..args.request()? };
    let survey = open::surveyed(args, &checkpoint, Request { limit: Limit::None, ..request })?.survey;
    let progress = Progress::new("planning", open::weights(&checkpoint));
    let recipe = ram_run::recipe(&checkpoint, survey.as_deref(), weights, &a.out, &|n| progress.add(n as u64))?;
    drop(progress);
    if a.json {
        let json = serde_json::to_string_pretty(&recipe).map_err(|e| Error::Failed(e.to_string()))?;
        return print(&format!("{json}\n"));
    }
    let mut said = String::new();
    for (name, tensor) in &recipe.tensors {
        let _ = writeln!(said, "{name:<32} {:<6} {:>12} {:>10}", tensor.format, tensor.bytes, draw::loss(tensor.loss));
    }
    let (bytes, bits) = (recipe.weight_bytes, recipe.bits_per_weight);
    let _ = writeln!(said, "\n{bytes} bytes of weights ({}), {bits:.3} bits per weight", size::show(bytes));
    let _ = writeln!(said, "expected KL divergence {} nats per token", draw::loss(recipe.expected_kl));
    let _ = writeln!(said, "llama-quantize --tensor-type-file {} MODEL-BF16.gguf OUT.gguf Q8_0", a.out.display());
    print(&said)
}
