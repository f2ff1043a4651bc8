//! Every format on every instruction set of this machine, against oracles so plain that they are obviously right.
use crate::{
    Arena, ClampedGlu, Effort, Experts, Format, Glu, Inputs, Matrix, Products, Same, Scheme, embed, encode, experts_at,
    isa::{Isa, Kernel, Level, dispatch},
    linear_at,
    ops::{Gated, rotate},
    oracle, quantize, quantize_at, relative_error, team,
};
use std::sync::Arc;

/// Gaussian numbers from a fixed seed (sums of 12 uniforms).
pub fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    // Box and Muller: tails matter to quantizers.
    (0..n).map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos()).clamp(-8.0, 8.0)).collect()
}

pub fn levels() -> Vec<Level> {
    let (have, lack): (Vec<Level>, Vec<Level>) = Level::ALL.into_iter().partition(|l| l.available());
    if !lack.is_empty() {
        eprintln!("NOT RUN on this machine, its processor lacks them: {lack:?}");
    }
    have
}

pub fn formats() -> Vec<Format> {
    let mut all = vec![Format::BF16, Format::F16, Format::F32, Format::MXFP4];
    for bits in 0..=16 {
        for group in [16, 32, 64, 128] {
            all.extend(Format::rotated(bits, group));
            all.extend(Format::affine(bits, group));
            all.extend(Format::affine_bf16(bits, group));
            all.extend(Format::symmetric(bits, group));
        }
        for group in [32, 128, 1120] {
            all.extend([false, true].into_iter().filter_map(|ordered| Format::gptq(bits, group, ordered)));
        }
    }
    assert_eq!(all.len(), 4 + 28 + 18 + 18 + 6 + 24);
    all
}

pub fn matrix(format: Format, rows: &[f32], cols: usize) -> Matrix {
    let n = rows.len() / cols;
    let mut arena = Arena::new(format.bytes(n, cols)).expect("memory");
    let len = format.row_bytes(n, cols);
    if format.order_bytes(cols) == 0 {
        quantize(format, Effort::Default, rows, cols, &mut arena.bytes_mut()[..len]);
    } else {
        // Any order will do: inputs backwards, but the first.
        let order: Vec<usize> = std::iter::once(0).chain((1..cols).rev()).collect();
        let ordered: Vec<f32> = rows.chunks_exact(cols).flat_map(|row| order.iter().map(|&c| row[c])).collect();
        quantize(format, Effort::Default, &ordered, cols, &mut arena.bytes_mut()[..len]);
        arena.bytes_mut()[len..].as_chunks_mut().0.iter_mut().zip(order).for_each(|(to, c)| *to = (c as u32).to_le_bytes());
    }
    Matrix::new(Arc::new(arena), 0, format, n, cols)
}

/// What a matrix sees of tokens.
struct Ready {
    /// Of each token, up to a multiple of 16, each with half a step between codes.
    inputs: Vec<(f64, f64)>,
    cols: usize,
}

impl Ready {
    fn new(level: Level, m: &Matrix, x: &[f32]) -> Ready {
        let (cols, tokens) = (m.cols(), (0..(x.len() / m.cols()) as u32).collect::<Vec<_>>());
        let mut inputs = Inputs::default();
        team(level, |team| inputs.fill(team, [(m, &*tokens)].into_iter(), tokens.len(), cols, |t| Same(&x[t * cols..][..cols]))).expect("numbers");
        let product = inputs.product(m, &tokens);
        let inputs = product.tokens.iter().flat_map(|t| oracle::inputs(product.rows, *t)).collect();
        Ready { inputs, cols: cols.next_multiple_of(16) }
    }

    /// By token and row: the sum of weight times input, and how far off f32 may be. That is 1e-5 of the sum of the magnitudes, to which
    /// each of 1,100 inputs adds a hundred times as much; dense products, of sums with fewer terms, are nearer.
    fn times(&self, m: &Matrix) -> Vec<(f64, f64)> {
        let (w, part) = (oracle::stored(m), if m.format().is_dense() { 2e-6 / (self.cols as f64).sqrt() } else { 1e-5 });
        let dot = |row: &[f64], x: &[(f64, f64)]| row.iter().zip(x).map(|(w, x)| w * x.0).fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
        let rows = |x| w.chunks_exact(self.cols).map(move |row| dot(row, x));
        self.inputs.chunks_exact(self.cols).flat_map(rows).map(|(sum, size)| (sum, part * size + 1e-12)).collect()
    }
}

