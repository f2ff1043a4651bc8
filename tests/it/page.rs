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
    refused(&["--weights", "6MB", "plan", "--html", "/nowhere/plan.html"], 4, &["/nowhere/plan.html"]);
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
    // A head, dense, four methods at the bytes of a4g64 and three at 6 MB.
    assert_eq!(rows.len(), 1 + 1 + 4 + 3, "{shown}");
    let picture = std::fs::read_to_string(&svg).expect("a picture");
    assert_eq!(tags(&picture).iter().filter(|t| t.starts_with("polyline")).count(), 4);
    assert_eq!(picture.matches("<circle").count(), 7);
}

#[test]
fn a_checkpoint_is_described() {
    let about = json(&["inspect", "models/tiny-qwen3-moe", "--json"]);
    let plan = json(&["--dense", "plan", "--json"]);
    assert_eq!(about["parameters"], plan["parameters"]);
    let sum: u64 = about["tensors"].as_array().expect("a list").iter().map(|t| t["parameters"].as_u64().expect("a number")).sum();
    assert_eq!(Some(sum), plan["parameters"].as_u64());
    assert!(about["active_parameters"].as_u64() < about["parameters"].as_u64());
    assert!(stdout(&["inspect"]).contains("4 of 16 per token"));
    assert!(stdout(&["doctor"]).contains("mistralai/Mixtral-8x7B"));
    let version = stdout(&["--version"]);
    assert!(version.contains("packed format") && version.contains("scalar"), "{version}");
    assert!(stdout(&["completions", "bash"]).contains("eval-ppl") && stdout(&["man"]).contains(".TH"));
    let bench = json(&["--weights", "6MB", "bench", "-p", "16", "-n", "8", "-d", "0,32", "-r", "2", "--json"]);
    let tests: Vec<&str> = bench["tests"].as_array().expect("a list").iter().map(|t| t["test"].as_str().expect("a text")).collect();
    assert_eq!(tests, ["pp16", "tg8", "pp16 @ 32", "tg8 @ 32"]);
    assert!(bench["read_bandwidth"].as_f64() > Some(1e8));
    assert_eq!(command(&["bench", "--csv", "--json"]).output().expect("runs").status.code(), Some(2));
}
