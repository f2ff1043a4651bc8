//! Error feedback, on inputs that have something in common.
use crate::{
    Effort, Feedback, Format, Moments, Scheme, dequantize_rows,
    isa::Level,
    quantize, quantize_with, team,
    tests::{gaussian, levels},
};

/// Rows whose inputs have a few directions in common.
fn inputs(n: usize, cols: usize) -> Vec<f32> {
    let directions = gaussian(cols / 8 * cols, 7);
    let parts = gaussian(n * (cols / 8), 8);
    let mut rows = gaussian(n * cols, 9);
    for (row, parts) in rows.chunks_exact_mut(cols).zip(parts.chunks_exact(cols / 8)) {
        row.iter_mut().for_each(|x| *x *= 0.5);
        for (direction, part) in directions.chunks_exact(cols).zip(parts) {
            row.iter_mut().zip(direction).for_each(|(x, d)| *x += part / 4.0 * d);
        }
    }
    rows
}

/// Mean square of what rows' errors make of inputs.
fn cost(format: Format, packed: &[u8], weights: &[f32], cols: usize, inputs: &[f32]) -> f64 {
    let n = weights.len() / cols;
    let mut back = vec![0.0; n * cols];
    for (tile, back) in back.chunks_mut(16 * cols).enumerate() {
        dequantize_rows(format, n, cols, packed, 16 * tile, back);
    }
    let mut sum = 0.0;
    for x in inputs.chunks_exact(cols) {
        for (w, q) in weights.chunks_exact(cols).zip(back.chunks_exact(cols)) {
            sum += x.iter().zip(w.iter().zip(q)).map(|(x, (w, q))| f64::from(x * (w - q))).sum::<f64>().powi(2);
        }
    }
    sum / inputs.len() as f64
}

#[test]
fn errors_make_up_for_each_other() {
    for (cols, span) in [(256, 256), (416, 256), (200, 2048)] {
        let (known, unseen) = (inputs(4096, cols), 512 * cols);
        let (unseen, known) = known.split_at(unseen);
        let weights = gaussian(32 * cols, 3);
        team(Level::active(), |team| {
            let mut moments = Moments::new(cols, span);
            moments.add(team, known.len() / cols, |i, to| to.copy_from_slice(&known[i * cols..][..cols]));
            let evenly = ["a2g32", "a3g64", "b4g128", "a6g64", "s4g64", "s4g128"].map(String::from);
            for format in (2..=6).map(|bits| format!("t{bits}g64")).chain(evenly) {
                let format: Format = format.parse().expect("a format");
                let feedback = Feedback::new(team, &moments, format);
                let [mut plain, mut fed] = [(); 2].map(|()| vec![0; format.bytes(32, cols)]);
                quantize(format, Effort::Default, &weights, cols, &mut plain);
                quantize_with(team.level(), format, Effort::Default, &feedback, &weights, cols, &mut fed);
                let [plain, fed] = [plain, fed].map(|packed| cost(format, &packed, &weights, cols, unseen));
                let (found, expected) = (fed / plain, feedback.gain());
                // Without what was added to every input's moment it is less than was said; more so where scales are fitted to
                // what is asked.
                let least = if format.scheme() == Scheme::Trellis { 0.75 } else { 0.5 };
                assert!(found > least * expected && found < 1.1 * expected, "{cols} {format}: {found:.3} of the error, expected {expected:.3}");
            }
        });
    }
}

#[test]
fn factors_multiply_to_the_moments() {
    for cols in [80usize, 416] {
        let known = inputs(2048, cols);
        team(Level::active(), |team| {
            let mut moments = Moments::new(cols, 2048);
            moments.add(team, 2048, |i, to| to.copy_from_slice(&known[i * cols..][..cols]));
            let feedback = Feedback::new(team, &moments, "a4g64".parse().expect("a format"));
            let factor = &feedback.spans()[0];
            let (block, mut m) = (factor.panels[0].len(), vec![0.0f64; cols * cols]);
            for (b, panel) in factor.panels.iter().enumerate() {
                for (i, numbers) in panel.iter().enumerate() {
                    for (own, v) in numbers.iter().enumerate().filter(|(own, _)| b * block + own < cols) {
                        m[(b * block + own) * cols + i] = f64::from(*v);
                    }
                }
            }
            (0..cols).for_each(|j| m[j * cols + j] += 1.0);
            let h = |i: usize, j: usize| (0..cols).map(|k| f64::from(factor.d[k]) * m[k * cols + i] * m[k * cols + j]).sum::<f64>();
            let all = known.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let want = |i: usize, j: usize| {
                let damped = if i == j { Feedback::DAMPING * all / cols as f64 } else { 0.0 };
                known.chunks_exact(cols).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>() + damped
            };
            let mean = |of: &dyn Fn(usize, usize) -> f64| (0..cols).map(|i| of(i, i)).sum::<f64>();
            let scale = mean(&want) / mean(&h);
            for (i, j) in [(0, 0), (1, 5), (40, 79), (70, 70), (79, 3), (cols - 1, cols - 2), (cols / 2, cols - 3)] {
                // As far as both were drawn to the diagonal.
                let near = if i == j { mean(&want) / cols as f64 } else { want(i, j).abs() };
                assert!((h(i, j) * scale - want(i, j)).abs() < 0.08 * near, "{i}, {j}: {} for {}", h(i, j) * scale, want(i, j));
            }
        });
    }
}

#[test]
fn every_instruction_set_and_any_number_of_threads_give_the_same_bytes() {
    let cols = 208;
    let known = inputs(300, cols);
    let weights = gaussian(40 * cols, 5);
    for format in ["t3g32", "a3g64", "b4g32", "s4g128"] {
        every_instruction_set(format.parse().expect("a format"), cols, &known, &weights);
    }
}

fn every_instruction_set(format: Format, cols: usize, known: &[f32], weights: &[f32]) {
    let bytes = |level: Level| {
        team(level, |team| {
            let mut moments = Moments::new(cols, 128);
            moments.add(team, 300, |i, to| to.copy_from_slice(&known[i * cols..][..cols]));
            let (feedback, mut out) = (Feedback::new(team, &moments, format), vec![0; format.bytes(40, cols)]);
            quantize_with(level, format, Effort::Default, &feedback, weights, cols, &mut out);
            (out, feedback.gain())
        })
    };
    let first = bytes(Level::Scalar);
    for level in levels() {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            assert!(pool.install(|| bytes(level)) == first, "{format} on {level:?} with {threads} threads");
        }
    }
}

#[test]
fn without_inputs_there_is_no_feedback() {
    let (cols, format): (_, Format) = (96, "t4g32".parse().expect("a format"));
    let weights = gaussian(16 * cols, 5);
    team(Level::active(), |team| {
        let feedback = Feedback::new(team, &Moments::new(cols, 128), format);
        assert!((feedback.gain() - 1.0).abs() < 1e-9);
        let mut out = vec![0; format.bytes(16, cols)];
        quantize_with(team.level(), format, Effort::Default, &feedback, &weights, cols, &mut out);
        let mut back = vec![0.0; 16 * cols];
        dequantize_rows(format, 16, cols, &out, 0, &mut back);
        let error: f32 = back.iter().zip(&weights).map(|(q, w)| (q - w).powi(2)).sum();
        assert!(error < 0.01 * weights.iter().map(|w| w * w).sum::<f32>(), "{error}");
    });
}
