//! `/metrics`: for Prometheus, in its text format 0.0.4.
use crate::{Shared, problem::Problem};
use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// All of it.
pub async fn show(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let ready = shared.ready()?;
    let (engine, plan) = (&ready.served.engine, &ready.served.engine.model().plan);
    let (status, memory) = (engine.status(), &plan.memory);
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
        let _ = writeln!(out, "# HELP ramrun_{name} {help}\n# TYPE ramrun_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "ramrun_{name}{labels} {value}");
        }
    };
    let isa = ram_engine::isa().map_or_else(|_| "unknown".into(), |level| format!("{level:?}").to_lowercase());
    let info = format!("{{version=\"{}\",isa=\"{isa}\",plan=\"{}\"}}", env!("CARGO_PKG_VERSION"), plan.fingerprint);
    family("build_info", "gauge", "What is running.", &[(&info, 1.0)]);
    if let Some(budget) = memory.budget {
        family("memory_budget_bytes", "gauge", "What the process may take.", &[("", budget as f64)]);
    }
    if let Some(now) = ram_engine::rss() {
        family("memory_rss_bytes", "gauge", "What the process takes.", &[("", now as f64)]);
    }
    if let Some(peak) = ram_engine::peak_rss() {
        family("memory_peak_bytes", "gauge", "The most that it took.", &[("", peak as f64)]);
    }
    let parts = [
        ("{part=\"weights\"}", memory.weights as f64),
        ("{part=\"kv\"}", memory.kv_cache as f64),
        ("{part=\"scratch\"}", memory.scratch as f64),
        ("{part=\"other\"}", memory.other as f64),
    ];
    family("memory_bytes", "gauge", "What the plan sets aside.", &parts);
    let kv = [
        ("{state=\"capacity\"}", status.kv_tokens as f64),
        ("{state=\"active\"}", status.kv_active as f64),
        ("{state=\"cached\"}", status.kv_kept as f64),
    ];
    family("kv_tokens", "gauge", "Tokens whose keys and values there is room for, are computed with, are kept.", &kv);
    family("requests_running", "gauge", "Answers that are computed.", &[("", status.running as f64)]);
    family("requests_queued", "gauge", "Answers that wait.", &[("", status.waiting as f64)]);
    let ends =
        [("{end=\"done\"}", status.ended as f64), ("{end=\"cancelled\"}", status.cancelled as f64), ("{end=\"failed\"}", status.failed as f64)];
    family("answers_total", "counter", "Answers that are over.", &ends);
    family("answers_begun_total", "counter", "Answers that were asked for.", &[("", shared.answers.load(Relaxed) as f64)]);
    family("preemptions_total", "counter", "Answers that gave their memory to others for a while.", &[("", status.preempted as f64)]);
    family("prompt_tokens_total", "counter", "Tokens of prompts.", &[("", status.prompt_tokens as f64)]);
    family("prompt_tokens_cached_total", "counter", "Of them, those that had been computed.", &[("", status.cached_tokens as f64)]);
    family("generated_tokens_total", "counter", "Tokens that were chosen.", &[("", status.generated_tokens as f64)]);
    family("passes_total", "counter", "Forward passes.", &[("", status.passes as f64)]);
    family("computing_seconds_total", "counter", "Time in forward passes.", &[("", status.computing.as_secs_f64())]);
    shared.times.write(&mut out);
    let mut response = Response::new(out.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    Ok(response)
}
