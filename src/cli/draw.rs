//! Plots as SVG: one linear axis, one logarithmic, curves with their names.
use std::fmt::Write;

/// Text for XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Colours of up to six curves, readable on white.
const COLOURS: [&str; 6] = ["#0b66c3", "#c2410c", "#7c3aed", "#15803d", "#b91c6b", "#8a6d00"];
const INK: &str = "#1d2430";
const SOFT: &str = "#5c6675";
const LINE: &str = "#d4d9e1";

/// Rules for a page that follows its reader's light or dark: there they hold over the attributes of its plots, which alone are a
/// picture on white.
pub const STYLE: &str = "\
:root{--ink:#1d2430;--soft:#5c6675;--line:#d4d9e1;--paper:#ffffff;--c0:#0b66c3;--c1:#c2410c;--c2:#7c3aed;--c3:#15803d;--c4:#b91c6b;--c5:#8a6d00}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#a2abba;--line:#3a4250;--paper:#14181f;--c0:#5aa9ff;--c1:#ff9c5a;--c2:#b79cff;--c3:#5fd38a;--c4:#ff7fbf;--c5:#e3c34d}}
svg{width:100%}svg .ink{fill:var(--ink)}svg .soft{fill:var(--soft)}svg .grid{stroke:var(--line)}svg .mark{stroke:var(--ink)}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
svg .curve{stroke:var(--c)}svg .fill{fill:var(--c)}
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
/// More than any letter of the font takes, and a line.
const LETTER: f64 = 8.0;
const HIGH: f64 = 16.0;

/// Curves over a linear x, with a logarithmic y; `mark` is an x with its own vertical line and words, and within the axes.
pub fn plot(x_title: &str, y_title: &str, curves: &[Curve], mark: Option<(f64, &str)>) -> String {
    let all = || curves.iter().flat_map(|c| &c.points).copied();
    let bounds = |values: &mut dyn Iterator<Item = f64>| values.fold((f64::INFINITY, f64::NEG_INFINITY), |b, v| (b.0.min(v), b.1.max(v)));
    let (x0, x1) = bounds(&mut all().map(|p| p.0).chain(mark.map(|m| m.0)));
    let (y0, y1) = bounds(&mut all().map(|p| p.1).filter(|y| *y > 0.0));
    let beside = if x1 > x0 { 0.03 * (x1 - x0) } else { 0.5 };
    let (x0, x1) = if x0.is_finite() { (x0 - beside, x1 + beside) } else { (0.0, 1.0) };
    let (y0, y1) = if y0.is_finite() { (y0.log10().floor(), y1.log10().ceil().max(y0.log10().floor() + 1.0)) } else { (-1.0, 0.0) };
    let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |v: f64| LEFT + (v - x0) / (x1 - x0) * (right - LEFT);
    let y = |v: f64| floor - (v.max(10f64.powf(y0)).log10() - y0) / (y1 - y0) * (floor - TOP);
    let lines: Vec<Vec<(f64, f64)>> = curves.iter().map(|c| c.points.iter().filter(|p| p.1 > 0.0).map(|p| (x(p.0), y(p.1))).collect()).collect();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\"><title>{}</title>\n",
        escape(y_title)
    );
    let grid = |x1: f64, x2: f64, y1: f64, y2: f64| {
        format!("<line class=\"grid\" stroke=\"{LINE}\" x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{y1:.1}\" y2=\"{y2:.1}\"/>\n")
    };
    let text = |class: &str, colour: &str, x: f64, y: f64, anchor: &str, words: &str| {
        format!("<text class=\"{class}\" fill=\"{colour}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escape(words))
    };
    // At most nine lines, however many decades.
    let decades = (y0 as i32..=y1 as i32).rev().step_by(((y1 - y0) as usize).div_ceil(9).max(1));
    for decade in decades {
        let at = y(10f64.powi(decade));
        out += &grid(LEFT, right, at, at);
        let label = if (-4..=3).contains(&decade) { format!("{}", 10f64.powi(decade)) } else { format!("1e{decade}") };
        out += &text("soft", SOFT, LEFT - 8.0, at + 4.0, "end", &label);
    }
    let step = step((x1 - x0) / 6.0);
    let mut tick = (x0 / step).ceil() * step;
    while tick <= x1 {
        let at = x(tick);
        out += &grid(at, at, TOP, floor);
        // Rounded to what the step shows, so that 0.1 * 3 is 0.3.
        let digits = (-step.log10().floor()).max(0.0) as usize;
        out += &text("soft", SOFT, at, floor + 18.0, "middle", &format!("{tick:.digits$}"));
        tick += step;
    }
    if let Some((at, words)) = mark {
        let at = x(at);
        let _ = writeln!(
            out,
            "<line class=\"mark\" stroke=\"{INK}\" stroke-dasharray=\"5 4\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>"
        );
        let (left, base) = place(at, words.chars().count() as f64 * LETTER, right, floor, &lines);
        let (anchor, left) = if left < at { ("end", at - 7.0) } else { ("start", left) };
        out += &text("ink", INK, left, base, anchor, words);
    }
    let mut names: Vec<(f64, usize)> = Vec::new();
    for (i, (curve, line)) in curves.iter().zip(&lines).enumerate() {
        let points: Vec<String> = line.iter().map(|p| format!("{:.1},{:.1}", p.0, p.1)).collect();
        let (colour, i) = (COLOURS[i % 6], i % 6);
        let _ = writeln!(
            out,
            "<g class=\"c{i}\"><polyline class=\"curve\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
        for p in line.iter().filter(|_| curve.dots) {
            let _ = writeln!(out, "<circle class=\"fill\" fill=\"{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>", p.0, p.1);
        }
        out += "</g>\n";
    }
    names.extend(lines.iter().enumerate().filter_map(|(i, line)| Some((line.last()?.1, i))));
    // Names that would lie on each other move down.
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = f64::NEG_INFINITY;
    for (at, i) in names {
        let at = at.max(below + HIGH);
        below = at;
        let (colour, class) = (COLOURS[i % 6], i % 6);
        let _ = writeln!(
            out,
            "<text class=\"fill c{class}\" fill=\"{colour}\" font-weight=\"600\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            right + 8.0,
            at + 4.0,
            escape(&curves[i].name)
        );
    }
    out += &text("ink", INK, (LEFT + right) / 2.0, HEIGHT - 12.0, "middle", x_title);
    let middle = (TOP + floor) / 2.0;
    let _ = writeln!(
        out,
        "<text class=\"ink\" fill=\"{INK}\" transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n</svg>",
        escape(y_title)
    );
    out
}

/// Where words of a width stand beside a vertical line, so that no curve and no name of one crosses them: left end and base line.
fn place(at: f64, width: f64, right: f64, floor: f64, lines: &[Vec<(f64, f64)>]) -> (f64, f64) {
    let bases = [TOP + 14.0, floor - 8.0, TOP + 50.0, floor - 44.0, (TOP + floor) / 2.0];
    let places = bases.into_iter().flat_map(|base| [(at + 7.0, base), (at - 7.0 - width, base)]);
    let free = |&(left, base): &(f64, f64)| {
        let (end, top) = (left + width, base - HIGH);
        let inside = |p: (f64, f64)| p.0 >= left && p.0 <= end && p.1 >= top && p.1 <= base + 4.0;
        // Sampled closely enough that no letter is missed.
        let crossed = lines
            .iter()
            .flat_map(|l| l.windows(2))
            .any(|w| (0..=64).any(|i| inside((w[0].0 + (w[1].0 - w[0].0) * f64::from(i) / 64.0, w[0].1 + (w[1].1 - w[0].1) * f64::from(i) / 64.0))));
        left >= LEFT && end <= right && !crossed
    };
    places.clone().find(free).unwrap_or((at + 7.0, TOP + 14.0))
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= least * 0.999).unwrap_or(10.0 * power)
}

