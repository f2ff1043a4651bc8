//! Plots as SVG: one linear axis, one logarithmic, curves with their names; colours follow the reader's light or dark.
use std::fmt::Write;

/// Text for XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Colours of up to six curves and of everything else, by class; readable on light and on dark.
pub const STYLE: &str = "\
:root{--ink:#1d2430;--soft:#5c6675;--line:#d4d9e1;--paper:#ffffff;--c0:#0b66c3;--c1:#c2410c;--c2:#7c3aed;--c3:#15803d;--c4:#b91c6b;--c5:#8a6d00}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#a2abba;--line:#3a4250;--paper:#14181f;--c0:#5aa9ff;--c1:#ff9c5a;--c2:#b79cff;--c3:#5fd38a;--c4:#ff7fbf;--c5:#e3c34d}}
svg text{font:13px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}svg .grid{stroke:var(--line);stroke-width:1}
svg polyline{fill:none;stroke-width:2}.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
svg .curve{stroke:var(--c)}svg .dot{fill:var(--c)}svg .name{fill:var(--c);font-weight:600}
";

/// A named curve.
pub struct Curve {
    /// Beside its last point.
    pub name: String,
    /// By rising x; y above 0.
    pub points: Vec<(f64, f64)>,
    /// Whether points are marked.
    pub dots: bool,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 82.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 52.0;

/// Curves over a linear x, with a logarithmic y; `mark` is an x with its own vertical line and words.
pub fn plot(x_title: &str, y_title: &str, curves: &[Curve], mark: Option<(f64, &str)>) -> String {
    let all = || curves.iter().flat_map(|c| &c.points).copied();
    let bounds = |values: &mut dyn Iterator<Item = f64>| values.fold((f64::INFINITY, f64::NEG_INFINITY), |b, v| (b.0.min(v), b.1.max(v)));
    let (x0, x1) = bounds(&mut all().map(|p| p.0));
    let (y0, y1) = bounds(&mut all().map(|p| p.1).filter(|y| *y > 0.0));
    let (x0, x1) = if x0.is_finite() { (x0 - 0.03 * (x1 - x0), x1 + 0.03 * (x1 - x0).max(1e-9)) } else { (0.0, 1.0) };
    let (y0, y1) = if y0.is_finite() { (y0.log10().floor(), y1.log10().ceil().max(y0.log10().floor() + 1.0)) } else { (-1.0, 0.0) };
    let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |v: f64| LEFT + (v - x0) / (x1 - x0) * (right - LEFT);
    let y = |v: f64| floor - (v.max(10f64.powf(y0)).log10() - y0) / (y1 - y0) * (floor - TOP);
    let mut out =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{}</title>\n", escape(y_title));
    for decade in y0 as i32..=y1 as i32 {
        let at = y(10f64.powi(decade));
        let _ = writeln!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let label = if (-4..=3).contains(&decade) { format!("{}", 10f64.powi(decade)) } else { format!("1e{decade}") };
        let _ = writeln!(out, "<text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, at + 4.0);
    }
    let step = step((x1 - x0) / 6.0);
    let mut tick = (x0 / step).ceil() * step;
    while tick <= x1 {
        let at = x(tick);
        let _ = writeln!(out, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>");
        // Rounded to what the step shows, so that 0.1 * 3 is 0.3.
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let _ = writeln!(out, "<text class=\"soft\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.digits$}</text>", floor + 18.0);
        tick += step;
    }
    if let Some((at, words)) = mark {
        let at = x(at);
        let _ = writeln!(out, "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{floor}\" stroke=\"var(--ink)\" stroke-dasharray=\"5 4\"/>");
        let (anchor, shift) = if at > (LEFT + right) / 2.0 { ("end", -7.0) } else { ("start", 7.0) };
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>", at + shift, TOP + 14.0, escape(words));
    }
    let mut names: Vec<(f64, usize)> = Vec::new();
    for (i, curve) in curves.iter().enumerate() {
        let points: Vec<String> = curve.points.iter().filter(|p| p.1 > 0.0).map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = writeln!(out, "<g class=\"c{}\"><polyline class=\"curve\" points=\"{}\"/>", i % 6, points.join(" "));
        for p in curve.points.iter().filter(|_| curve.dots) {
            let _ = writeln!(out, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>", x(p.0), y(p.1));
        }
        out += "</g>\n";
        names.extend(curve.points.last().map(|p| (y(p.1), i)));
    }
    // Names that would lie on each other move down.
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = f64::NEG_INFINITY;
    for (at, i) in names {
        let at = at.max(below + 16.0);
        below = at;
        let _ = writeln!(out, "<text class=\"name c{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", i % 6, right + 8.0, at + 4.0, escape(&curves[i].name));
    }
    let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", (LEFT + right) / 2.0, HEIGHT - 12.0, escape(x_title));
    let middle = (TOP + floor) / 2.0;
    let _ = writeln!(out, "<text transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n</svg>", escape(y_title));
    out
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= least * 0.999).unwrap_or(10.0 * power)
}

/// A plot as a file of its own.
pub fn file(plot: &str) -> String {
    let style = format!("<style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>");
    plot.replacen("</title>", &format!("</title>{style}"), 1)
}
