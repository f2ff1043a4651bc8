//! `ram-run export`: a plan as another engine's checkpoint.
use super::{
    args::{Args, ExportArgs, TargetName},
    draw, open, plan, print,
    progress::Progress,
};
use crate::cli::Error;
use ram_run::{Limit, Method, Request, Target, check_export, size};
use std::fmt::Write;

/// Makes the plan for its target, writes it, and says what was written.
pub fn run(args: &Args, a: &ExportArgs) -> Result<(), Error> {
    let target = match a.to {
        TargetName::Mlx if a.tp.get() > 1 => return Err(Error::Usage("--tp: MLX shares no matrix among processors: leave it out".into())),
        TargetName::Mlx => Target::Mlx,
        TargetName::Vllm => Target::Vllm { ranks: a.tp.get() },
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