/// A plot as a file of its own: attributes alone, which every viewer has.
pub fn file(plot: &str) -> String {
    plot.replacen("</title>", "</title><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>", 1)
}

/// A loss, or an error, that is shown as 0 only where it is none.
pub fn loss(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v < 1e-3 => format!("{value:.2e}"),
        _ => format!("{value:.5}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_losses_are_told_apart() {
        for (value, text) in [(0.0, "0"), (4.75e-6, "4.75e-6"), (-2e-9, "-2.00e-9"), (0.01214, "0.01214"), (1.5, "1.50000")] {
            assert_eq!(loss(value), text);
        }
    }

    #[test]
    fn words_stand_beside_their_line_where_no_curve_is() {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let falling = vec![(LEFT, TOP), (LEFT + 60.0, TOP + 40.0), (right, floor)];
        let flat = vec![(LEFT, TOP + 8.0), (right, TOP + 8.0)];
        for lines in [vec![], vec![falling.clone()], vec![flat.clone()], vec![falling, flat]] {
            for at in (0..=20).map(|i| LEFT + (right - LEFT) * f64::from(i) / 20.0) {
                let (left, base) = place(at, 150.0, right, floor, &lines);
                assert!(left >= LEFT && left + 150.0 <= right && base - HIGH >= TOP - HIGH && base <= floor, "{at}: {left} {base}");
                let crossing = |w: &[(f64, f64)], x: f64| w[0].1 + (w[1].1 - w[0].1) * (x - w[0].0) / (w[1].0 - w[0].0);
                for w in lines.iter().flat_map(|l| l.windows(2)) {
                    for x in (0..=15).map(|i| left + f64::from(i) * 10.0).filter(|x| (w[0].0..=w[1].0).contains(x)) {
                        assert!(!(base - HIGH + 1.0..=base).contains(&crossing(w, x)), "{at}: crossed at {x}");
                    }
                }
            }
        }
    }
}