#[test]
fn inputs_are_the_nearest_codes_on_every_instruction_set() {
    for format in ["t4g64", "a4g64", "p4g32", "f32"].map(|f| f.parse::<Format>().expect("a format")) {
        for cols in [1, 16, 40, 100, 130, 192, 1100] {
            let (m, mut x) = (matrix(format, &gaussian(cols, 3), cols), gaussian(3 * cols, 4));
            x[cols - 1] = 50.0;
            // Of so small numbers there is no inverse.
            x[2 * cols..].fill(1e-38);
            let first = Ready::new(Level::Scalar, &m, &x);
            for (x, got) in x.chunks_exact(cols).zip(first.inputs.chunks_exact(first.cols)) {
                for (want, (got, half)) in oracle::wanted(&m, x).into_iter().zip(got) {
                    assert!((want - got).abs() <= 1.0001 * half + 1e-36, "{format}, {cols} inputs: {got} is not {want}, a step is {half} twice");
                }
                let most = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0, |a: f64, b| a.max(b.abs()));
                let [want, got] = [most(&mut oracle::wanted(&m, x).into_iter()), most(&mut got.iter().map(|got| got.0))];
                assert!((want - got).abs() <= 1e-6 * want + 1e-36, "{format}, {cols} inputs: the largest is {got}, not {want}");
            }
            for level in levels() {
                assert!(Ready::new(level, &m, &x).inputs == first.inputs, "{format} {level:?} differs from scalar, {cols} inputs");
            }
        }
    }
}

#[test]
fn products_match_the_oracle_on_every_instruction_set() {
    let mut farthest = [0.0f64; 2];
    for format in formats() {
        for (rows, cols) in [(1, 16), (5, 1), (16, 100), (17, 130), (40, 192), (33, 1100)] {
            let w = gaussian(rows * cols, 1 + cols as u64);
            let m = matrix(format, &w, cols);
            for tokens in [1, 2, 7, 33] {
                let x = gaussian(tokens * cols, 99 + tokens as u64);
                let want = Ready::new(Level::Scalar, &m, &x).times(&m);
                let mut first: Option<Vec<f32>> = None;
                for level in levels() {
                    let mut y = vec![f32::NAN; tokens * rows];
                    linear_at(level, &x, &[&m], &mut [&mut y]).expect("numbers");
                    for (i, ((sum, limit), y)) in want.iter().zip(&y).enumerate() {
                        let off = (sum - f64::from(*y)).abs() / limit;
                        assert!(off < 1.0, "{format} {level:?} {rows}x{cols} tokens {tokens} at {i}: {y} is not {sum} ({off})");
                        let farthest = &mut farthest[usize::from(format.is_dense())];
                        *farthest = farthest.max(off);
                    }
                    let first = first.get_or_insert_with(|| y.clone());
                    assert!(
                        first.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{format} {level:?} differs from scalar in {rows}x{cols}, {tokens} tokens"
                    );
                }
            }
        }
    }
    eprintln!("the farthest products, packed and dense, are off by {farthest:.3?} of what is allowed");
}

#[test]
fn products_of_the_largest_bytes_are_exact() {
    /// Lanes of dots of up to 7 and 8 bits, and of the centred ones.
    struct Largest(u8, i8);
    impl Kernel for Largest {
        type Out = [[i32; 2]; 3];
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Out {
            let (zero, w, x) = (isa.splat_i(0), isa.splat_b(self.0), isa.splat_b(self.1 as u8));
            let dots = [isa.dot_u7(zero, isa.and_b(w, isa.splat_b(127)), x), isa.dot_u8(zero, w, x), isa.dot_c8(zero, w, x)];
            let mut out = [[0; 2]; 3];
            for (out, dot) in out.iter_mut().zip(dots) {
                let mut lanes = [0.0; 16];
                isa.store(isa.to_f(dot), &mut lanes);
                *out = [lanes[0] as i32, lanes[15] as i32];
            }
            out[2].iter_mut().for_each(|lane| *lane += 4 * I::CENTRE * i32::from(self.1));
            out
        }
    }
    for level in levels() {
        for (w, x) in [0u8, 1, 127, 128, 129, 255].into_iter().flat_map(|w| [-127i8, -1, 0, 126, 127].map(|x| (w, x))) {
            let (narrow, wide) = (4 * i32::from(w & 127) * i32::from(x), 4 * i32::from(w) * i32::from(x));
            assert_eq!(dispatch(level, Largest(w, x)), [[narrow; 2], [wide; 2], [wide; 2]], "{level:?}: {w} times {x}");
        }
    }
}

