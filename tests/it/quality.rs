//! What the plans are worth, on the trained checkpoints: at equal bytes against RAM's method and uniform affine formats, and
//! against what they themselves expect. Margins are wide enough for 24 windows; docs/quality.md has the numbers.
use crate::{
    cli::{json, stdout},
    examples::example,
    real::form,
};
use std::path::Path;

const MODELS: [&str; 3] = ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"];

/// A line of `ram-run compare`.
#[derive(Debug)]
struct Row {
    method: String,
    kl: f64,
    expected: f64,
}

/// Five rows per size, one trellis format for all and this project's plan the last.
fn compare(folder: &Path, text: &Path) -> Vec<Row> {
    let (folder, text) = (folder.to_str().expect("UTF-8"), text.to_str().expect("UTF-8"));
    let out = stdout(&["--model", folder, "compare", "--text", text, "--window", "256", "--max-windows", "24"]);
    eprintln!("{out}");
    let rows = out.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| method") && !l.starts_with("| dense"));
    let cells = rows.map(|l| l.split('|').map(str::trim).collect::<Vec<_>>());
    let number = |cell: &str| cell.parse::<f64>().expect("a number");
    cells.map(|c| Row { method: c[1].into(), kl: number(c[4]), expected: number(c[7]) }).collect()
}

#[test]
fn plans_lose_a_fraction_of_what_the_baselines_lose() {
    let Some(shared) = crate::parity::shared() else { return };
    let text = shared.join("data/wikitext-2-raw/wiki.test.raw");
    for model in MODELS {
        let table = compare(&shared.join("models").join(model), &text);
        let sizes: Vec<&[Row]> = table.chunks_exact(5).collect();
        assert_eq!((table.len(), sizes.len()), (20, 4), "{model}: {table:?}");
        // 3.5, 4.0, 4.5 and 5.0 bits per weight; measured are 1/13 to 1/17, 1/8 to 1/11, 1/10 to 1/15 and 1/5 to 1/20.
        for (rows, share) in sizes.iter().zip([1.0 / 5.0, 1.0 / 4.0, 1.0 / 4.0, 1.0 / 3.0]) {
            assert!(rows[3].method.starts_with("uniform t") && rows[4].method == "kl", "{rows:?}");
            let best = rows[..3].iter().map(|r| r.kl).fold(f64::INFINITY, f64::min);
            assert!(rows[4].kl <= share * best, "{model}: {rows:?}");
            assert!(rows[4].kl < rows[3].kl, "{model}: {rows:?}");
        }
        // At 4.0 bits better than RAM's method at 5.0: by a factor of 1.6 to 5.6.
        let ram = sizes[3][..3].iter().filter(|r| r.method.starts_with("ram")).map(|r| r.kl).fold(f64::INFINITY, f64::min);
        assert!(sizes[1][4].kl < ram, "{model}: {} against {ram}", sizes[1][4].kl);
        // What is expected is what is found, within a factor; and it orders plans that differ by more than a fifth.
        let own: Vec<&Row> = table.iter().filter(|r| r.method == "kl").collect();
        for row in &own {
            assert!((1.0 / 1.5..=1.5).contains(&(row.expected / row.kl)), "{model}: {row:?}");
        }
        for (a, b) in own.iter().flat_map(|a| own.iter().map(move |b| (a, b))) {
            assert!(a.kl <= 1.2 * b.kl || a.expected > b.expected, "{model}: {a:?} {b:?}");
        }
    }
}

/// A plan that gives every tensor its own format is worth making: at equal bytes it loses less than one format for all, which the same
/// survey scales.
#[test]
fn plans_lose_less_than_one_trellis_format_for_all() {
    let Some(shared) = crate::parity::shared() else { return };
    let text = shared.join("data/wikitext-2-raw/wiki.test.raw");
    let trained = MODELS.map(|name| (shared.join("models").join(name), ["256", "12"]));
    // At three bits the real model's plan loses 1.07 times what one format for all does (docs/quality.md).
    let models = trained.map(|(folder, windows)| (folder, windows, &["t2g64", "t3g64", "t4g64"][..]));
    for (folder, [window, windows], formats) in models.into_iter().chain(form("llama").map(|folder| (folder, ["512", "8"], &["t4g64"][..]))) {
        for format in formats {
            let run = |more: &[&str]| {
                let [model, text] = [&folder, &text].map(|p| p.to_str().expect("UTF-8"));
                let args = ["--model", model, "eval-ppl", "--text", text, "--window", window, "--max-windows", windows, "--kl", "--json"];
                json(&[&args[..], more].concat())
            };
            let uniform = run(&["--uniform", format]);
            let bytes = uniform["weight_bytes"].as_u64().expect("bytes").to_string();
            let own = run(&["--weights", &bytes]);
            let [own, uniform] = [own, uniform].map(|report| report["kl"].as_f64().expect("a number"));
            eprintln!("{} {format}: {own} by plan, {uniform}", folder.display());
            assert!(own < uniform, "{} {format}: {own} by plan, {uniform}", folder.display());
        }
    }
}

/// Sensitivities from the weights alone against measured ones: both plans at eleven sizes from 3 to 6 bits per weight, on the
/// checkpoint on which they are furthest apart (docs/quality.md has the others).
#[test]
fn plans_from_weights_alone_are_near_those_from_measured_sensitivities() {
    let Some(shared) = crate::parity::shared() else { return };
    let (model, text) = (shared.join("models/tiny-mixtral"), shared.join("data/wikitext-2-raw/wiki.test.raw"));
    let out = example("sensitivity", &[model.to_str().expect("UTF-8"), text.to_str().expect("UTF-8"), "8"]);
    eprintln!("{out}");
    let rows = out.lines().skip_while(|l| !l.contains("measured u")).skip(1).take_while(|l| !l.is_empty());
    let rows: Vec<Vec<f64>> = rows.map(|l| l.split_whitespace().map(|n| n.parse().expect("a number")).collect()).collect();
    assert_eq!(rows.len(), 11, "{out}");
    // The goal is 1.15, and with 16 windows it is 1.07; with these 8 it is 1.10, single sizes 0.98 to 1.38.
    let mean = rows.iter().map(|r| (r[1] / r[2]).ln()).sum::<f64>() / 11.0;
    assert!(mean.exp() < 1.2, "{}\n{out}", mean.exp());
    // 0.60 to 0.91 with 8 windows; the test above holds the goal of 1.5 with more.
    assert!(rows.iter().all(|r| (0.5..=2.0).contains(&(r[4] / r[1]))), "{out}");
}
