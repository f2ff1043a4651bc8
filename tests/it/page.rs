//! Pages and pictures: whole, self-contained, the same every time, and with the numbers of the plan.
use crate::cli::{command, json, refused, stdout, text};

/// Tags that are opened and closed in order; panics where they are not.
fn tags(page: &str) -> Vec<&str> {
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    for tag in page.split('<').skip(1).map(|rest| rest.split_once('>').expect("a tag ends").0) {
        let name = tag.split([' ', '/']).find(|w| !w.is_empty()).expect("a name");
        if tag.starts_with('!') || tag.ends_with('/') {
            seen.push(tag);
        } else if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed in another order");
        } else {
            open.push(name);
            seen.push(tag);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    seen
}

#[test]
fn a_plan_is_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plan.html");
    let path = path.to_str().expect("UTF-8");
    let plan = json(&["--weights", "6MB", "plan", "--json", "--html", path]);
    let page = std::fs::read_to_string(path).expect("a page");
    let seen = tags(&page);
    assert!(seen.iter().any(|t| t.starts_with("polyline")), "the curve");
    for kind in ["embed", "q", "k", "v", "o", "router", "gate", "up", "down", "head"] {
        assert!(page.contains(&format!("<th>{kind}</th>")), "{kind}");
    }
    assert!(page.contains(plan["fingerprint"].as_str().expect("a text")));
    assert!(page.contains(&format!("{:.3}", plan["bits_per_weight"].as_f64().expect("a number"))));
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("http"), "nothing outside of it");
    stdout(&["--weights", "6MB", "--threads", "3", "plan", "--html", path]);
    assert!(page == std::fs::read_to_string(path).expect("a page"), "the same again");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    refused(&["--weights", "6MB", "plan", "--html", "/nowhere/plan.html"], 1, &["/nowhere/plan.html", "no folder /nowhere"]);
}

/// The attributes of a tag, as numbers.
fn at(tag: &str, name: &str) -> f64 {
    tag.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).expect(name)
}

#[test]
fn every_plan_lies_within_its_curve() {
    let folder = tempfile::tempdir().expect("a folder");
    for budget in ["47.8MB", "48MB", "64MB", "24GB"] {
        let path = folder.path().join("plan.html");
        let table = stdout(&["--budget", budget, "plan", "--html", path.to_str().expect("UTF-8")]);
        let page = std::fs::read_to_string(&path).expect("a page");
        for text in [&table, &page] {
            assert!(!text.contains("0.00000"), "{budget}: small losses are told apart: {text}");
        }
        let seen = tags(&page);
        let mark = seen.iter().find(|t| t.starts_with("line class=\"mark\"")).expect("this plan");
        let (x, grid) = (at(mark, "x1"), seen.iter().filter(|t| t.starts_with("line class=\"grid\"")));
        let (left, right) = grid.fold((f64::MAX, 0.0f64), |b, t| (b.0.min(at(t, "x1")), b.1.max(at(t, "x2"))));
        assert!((left..=right).contains(&x), "{budget}: {x} of {left} to {right}");
        let polyline = seen.iter().find(|t| t.starts_with("polyline")).expect("the curve");
        let points = polyline.split("points=\"").nth(1).and_then(|p| p.split('"').next()).expect("points");
        let ends: Vec<f64> = points.split(' ').map(|p| p.split(',').next().and_then(|x| x.parse().ok()).expect("a number")).collect();
        // Where nothing is lost, a logarithm ends one step before.
        assert!(ends[0] - 1.0 <= x && x <= ends[ends.len() - 1] + 20.0, "{budget}: the curve does not reach {x}: {points}");
    }
}

#[test]
fn pictures_need_nothing_but_attributes() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures");
    let mut pictures = 0;
    for path in std::fs::read_dir(root).expect("a folder").map(|e| e.expect("an entry").path()) {
        let text = std::fs::read_to_string(&path).expect("a picture");
        plain(&text);
        pictures += 1;
    }
    assert!(pictures >= 3);
}

/// Every part has its colour as viewers without style sheets need it.
fn plain(picture: &str) {
    assert!(!picture.contains("var(") && !picture.contains("<style") && !picture.contains("style=") && !picture.contains("currentColor"));
    for tag in tags(picture) {
        let needs = match tag.split(' ').next() {
            Some("text" | "circle" | "rect") => "fill=\"#",
            Some("line" | "polyline") => "stroke=\"#",
            _ => continue,
        };
        assert!(tag.contains(needs), "{tag}");
    }
}

