//! A plan as a page: one HTML file with nothing outside of it.
use super::{
    draw::{self, Curve, escape},
    output,
};
use crate::cli::Error;
use ram_run::{Entry, Limit, Measured, Plan, choose, size};
use std::{collections::BTreeMap, fmt::Write, path::Path};

/// Points of the curve of loss against size.
const POINTS: u64 = 40;

/// Writes the page of a model's plan beside its place and moves it there.
///
/// # Errors
/// Where it cannot be written; a plan that could not be made is left out of the curve.
pub fn write(path: &Path, model: &Path, measured: &Measured, plan: &Plan) -> Result<(), Error> {
    output::write(path, &page(model, measured, plan))
}

fn page(model: &Path, measured: &Measured, plan: &Plan) -> String {
    let name = model.file_name().map_or("model".into(), |n| n.to_string_lossy());
    let name = escape(&name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width\"/><title>{name}: plan {}</title>\n<style>{}{STYLE}</style></head><body>\n<h1>{name}</h1>\n",
        plan.fingerprint,
        draw::STYLE
    );
    let facts = [
        ("bits per weight", format!("{:.3}", plan.bits_per_weight)),
        ("weights", size::show(plan.weight_bytes)),
        ("parameters", millions(plan.parameters)),
        ("expected KL divergence", format!("{} nats per token", draw::loss(plan.expected_kl))),
        ("objective", plan.method.to_string()),
        ("plan", plan.fingerprint.clone()),
    ];
    out += "<dl>";
    for (what, value) in facts {
        let _ = write!(out, "<div><dt>{what}</dt><dd>{}</dd></div>", escape(&value));
    }
    out += "</dl>\n<h2>Memory of the process</h2>\n";
    out += &memory(plan);
    out += "<h2>Bits per weight, by kind and layer</h2>\n";
    out += &heat(plan);
    out += "<h2>Bytes by kind</h2>\n";
    out += &bars(plan);
    out += "<h2>What more memory would buy</h2>\n";
    out += &curve(measured, plan);
    out += &next(measured, plan);
    out + "</body></html>\n"
}

fn millions(numbers: u64) -> String {
    if numbers >= 1_000_000_000 { format!("{:.1} billion", numbers as f64 / 1e9) } else { format!("{:.1} million", numbers as f64 / 1e6) }
}

