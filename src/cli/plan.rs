//! `ram-run plan`: the plan as a table folded by layer and kind, or as JSON.
use super::{
    args::{Args, PlanArgs},
    draw, open, output, page, print,
};
use crate::cli::{Error, note};
use ram_run::{Entry, Measured, Plan, Request, size};
use std::{collections::BTreeMap, fmt::Write};

/// Prints the plan.
pub fn run(args: &Args, a: &PlanArgs) -> Result<(), Error> {
    a.html.iter().try_for_each(|path| output::check(path))?;
    // What is free is looked at, and said, once there is something to plan.
    let measured = |how: &dyn Fn(Request) -> Result<Measured, Error>| {
        let request = open::request(args)?;
        let limit = request.limit;
        Ok::<_, Error>((how(request)?, limit))
    };
    // What was measured elsewhere needs no checkpoint; one that is named is looked at whether it is the same.
    let (model, (measured, limit)) = if args.curves.is_empty() || args.model.is_some() {
        let checkpoint = open::checkpoint(args)?;
        let measured = measured(&|request| open::measured(args, &checkpoint, request))?;
        if let Some((fetched, size)) = checkpoint.fetched() {
            note(&format!("fetched {} of {} of weights ({fetched} of {size} bytes)", size::show(fetched), size::show(size)));
        }
        (checkpoint.folder().to_path_buf(), measured)
    } else {
        let parts = open::given_curves(args)?;
        (parts.model().into(), measured(&|request| open::measured_elsewhere(args, &parts, request))?)
    };
    let plan = ram_run::choose(&measured, limit)?;
    if let Some(path) = &a.html {
        page::write(path, &model, &measured, &plan)?;
    }
    if a.json {
        let json = serde_json::to_string_pretty(&plan).map_err(|e| Error::Failed(e.to_string()))?;
        return print(&format!("{json}\n"));
    }
    print(&table(&plan))
}

/// One line per layers and kind that have the same formats, then the totals.
pub fn table(plan: &Plan) -> String {
    let mut out = kinds(plan);
    let m = &plan.memory;
    let _ = writeln!(out, "\n{} parameters, {} weight bytes, {:.3} bits per weight", plan.parameters, plan.weight_bytes, plan.bits_per_weight);
    let _ =
        writeln!(out, "objective {}, effort {}, expected KL divergence {} nats per token", plan.method, plan.effort, draw::loss(plan.expected_kl));
    let _ = write!(out, "memory: weights {}, KV cache {} ({} tokens), ", size::show(m.weights), size::show(m.kv_cache), plan.context);
    let _ = write!(out, "scratch {}, everything else {}: {}", size::show(m.scratch), size::show(m.other), size::show(m.total));
    let _ = writeln!(out, "{}", m.budget.map_or(String::new(), |b| format!(" of {}", size::show(b))));
    let _ = writeln!(out, "plan {}", plan.fingerprint);
    out
}

/// One line per layers and kind that have the same formats.
pub fn kinds(plan: &Plan) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<12} {:<13} {:<28} {:>7} {:>12} {:>10} {:>10}", "layers", "kind", "formats", "bits", "bytes", "error", "loss");
    for row in rows(plan) {
        let (bytes, numbers) = (row.entries.iter().map(|e| e.bytes).sum::<u64>(), row.entries.iter().map(|e| numbers(e)).sum::<u64>());
        let error = row.entries.iter().map(|e| e.error).sum::<f64>() / row.entries.len() as f64;
        let loss = row.entries.iter().map(|e| e.loss()).sum::<f64>();
        let bits = 8.0 * bytes as f64 / numbers as f64;
        let [error, loss] = [error, loss].map(draw::loss);
        let _ = writeln!(out, "{:<12} {:<13} {:<28} {bits:>7.3} {bytes:>12} {error:>10} {loss:>10}", row.layers, row.kind, row.formats);
    }
    out
}

struct Row<'a> {
    layers: String,
    kind: String,
    formats: String,
    entries: Vec<&'a Entry>,
}

fn numbers(e: &Entry) -> u64 {
    e.spec.shape.iter().product::<usize>() as u64
}

/// Formats of a group of tensors with their counts, most first.
fn formats(entries: &[&Entry]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for e in entries {
        *counts.entry(e.format.to_string()).or_default() += 1;
    }
    if counts.len() == 1 {
        return counts.into_keys().collect();
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    counts.iter().map(|(f, n)| format!("{f} x{n}")).collect::<Vec<_>>().join(", ")
}

/// Kinds in the model's order; runs of layers with equal formats share a row.
fn rows(plan: &Plan) -> Vec<Row<'_>> {
    let mut order: Vec<String> = Vec::new();
    let mut groups: BTreeMap<(String, Option<usize>), Vec<&Entry>> = BTreeMap::new();
    for e in &plan.entries {
        let kind = e.spec.kind.to_string();
        if !order.contains(&kind) {
            order.push(kind.clone());
        }
        groups.entry((kind, e.spec.layer)).or_default().push(e);
    }
    let mut rows: Vec<Row> = Vec::new();
    for kind in order {
        let mut run: Option<(usize, usize, Row)> = None;
        for ((_, layer), entries) in groups.range((kind.clone(), None)..).take_while(|((k, _), _)| *k == kind) {
            let formats = formats(entries);
            let Some(layer) = *layer else {
                rows.push(Row { layers: "-".into(), kind: kind.clone(), formats, entries: entries.clone() });
                continue;
            };
            match &mut run {
                Some((_, last, row)) if row.formats == formats && *last + 1 == layer => {
                    *last = layer;
                    row.entries.extend(entries);
                }
                _ => {
                    rows.extend(run.take().map(labelled));
                    run = Some((layer, layer, Row { layers: String::new(), kind: kind.clone(), formats, entries: entries.clone() }));
                }
            }
        }
        rows.extend(run.take().map(labelled));
    }
    rows
}

fn labelled((first, last, row): (usize, usize, Row)) -> Row {
    Row { layers: if first == last { first.to_string() } else { format!("{first}-{last}") }, ..row }
}
