//! `ram-run doctor`: what this machine has, and which known models fit.
use super::{
    args::{Args, DoctorArgs},
    open, print,
};
use crate::cli::Error;
use ram_run::{hub::Hub, packed, peak_rss, size};
use serde_json::json;

/// Parameters of the models that people ask for (from their published weight files).
const KNOWN: [(&str, f64); 5] = [
    ("Qwen/Qwen1.5-MoE-A2.7B", 14.3e9),
    ("Qwen/Qwen3-30B-A3B", 30.5e9),
    ("mistralai/Mixtral-8x7B", 46.7e9),
    ("Qwen/Qwen2-57B-A14B", 57.4e9),
    ("Qwen/Qwen3-235B-A22B", 235.1e9),
];
/// Left to KV cache, scratch and program; `plan` says it exactly.
const BESIDES: f64 = 1.5e9;
/// Bits per weight below which no plan is made, and those of what is published.
const BITS: std::ops::RangeInclusive<f64> = 2.3..=16.0;

/// Looks and tells.
pub fn run(args: &Args, a: &DoctorArgs) -> Result<(), Error> {
    let level = ram_run::isa().map_err(Error::Usage)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let free = ram_run::available();
    let budget = args.budget.or(free.as_ref().map(open::default_budget));
    let bandwidth = ram_run::bandwidth_bytes(budget).map(|bytes| (bytes, ram_run::read_bandwidth(bytes)));
    let folder = packed::folder();
    let entries = folder.as_deref().map(packed::list).transpose()?.unwrap_or_default();
    let cached: u64 = entries.iter().map(|e| e.bytes).sum();
    let hub = Hub::from_env(false)?;
    let (hub_folder, hub_bytes) = hub.cached();
    let bits = |parameters: f64| budget.map(|b| (8.0 * (b as f64 - BESIDES) / parameters).min(*BITS.end())).filter(|b| b >= BITS.start());
    // The smallest budget, rounded up to what is shown of it.
    let least = |parameters: f64| ((parameters * BITS.start() / 8.0 + BESIDES) / 1e8).ceil() as u64 * 100_000_000;
    if a.json {
        let models = KNOWN.map(
            |(name, parameters)| json!({"model": name, "parameters": parameters, "bits_per_weight": bits(parameters), "least_budget": least(parameters)}),
        );
        let text = json!({
            "processor": processor(), "kernels": format!("{level:?}"), "cores": cores, "memory": free.as_ref().map(|f| f.total),
            "available": free.as_ref().map(|f| f.bytes), "limit": free.as_ref().map(|f| f.limit.clone()), "budget": budget,
            "read_bandwidth": bandwidth.map(|b| b.1), "peak_rss": peak_rss(), "cache": folder, "cache_entries": entries.len(), "cache_bytes": cached, "hub_cache": hub_folder,
            "hub_cache_bytes": hub_bytes, "token": hub.looked(), "models": models,
        });
        return print(&format!("{text:#}\n"));
    }
    let mut text = format!("processor   {}, {cores} cores; kernels for {level:?}\n", processor());
    if let Some(free) = &free {
        text += &format!("memory      {}, free {} ({})\n", size::show(free.total), size::show(free.bytes), free.limit);
    }
    if let Some(budget) = budget {
        let source = if args.budget.is_some() { "as --budget says" } else { "unless --budget says another" };
        text += &format!("budget      {} {source}\n", size::show(budget));
    }
    text += &match bandwidth {
        Some((bytes, rate)) => format!("bandwidth   {:.1} GB/s read by all threads ({}, out of no cache)\n", rate / 1e9, size::show(bytes as u64)),
        None => "bandwidth   not measured: the budget leaves no memory for it\n".into(),
    };
    if let Some(folder) = folder {
        text += &format!("cache       {} ({} entries, {})\n", folder.display(), entries.len(), size::show(cached));
    }
    text += &format!("hub         {} ({}); token: {}\n", hub_folder.display(), size::show(hub_bytes), hub.looked());
    for (name, parameters) in KNOWN {
        let verdict = match bits(parameters) {
            Some(b) if b == *BITS.end() => "as published, 16 bits per weight".into(),
            Some(b) => format!("{b:.1} bits per weight"),
            None => format!("does not fit: it takes {} at least", size::show(least(parameters))),
        };
        text += &format!("fits        {name:<24} {verdict}\n");
    }
    print(&text)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, v)| v.trim().to_string()));
    name.unwrap_or_else(|| "unknown".into())
}