const STYLE: &str = "\
body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:var(--paper);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.6rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem;margin:0}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-variant-numeric:tabular-nums}.stack{display:flex;height:1.6rem;border-radius:4px;overflow:hidden}
.stack span{background:var(--c);min-width:1px}.key{display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;margin:.5rem 0 0;padding:0;list-style:none}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;background:var(--c);margin-right:.4rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}th{font-weight:500;color:var(--soft);text-align:left;padding:.1rem .6rem .1rem 0}
.heat tr:first-child th+th{text-align:center;padding:.1rem}.heat td{text-align:center;padding:.15rem .3rem;min-width:2.2rem;border:1px solid var(--paper);color:#10141a}.heat td.none{background:none}
.bars td{padding:.12rem .6rem .12rem 0}.bars .bar{width:26rem;max-width:45vw}.bars .bar div{background:var(--c0);height:.9rem;border-radius:2px}.num{text-align:right}
.next td,.next th{padding:.2rem 1.4rem .2rem 0}
";

fn memory(plan: &Plan) -> String {
    let m = &plan.memory;
    let mut parts = vec![("weights", m.weights), ("KV cache", m.kv_cache), ("scratch", m.scratch), ("everything else", m.other)];
    parts.extend(m.budget.map(|b| ("free", b.saturating_sub(m.total))));
    let (mut bar, mut key) = (String::from("<div class=\"stack\">"), String::from("<ul class=\"key\">"));
    for (i, (name, bytes)) in parts.into_iter().enumerate() {
        // What is free has the colour of lines.
        let colour = if name == "free" { "style=\"--c:var(--line);flex:" } else { "style=\"flex:" };
        let _ = write!(bar, "<span class=\"c{i}\" {colour}{bytes} 0 0\" title=\"{name} {}\"></span>", size::show(bytes));
        let colour = if name == "free" { " style=\"--c:var(--line)\"" } else { "" };
        let _ = write!(key, "<li class=\"c{i}\"{colour}><i></i>{name} {}</li>", size::show(bytes));
    }
    let budget = m.budget.map_or(String::new(), |b| {
        format!("<p>{} of a budget of {}, for {} tokens of context</p>", size::show(m.total), size::show(b), plan.context)
    });
    format!("{bar}</div>\n{key}</ul>{budget}\n")
}

fn numbers(e: &Entry) -> u64 {
    e.spec.shape.iter().product::<usize>() as u64
}

fn matrices(plan: &Plan) -> impl Iterator<Item = &Entry> {
    plan.entries.iter().filter(|e| e.spec.kind.is_matrix())
}

/// A colour from amber (2 bits) over green to blue (8 and more), all light enough for dark ink.
fn colour(bits: f64) -> String {
    let t = ((bits.log2() - 1.0) / 2.0).clamp(0.0, 1.0);
    format!("hsl({:.0} 62% {:.0}%)", 38.0 + 172.0 * t, 74.0 - 6.0 * t)
}

fn heat(plan: &Plan) -> String {
    let layers = matrices(plan).filter_map(|e| e.spec.layer).max().map_or(0, |l| l + 1);
    let mut kinds: Vec<String> = Vec::new();
    // Bytes, numbers, and how often each format comes.
    type Cell = (u64, u64, BTreeMap<String, usize>);
    let mut cells: BTreeMap<(String, Option<usize>), Cell> = BTreeMap::new();
    for e in matrices(plan) {
        let kind = e.spec.kind.to_string();
        if !kinds.contains(&kind) {
            kinds.push(kind.clone());
        }
        let cell = cells.entry((kind, e.spec.layer)).or_default();
        cell.0 += e.bytes;
        cell.1 += numbers(e);
        *cell.2.entry(e.format.to_string()).or_default() += 1;
    }
    let cell = |key: &(String, Option<usize>), span: usize| {
        let Some((bytes, numbers, formats)) = cells.get(key) else { return "<td class=\"none\"></td>".into() };
        let bits = 8.0 * *bytes as f64 / *numbers as f64;
        let formats: Vec<String> = formats.iter().map(|(f, n)| if *n == 1 { f.clone() } else { format!("{f} x{n}") }).collect();
        let shown = if layers > 24 { format!("{bits:.0}") } else { format!("{bits:.1}") };
        format!("<td colspan=\"{span}\" style=\"background:{}\" title=\"{bits:.3} bits: {}\">{shown}</td>", colour(bits), formats.join(", "))
    };
    let mut out = String::from("<div class=\"wide\"><table class=\"heat\"><tr><th>layer</th>");
    (0..layers).for_each(|l| out += &format!("<th>{l}</th>"));
    out += "</tr>\n";
    for kind in kinds {
        let _ = write!(out, "<tr><th>{kind}</th>");
        if cells.contains_key(&(kind.clone(), None)) {
            out += &cell(&(kind, None), layers.max(1));
        } else {
            (0..layers).for_each(|l| out += &cell(&(kind.clone(), Some(l)), 1));
        }
        out += "</tr>\n";
    }
    out + "</table></div>\n<p>Mean over a layer's experts; hold the pointer over a cell for its formats.</p>\n"
}

fn bars(plan: &Plan) -> String {
    let mut kinds: Vec<(String, u64, u64)> = Vec::new();
    for e in matrices(plan) {
        let kind = e.spec.kind.to_string();
        match kinds.iter_mut().find(|k| k.0 == kind) {
            Some(k) => (k.1, k.2) = (k.1 + e.bytes, k.2 + numbers(e)),
            None => kinds.push((kind, e.bytes, numbers(e))),
        }
    }
    kinds.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let most = kinds.first().map_or(1, |k| k.1.max(1));
    let mut out = String::from("<table class=\"bars\">\n");
    for (kind, bytes, numbers) in kinds {
        let (share, bits) = (100.0 * bytes as f64 / most as f64, 8.0 * bytes as f64 / numbers as f64);
        let _ = writeln!(
            out,
            "<tr><th>{kind}</th><td class=\"bar\"><div style=\"width:{share:.1}%\"></div></td><td class=\"num\">{}</td><td class=\"num\">{bits:.2} bits</td></tr>",
            size::show(bytes)
        );
    }
    out + "</table>\n"
}

/// The unit that sizes of about `bytes` are shown in.
fn unit(bytes: u64) -> (f64, &'static str) {
    if bytes >= 2_000_000_000 { (1e9, "GB") } else { (1e6, "MB") }
}

fn curve(measured: &Measured, plan: &Plan) -> String {
    let (least, most) = measured.range();
    let (scale, unit) = unit(most);
    // Nearly all that happens, happens well below 16 bits; but this plan is always on it.
    let top = (least + (most - least) * 6 / 10).max(plan.weight_bytes.min(most));
    let sizes = (0..=POINTS).map(|i| least + (top - least) * i / POINTS);
    let plans = sizes.filter_map(|bytes| choose(measured, Limit::Weights(bytes)).ok());
    let points = plans.map(|p| (p.weight_bytes as f64 / scale, p.expected_kl)).collect();
    let curves = [Curve { name: "expected KL".into(), points, dots: false }];
    let words = format!("this plan, {}", size::show(plan.weight_bytes));
    draw::plot(&format!("weights, {unit}"), "expected KL divergence, nats per token", &curves, Some((plan.weight_bytes as f64 / scale, &words)))
}

/// Plans a little larger than this one: what they lose less, and what changes.
fn next(measured: &Measured, plan: &Plan) -> String {
    let now = plan.weight_bytes;
    let mut steps =
        vec![("now".to_string(), now), ("+5 %".into(), now + now / 20), ("+10 %".into(), now + now / 10), ("+25 %".into(), now + now / 4)];
    if now > 2_000_000_000 {
        steps.push(("+1 GB".into(), now + 1_000_000_000));
    }
    steps.sort_by_key(|s| s.1);
    let mut out = String::from(
        "<table class=\"next\"><tr><th>weights</th><th></th><th>bits per weight</th><th>expected KL divergence</th><th>tensors with another format</th></tr>\n",
    );
    for (name, bytes) in steps {
        let Ok(p) = choose(measured, Limit::Weights(bytes)) else { continue };
        let changed: Vec<(&Entry, &Entry)> = plan.entries.iter().zip(&p.entries).filter(|(a, b)| a.format != b.format).collect();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        changed.iter().for_each(|(e, _)| *kinds.entry(e.spec.kind.to_string()).or_default() += 1);
        let kinds: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
        let _ = writeln!(
            out,
            "<tr><td>{name}</td><td>{}</td><td>{:.3}</td><td>{}</td><td>{}</td></tr>",
            size::show(p.weight_bytes),
            p.bits_per_weight,
            draw::loss(p.expected_kl),
            kinds.join(", ")
        );
    }
    out + "</table>\n"
}