#[test]
fn a_comparison_is_a_table_and_a_picture() {
    let (folder, path) = text();
    let (markdown, svg) = (folder.path().join("c.md"), folder.path().join("c.svg"));
    let names = [&path, &markdown, &svg].map(|p| p.to_str().expect("UTF-8"));
    let args = ["--text", names[0], "--window", "64", "--max-windows", "4", "--markdown", names[1], "--svg", names[2], "--at", "a4g64"];
    let model = "models/tiny-qwen3-moe";
    let shown = stdout(&[&["--weights", "6MB", "compare", model][..], &args].concat());
    assert_eq!(shown, std::fs::read_to_string(&markdown).expect("a table"));
    let rows: Vec<&str> = shown.lines().filter(|l| l.starts_with("| ")).collect();
    // A head, dense, five methods at the bytes of a4g64 and four at 6 MB.
    assert_eq!(rows.len(), 1 + 1 + 5 + 4, "{shown}");
    let picture = std::fs::read_to_string(&svg).expect("a picture");
    assert_eq!(tags(&picture).iter().filter(|t| t.starts_with("polyline")).count(), 5);
    assert_eq!(picture.matches("<circle").count(), 9);
    plain(&picture);
}

#[test]
fn a_checkpoint_is_described() {
    let about = json(&["inspect", "models/tiny-qwen3-moe", "--json"]);
    let config = &about["config"];
    for (key, value) in [("num_local_experts", 16), ("num_experts_per_tok", 4)] {
        assert_eq!(config[key], value, "{config}");
    }
    let file: serde_json::Value = serde_json::from_str(include_str!("../../models/tiny-qwen3-moe/config.json")).expect("JSON");
    assert_eq!(*config, file);
    let plan = json(&["--dense", "plan", "--json"]);
    assert_eq!(about["parameters"], plan["parameters"]);
    let sum: u64 = about["tensors"].as_array().expect("a list").iter().map(|t| t["parameters"].as_u64().expect("a number")).sum();
    assert_eq!(Some(sum), plan["parameters"].as_u64());
    assert!(about["active_parameters"].as_u64() < about["parameters"].as_u64());
    assert!(stdout(&["inspect"]).contains("4 of 16 experts per token"));
    let version = stdout(&["--version"]);
    assert!(version.contains("packed format") && version.contains("scalar"), "{version}");
    let bench = json(&["--weights", "6MB", "bench", "-p", "16", "-n", "8", "-d", "0,32", "--parallel", "1,3", "-r", "2", "--json"]);
    let tests: Vec<&str> = bench["tests"].as_array().expect("a list").iter().map(|t| t["test"].as_str().expect("a text")).collect();
    assert_eq!(tests, ["pp16", "tg8", "tg8 x 3", "pp16 @ 32", "tg8 @ 32", "tg8 x 3 @ 32"]);
    assert!(bench["read_bandwidth"].as_f64() > Some(1e8));
    assert_eq!(command(&["bench", "--csv", "--json"]).output().expect("runs").status.code(), Some(2));
}

#[test]
fn the_doctor_answers_for_a_budget() {
    let free = json(&["doctor", "--json"]);
    assert!(free["peak_rss"].as_u64() < Some(200_000_000), "{}", free["peak_rss"]);
    assert!(free["read_bandwidth"].as_f64() > Some(0.0));
    assert!(stdout(&["doctor"]).contains("mistralai/Mixtral-8x7B"));
    for (budget, fits) in [("2GB", 0), ("8GB", 1), ("24GB", 4), ("1TB", 5)] {
        let said = json(&["-b", budget, "doctor", "--json"]);
        let models = said["models"].as_array().expect("a list");
        assert_eq!(models.iter().filter(|m| m["bits_per_weight"].is_number()).count(), fits, "{budget}: {said}");
        for m in models {
            let fits = m["least_budget"].as_u64() <= said["budget"].as_u64();
            assert_eq!(fits, m["bits_per_weight"].is_number(), "{m}");
        }
    }
    let text = stdout(&["doctor", "-b", "2GB"]);
    assert!(text.contains("2.00 GB as --budget says") && text.contains("does not fit: it takes 5.70 GB at least"), "{text}");
    // Below the budget, or nothing is measured.
    let small = json(&["-b", "64MB", "doctor", "--json"]);
    assert!(small["peak_rss"].as_u64() < Some(64_000_000), "{small}");
    assert!(json(&["-b", "1MB", "doctor", "--json"])["read_bandwidth"].is_null());
    let bench = json(&["--budget", "64MB", "bench", "-p", "16", "-r", "1", "--json"]);
    assert!(bench["peak_rss"].as_u64() < Some(64_000_000), "{}", bench["peak_rss"]);
    assert_eq!(bench["tests"].as_array().map(Vec::len), Some(1));
}