#[test]
fn a_token_does_not_depend_on_its_batch() {
    let cols = 192;
    for format in formats() {
        let m = matrix(format, &gaussian(48 * cols, 5), cols);
        let x = gaussian(512 * cols, 6);
        let mut all = vec![f32::NAN; 512 * 48];
        linear_at(Level::best(), &x, &[&m], &mut [&mut all]).expect("numbers");
        for t in [0, 7, 508, 511] {
            let mut one = vec![f32::NAN; 48];
            linear_at(Level::best(), &x[t * cols..][..cols], &[&m], &mut [&mut one]).expect("numbers");
            assert_eq!(one, all[t * 48..][..48], "{format} token {t}");
        }
    }
}

#[test]
fn rows_longer_than_a_panel_are_the_same_for_one_token_and_for_many() {
    let (cols, tokens) = (2 * 4096 + 208, 17);
    let x = gaussian(tokens * cols, 12);
    for format in formats() {
        let m = matrix(format, &gaussian(20 * cols, 11), cols);
        let want = Ready::new(Level::Scalar, &m, &x).times(&m);
        for level in levels() {
            let mut all = vec![f32::NAN; tokens * 20];
            linear_at(level, &x, &[&m], &mut [&mut all]).expect("numbers");
            for ((sum, limit), y) in want.iter().zip(&all) {
                let limit = if format.is_dense() { 2.0 * limit } else { *limit };
                assert!((sum - f64::from(*y)).abs() < limit, "{format} {level:?}: {y} is not {sum}");
            }
            let mut one = vec![f32::NAN; 20];
            linear_at(level, &x[16 * cols..], &[&m], &mut [&mut one]).expect("numbers");
            assert_eq!(one, all[16 * 20..], "{format} {level:?}");
        }
    }
}

#[test]
fn packed_bytes_are_the_same_on_every_instruction_set() {
    for format in formats().into_iter().filter(|f| f.scheme().is_rotated()) {
        for (rows, cols) in [(3, 40), (16, 256), (20, 130)] {
            let mut w = gaussian(rows * cols, 8);
            w[3] = 30.0;
            w[..cols.min(2)].fill(0.0);
            for effort in Effort::ALL {
                let packed = |level| {
                    let mut out = vec![0; format.bytes(rows, cols)];
                    quantize_at(level, format, effort, &w, cols, &mut out);
                    out
                };
                let want = packed(Level::Scalar);
                for level in levels() {
                    assert!(packed(level) == want, "{format} {effort} {level:?} {rows}x{cols}");
                }
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_rows_keep_to_themselves() {
    for format in formats() {
        let mut w = gaussian(16 * 128, 4);
        w[128..256].fill(0.0);
        let m = matrix(format, &w, 128);
        assert!(oracle::matrix(&m)[128..256].iter().all(|v| v.abs() < 1e-6), "{format}");
        // GPTQ's grid of 2 bits has 0 among its four levels, wherever the weights lie: 0.24 with one group of a whole row.
        let most = if format.group_bytes() > 32 && format.bits() == 2 { 0.3 } else { 0.2 };
        assert!(format.order_bytes(128) > 0 || relative_error(format, Effort::Default, &w, 128) < most, "{format}");
    }
}

/// ||W - Q||^2 / ||W||^2 with every row of Q at the length that makes it smallest: packed rows are unbiased instead,
/// which is a factor 1 / (1 - E^2) longer.
fn error_but_for_length(format: Format, w: &[f32], cols: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let q: Vec<f32> = oracle::matrix(&matrix(format, w, cols)).iter().map(|&q| q as f32).collect();
    let rows = w.chunks_exact(cols).zip(q.chunks_exact(cols));
    let error: f64 = rows.map(|(w, q)| dot(w, w) - dot(w, q).powi(2) / dot(q, q)).sum();
    error / dot(w, w)
}

#[test]
fn trellis_rows_are_unbiased() {
    let w = gaussian(20 * 300, 4);
    for format in formats().into_iter().filter(|f| f.scheme() == Scheme::Trellis) {
        let q = oracle::matrix(&matrix(format, &w, 300));
        for (w, q) in w.chunks_exact(300).zip(q.chunks_exact(300)) {
            let (product, square) = w.iter().zip(q).fold((0.0, 0.0), |(p, s), (&w, q)| (p + f64::from(w) * q, s + f64::from(w).powi(2)));
            assert!((product / square - 1.0).abs() < 1e-4, "{format}: {product} of {square}");
        }
    }
}

/// The encoder's default effort against errors measured on many more rows (docs/encoder.md); behind them, what the format
/// was designed with.
#[test]
fn squared_errors_reach_the_reference() {
    let w = gaussian(64 * 1024, 3);
    let reference: [(&str, f64, f64); 17] = [
        ("t2g16", 0.0622, 0.064),
        ("t2g128", 0.0831, 0.085),
        ("t3g16", 0.0145, 0.0151),
        ("t3g128", 0.0209, 0.0220),
        ("t4g16", 0.00338, 0.0036),
        ("t4g32", 0.00418, 0.0043),
        ("t4g64", 0.00473, 0.00526),
        ("t4g128", 0.00515, 0.0053),
        ("t5g16", 0.00085, 0.00115),
        ("t5g128", 0.00133, 0.0020),
        ("t6g64", 0.00043, 0.00045),
        ("t7g64", 0.000132, f64::INFINITY),
        ("t8g16", 0.0000189, f64::INFINITY),
        ("a2g32", 0.153, 0.153),
        ("a3g64", 0.0367, 0.0367),
        ("a4g128", 0.0100, 0.0100),
        ("a4g64", 0.0080, 0.0080),
    ];
    let mut far = Vec::new();
    for (name, measured, designed) in reference {
        let format: Format = name.parse().expect("a format");
        let error = error_but_for_length(format, &w, 1024);
        eprintln!("{name:<7} {:.3} bits  {error:.7}  measured {measured}, designed {designed}", format.bytes(64, 1024) as f64 * 8.0 / 65536.0);
        if error > 1.03 * measured.min(designed) {
            far.push(format!("{name}: {error:.5} against {measured} and {designed}"));
        }
    }
    assert!(far.is_empty(), "{far:?}");
}

#[test]
fn errors_are_those_of_what_is_stored() {
    for (format, cols) in formats().into_iter().filter(|f| f.order_bytes(1) == 0).flat_map(|f| [(f, 330), (f, 336)]) {
        let w = gaussian(40 * cols, 31);
        let q = oracle::matrix(&matrix(format, &w, cols));
        let (error, norm) = w.iter().zip(&q).fold((0.0, 0.0), |(e, n), (w, q)| (e + (f64::from(*w) - q).powi(2), n + f64::from(*w).powi(2)));
        let found = relative_error(format, Effort::Default, &w, cols);
        assert!((found - error / norm).abs() <= 1e-3 * error / norm, "{format}: {found}, not {}", error / norm);
    }
}

#[test]
fn effort_pays() {
    let w = gaussian(64 * 512, 22);
    for format in formats().into_iter().filter(|f| f.order_bytes(512) == 0) {
        let errors = Effort::ALL.map(|effort| relative_error(format, effort, &w, 512));
        let [fast, default, best] = errors;
        match format.scheme() {
            Scheme::Trellis | Scheme::Signed => assert!(fast > default && default > best && fast < 1.2 * default, "{format}: {errors:?}"),
            Scheme::Affine | Scheme::AffineBf16 | Scheme::Symmetric => {
                assert!(fast > 1.01 * default && default >= best && best > 0.9 * default, "{format}: {errors:?}");
            }
            Scheme::Gptq | Scheme::GptqOrdered | Scheme::Mx | Scheme::Bf16 | Scheme::F16 | Scheme::F32 => {
                assert!(fast == default && default == best, "{format}: {errors:?}");
            }
        }
    }
    for effort in Effort::ALL {
        assert_eq!(effort.to_string().parse(), Ok(effort));
    }
    assert!("slow".parse::<Effort>().is_err());
}

#[test]
fn codes_survive_packing() {
    for bits in 2..=8 {
        let code = |input: usize, row: usize| ((input * 37 + row * 101 + input * row) & ((1 << bits) - 1)) as u8;
        let step = |s: usize| std::array::from_fn(|row| i32::from_le_bytes(std::array::from_fn(|i| code(4 * s + i, row))));
        let mut packed = vec![255; 32 * bits];
        encode::pack(bits, &[step(0), step(1), step(2), step(3)], &mut packed);
        for (input, row) in (0..16).flat_map(|input| (0..16).map(move |row| (input, row))) {
            assert_eq!(oracle::code(bits, &packed, input, row), code(input, row), "{bits} bits, input {input}, row {row}");
        }
    }
}

#[test]
fn errors_fall_with_bits_and_with_smaller_groups() {
    let w = gaussian(32 * 512, 21);
    for group in [16, 32, 64, 128] {
        let errors: Vec<f64> = (2..=8).filter_map(|b| Format::rotated(b, group)).map(|f| relative_error(f, Effort::Default, &w, 512)).collect();
        assert!(errors.windows(2).all(|e| e[1] < 0.5 * e[0]), "g{group}: {errors:?}");
    }
    for bits in 2..=8 {
        let errors: Vec<f64> =
            [16, 32, 64, 128].into_iter().filter_map(|g| Format::rotated(bits, g)).map(|f| relative_error(f, Effort::Default, &w, 512)).collect();
        assert!(errors.windows(2).all(|e| e[0] < e[1]), "{bits} bits: {errors:?}");
    }
}

#[test]
fn affine_keeps_its_rounding_rule() {
    // lo = -1, hi = 2: counting starts at 2 with steps of -1, k = -2, so 0 is a level and every whole number is exact.
    let row: Vec<f32> = (0..32).map(|i| [2.0, 1.0, 0.0, -1.0][i % 4]).collect();
    assert_eq!(relative_error(Format::affine(2, 32).expect("a format"), Effort::Default, &row, 32), 0.0);
    let m = matrix(Format::affine(4, 32).expect("a format"), &[0.0; 32], 32);
    assert!(oracle::matrix(&m).iter().all(|&v| v == 0.0));
}

#[test]
fn rotation_is_orthonormal() {
    assert_eq!([16, 48, 64, 96, 128, 192, 256, 4096, 1408].map(rotate::block), [16, 16, 64, 32, 128, 64, 128, 128, 128]);
    let (a, b) = (gaussian(96, 1), gaussian(96, 2));
    let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let mut y = [f32::NAN];
    linear_at(Level::best(), &a, &[&matrix(Format::rotated(8, 16).expect("a format"), &b, 96)], &mut [&mut y]).expect("numbers");
    assert!((exact - f64::from(y[0])).abs() < 0.3, "{exact} {y:?}");
    // The oracle's, of inputs and of weights, belong together.
    let [a, b] = [a, b].map(|v| v.into_iter().map(f64::from).collect::<Vec<f64>>());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!((dot(&oracle::rotated(&a), &b) - dot(&a, &oracle::rotated_back(&b))).abs() < 1e-12);
    assert!((dot(&oracle::rotated(&a), &oracle::rotated(&b)) - exact).abs() < 1e-12);
}

#[test]
fn rows_are_looked_up() {
    for format in formats() {
        let m = matrix(format, &gaussian(20 * 48, 7), 48);
        let mut out = vec![f32::NAN; 3 * 48];
        team(Level::active(), |team| embed(team, &m, &[19, 0, 7], &mut out));
        let exact = oracle::matrix(&m);
        for (out, row) in out.chunks_exact(48).zip([19, 0, 7]) {
            assert!(out.iter().zip(&exact[row * 48..]).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6), "{format}");
        }
    }
}

/// One expert on one token, product by product.
fn expert(level: Level, e: &Experts, k: usize, x: &[f32]) -> Vec<f32> {
    let (gate, up, down) = (&e.gate[k], &e.up[k], &e.down[k]);
    let (mut inputs, mut products, mut middle, mut last) = (Inputs::default(), Products::default(), Inputs::default(), Products::default());
    let mut out = vec![f32::NAN; down.rows()];
    team(level, |team| {
        inputs.fill(team, [(gate, &[0][..]), (up, &[0])].into_iter(), 1, x.len(), |_| Same(x)).expect("numbers");
        products.run(team, &[inputs.product(gate, &[0]), inputs.product(up, &[0])]);
        let gated = |_| Gated { gate: products.token(0, 0, 1), up: products.token(1, 0, 1), times: 1.0, gelu: false };
        middle.fill(team, [(down, &[0][..])].into_iter(), 1, down.cols(), gated).expect("numbers");
        last.run(team, &[middle.product(down, &[0])]);
        last.token(0, 0, 1).copy_to(&mut out);
    });
    out
}

#[test]
fn experts_match_the_oracle() {
    let (hidden, inter, count, tokens, per_token) = (48, 80, 5, 9, 2);
    let kinds = ["f32", "bf16", "t4g32", "t8g16", "a8g32", "b6g32", "q8g96", "p8g32"].map(|f| f.parse::<Format>().expect("a format"));
    for format in kinds {
        let make = |rows: usize, cols: usize, seed: u64| -> Vec<Matrix> {
            (0..count).map(|e| matrix(format, &gaussian(rows * cols, seed + e as u64).iter().map(|w| w / 6.0).collect::<Vec<_>>(), cols)).collect()
        };
        let e = Experts {
            gate: make(inter, hidden, 10),
            up: make(inter, hidden, 20),
            down: make(hidden, inter, 30),
            glu: Glu::Silu,
            weigh_inputs: false,
        };
        let x = gaussian(tokens * hidden, 40);
        // Expert 4 is never routed to; token 3 goes to expert 0 twice over.
        let routes: Vec<(u32, f32)> = (0..tokens * per_token).map(|i| ((i * 7 % 4) as u32, 0.25 + 0.1 * i as f32)).collect();
        let mut want = vec![0.0f64; tokens * hidden];
        for (i, &(k, weight)) in routes.iter().enumerate() {
            let t = i / per_token;
            let own = expert(Level::Scalar, &e, k as usize, &x[t * hidden..][..hidden]);
            want[t * hidden..].iter_mut().zip(own).for_each(|(w, d)| *w += f64::from(weight) * f64::from(d));
        }
        let size = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
        let mut first: Option<Vec<f32>> = None;
        for level in levels() {
            let mut out = vec![0.0; tokens * hidden];
            experts_at(level, &x, &e, &routes, per_token, &mut out).expect("numbers");
            for (a, b) in want.iter().zip(&out) {
                assert!((a - f64::from(*b)).abs() < 1e-6 * size, "{format} {level:?}: {b} is not {a}");
            }
            assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{format} {level:?}");
            let mut one = vec![0.0; hidden];
            experts_at(level, &x[2 * hidden..3 * hidden], &e, &routes[4..6], per_token, &mut one).expect("numbers");
            assert_eq!(one, out[2 * hidden..3 * hidden], "{format} {level:?}");
        }
    }
}

/// Weights of what experts take: as if the inputs were so much longer.
#[test]
fn inputs_that_are_weighted_are_longer() {
    let (hidden, inter, tokens) = (40, 52, 9);
    let of = |rows: usize, cols: usize, seed: u64| (0..3).map(|e| matrix(Format::F32, &gaussian(rows * cols, seed + e), cols)).collect();
    let plain = Experts { gate: of(inter, hidden, 10), up: of(inter, hidden, 20), down: of(hidden, inter, 30), glu: Glu::Silu, weigh_inputs: false };
    let weighted = Experts { weigh_inputs: true, ..plain.clone() };
    let x = gaussian(tokens * hidden, 40);
    let routes: Vec<(u32, f32)> = (0..2 * tokens).map(|i| ((i * 2 % 3) as u32, 0.2 + 0.1 * i as f32)).collect();
    let mut want = vec![0.0; tokens * hidden];
    for (i, (k, weight)) in routes.iter().enumerate() {
        let longer: Vec<f32> = x[i / 2 * hidden..][..hidden].iter().map(|x| x * weight).collect();
        let mut own = vec![0.0; hidden];
        experts_at(Level::Scalar, &longer, &plain, &[(*k, 1.0)], 1, &mut own).expect("numbers");
        want[i / 2 * hidden..].iter_mut().zip(own).for_each(|(want, y)| *want += y);
    }
    for level in levels() {
        let mut out = vec![0.0; tokens * hidden];
        experts_at(level, &x, &weighted, &routes, 2, &mut out).expect("numbers");
        let most = want.iter().fold(0.0f32, |most, y| most.max(y.abs()));
        assert!(want.iter().zip(&out).all(|(a, b)| (a - b).abs() < 1e-5 * most), "{level:?}");
    }
}

/// Gates and ups beyond their limits, biases of all three, in f64.
#[test]
fn clamped_experts_match_the_oracle() {
    let (hidden, inter, count, tokens, per_token) = (40, 52, 3, 7, 2);
    let weights = |rows: usize, cols: usize, seed: u64| -> Vec<Vec<f32>> { (0..count).map(|e| gaussian(rows * cols, seed + e)).collect() };
    let [gate, up, down] = [weights(inter, hidden, 10), weights(inter, hidden, 20), weights(hidden, inter, 30)];
    let biases: Vec<[Vec<f32>; 3]> = (0..count).map(|e| [gaussian(inter, 50 + e), gaussian(inter, 60 + e), gaussian(hidden, 70 + e)]).collect();
    let packed = |all: &[Vec<f32>], cols| all.iter().map(|w| matrix(Format::F32, w, cols)).collect();
    let glu = Glu::Clamped(ClampedGlu { limit: 7.0, alpha: 1.702, biases: biases.clone() });
    let e = Experts { gate: packed(&gate, hidden), up: packed(&up, hidden), down: packed(&down, inter), glu, weigh_inputs: false };
    let x = gaussian(tokens * hidden, 40);
    let routes: Vec<(u32, f32)> = (0..tokens * per_token).map(|i| ((i * 2 % 3) as u32, 0.25 + 0.1 * i as f32)).collect();
    let dot = |w: &[f32], x: &[f64], row: usize| w[row * x.len()..].iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
    let (mut want, mut beyond) = (vec![0.0f64; tokens * hidden], 0);
    for (i, &(k, weight)) in routes.iter().enumerate() {
        let (t, k) = (i / per_token, k as usize);
        let own: Vec<f64> = x[t * hidden..][..hidden].iter().map(|v| f64::from(*v)).collect();
        let middle: Vec<f64> = (0..inter)
            .map(|r| {
                let (g, u) = (dot(&gate[k], &own, r) + f64::from(biases[k][0][r]), dot(&up[k], &own, r) + f64::from(biases[k][1][r]));
                beyond += usize::from(g > 7.0) + usize::from(u.abs() > 7.0);
                let (g, u) = (g.min(7.0), u.clamp(-7.0, 7.0));
                (u + 1.0) * g / (1.0 + (-1.702 * g).exp())
            })
            .collect();
        for r in 0..hidden {
            want[t * hidden + r] += f64::from(weight) * (dot(&down[k], &middle, r) + f64::from(biases[k][2][r]));
        }
    }
    assert!(beyond > 50, "{beyond}");
    let size = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
    for level in levels() {
        let mut out = vec![0.0; tokens * hidden];
        experts_at(level, &x, &e, &routes, per_token, &mut out).expect("numbers");
        assert!(want.iter().zip(&out).all(|(a, b)| (a - f64::from(*b)).abs() < 2e-6 * size), "{level:?}");
    }
}

#[test]
fn gated_inputs_are_silu_or_gelu_of_the_gate_times_up() {
    let [gate, up] = [1, 2].map(|seed| gaussian(48, seed).iter().map(|v| 9.0 * v).collect::<Vec<f32>>());
    let tiles = |v: &[f32]| v.as_chunks::<16>().0.to_vec();
    let (g, u, m) = (tiles(&gate), tiles(&up), matrix(Format::F32, &[0.0; 48], 48));
    for (level, gelu) in levels().into_iter().flat_map(|level| [(level, false), (level, true)]) {
        let mut inputs = Inputs::default();
        let of = |tiles| crate::Tiled { tiles, token: 0, tokens: 1 };
        let source = |_| Gated { gate: of(g.as_slice()), up: of(u.as_slice()), times: 1.0, gelu };
        team(level, |team| inputs.fill(team, [(&m, &[0][..])].into_iter(), 1, 48, source)).expect("numbers");
        for ((got, _), (gate, up)) in oracle::inputs(inputs.product(&m, &[0]).rows, 0).into_iter().zip(gate.iter().zip(&up)) {
            let (gate, up) = (f64::from(*gate), f64::from(*up));
            let silu = gate / (1.0 + (-gate).exp());
            // The product with 1 + tanh is written as that with a sigmoid, which is exact to the last bits where the tangent is near -1.
            let tangent = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            let want = up * if gelu { gate / (1.0 + (-2.0 * tangent).exp()) } else { silu };
            let near = if gelu { 0.5 * gate * (1.0 + tangent.tanh()) * up } else { want };
            assert!((want - near).abs() <= 1e-12 * (1.0 + want.abs()), "{near} is not {want}");
            // An exponent of some tens is rounded, and what it is the exponent of by that much.
            let exponent = if gelu { 2.0 * tangent.abs() } else { gate.abs() };
            assert!((want - got).abs() <= 1e-6 * (1.0 + 0.2 * exponent) * want.abs() + 1e-30, "{level:?} {gelu}: {got} is not {want}");
        }
    }
}

#[test]
fn results_of_many_tokens_are_those_of_one() {
    // 6.7 MB of gated rows and 6.6 MB of sums: neither is kept at once.
    let (hidden, inter, count, tokens, per_token) = (2064, 1040, 3, 400, 2);
    let format: Format = "b6g32".parse().expect("a format");
    let make = |rows: usize, cols: usize, seed: u64| -> Vec<Matrix> {
        (0..count).map(|e| matrix(format, &gaussian(rows * cols, seed + e as u64).iter().map(|w| w / 40.0).collect::<Vec<_>>(), cols)).collect()
    };
    let e =
        Experts { gate: make(inter, hidden, 10), up: make(inter, hidden, 20), down: make(hidden, inter, 30), glu: Glu::Silu, weigh_inputs: false };
    let x = gaussian(tokens * hidden, 40);
    let routes: Vec<(u32, f32)> = (0..tokens * per_token).map(|i| ((i % count) as u32, 0.25 + 0.001 * i as f32)).collect();
    let mut out = vec![0.0; tokens * hidden];
    experts_at(Level::active(), &x, &e, &routes, per_token, &mut out).expect("numbers");
    assert!(out.iter().all(|v| v.is_finite()) && out.iter().any(|v| *v != 0.0));
    for t in [0, 1, 2, 199, 398, 399] {
        let mut one = vec![0.0; hidden];
        experts_at(Level::active(), &x[t * hidden..][..hidden], &e, &routes[t * per_token..][..per_token], per_token, &mut one).expect("numbers");
        assert_eq!(one, out[t * hidden..][..hidden], "token {t}");
    }
}

#[test]
fn formats_are_named_and_sized() {
    for format in formats() {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    for bad in ["", "t", "t4", "t9g64", "t4g48", "a7g64", "q5g64", "p4g48", "a4g16", "t04g64", "bf17", "é4g64"] {
        assert!(bad.parse::<Format>().is_err(), "{bad}");
    }
    // As many bytes as GPTQ's own tensors: codes, f16 scales, zeros of 4 bits, and the order of the inputs.
    let (q4g128, p4g128): (Format, Format) = ("q4g128".parse().expect("a format"), "p4g128".parse().expect("a format"));
    assert_eq!(q4g128.bytes(64, 256), 64 * 256 / 2 + 2 * 64 * 2 + 2 * 64 / 2);
    assert_eq!(p4g128.bytes(64, 256), q4g128.bytes(64, 256) + 4 * 256);
    let t4g64: Format = "t4g64".parse().expect("a format");
    assert_eq!(t4g64.bytes(16, 128), 16 * (4 + 2) + 16 * 128 / 2);
}
