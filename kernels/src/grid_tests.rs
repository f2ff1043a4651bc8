//! Evenly spaced codes: how they are chosen, and how they come out of tiles.
use crate::{
    Effort, Format, Groups, Lifted, Scheme, dequantize_row,
    encode::Grid,
    isa::{Level, dispatch},
    lift, place, quantize, relative_error,
    tests::{formats, gaussian},
};

#[test]
fn no_effort_loses_what_the_published_rule_keeps() {
    // Rows of every size, of one sign, with an outlier, of one number, of two.
    let mut w = gaussian(64 * 256, 23);
    for (r, row) in w.chunks_exact_mut(256).enumerate() {
        let size = 10f32.powi(r as i32 % 16 - 13);
        row.iter_mut().enumerate().for_each(|(i, w)| {
            *w = match r / 16 {
                0 => *w * size,
                1 => w.abs() * size + size,
                2 => *w * if i % 100 == 7 { 50.0 * size } else { size },
                _ => [size, -size, 0.0][(i * r / 5) % (1 + r % 3)],
            }
        });
    }
    for format in formats().into_iter().filter(|f| matches!(f.scheme(), Scheme::Affine | Scheme::AffineBf16 | Scheme::Symmetric)) {
        for row in w.chunks_exact(256) {
            let [fast, default, best] = Effort::ALL.map(|effort| unweighed(format, effort, row));
            assert!(default <= fast * 1.0001 + 1e-12 && best <= fast * 1.0001 + 1e-12, "{format}: {fast}, {default}, {best} for {:?}", &row[..4]);
        }
    }
}

/// Squared relative error of a row whose inputs all count alike.
fn unweighed(format: Format, effort: Effort, row: &[f32]) -> f64 {
    if effort == Effort::Fast {
        return relative_error(format, effort, row, row.len());
    }
    let (mut out, mut back) = (vec![0; format.row_bytes(1, row.len())], vec![0.0; row.len()]);
    let weights = vec![1.0; row.len()];
    dispatch(Level::active(), Grid { format, effort, rows: row, cols: row.len(), weights: &weights, feedback: None, out: &mut out });
    dequantize_row(format, 1, row.len(), &out, 0, &mut back);
    let [error, norm] = row.iter().zip(&back).fold([0.0; 2], |[e, n], (w, q)| [e + f64::from(w - q).powi(2), n + f64::from(*w).powi(2)]);
    if norm > 0.0 { error / norm } else { 0.0 }
}

#[test]
fn what_large_columns_have_is_kept_better() {
    // Every eighth column has weights four times as large; errors there count sixteen times.
    let mut w = gaussian(64 * 256, 31);
    w.iter_mut().enumerate().filter(|(i, _)| i % 8 == 3).for_each(|(_, w)| *w *= 4.0);
    let format: Format = "s4g128".parse().expect("a format");
    let cost = |effort: Effort, weights: Option<&[f32]>| {
        let (mut out, mut back) = (vec![0; format.row_bytes(64, 256)], vec![0.0; 256]);
        match weights {
            Some(weights) => dispatch(Level::active(), Grid { format, effort, rows: &w, cols: 256, weights, feedback: None, out: &mut out }),
            None => quantize(format, effort, &w, 256, &mut out),
        }
        let mut sum = 0.0;
        for (r, row) in w.chunks_exact(256).enumerate() {
            dequantize_row(format, 64, 256, &out, r, &mut back);
            sum += row.iter().zip(&back).enumerate().map(|(i, (w, q))| f64::from(w - q).powi(2) * if i % 8 == 3 { 16.0 } else { 1.0 }).sum::<f64>();
        }
        sum
    };
    let (weighed, alike) = (cost(Effort::Default, None), cost(Effort::Default, Some(&[1.0; 256])));
    assert!(weighed < 0.9 * alike, "{weighed} against {alike}");
}

#[test]
fn codes_come_out_of_tiles_as_they_went_in() {
    for format in formats().into_iter().filter(|f| matches!(f.scheme(), Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::Symmetric)) {
        for (rows, cols) in [(5usize, 96usize), (40, 330), (16, 256)] {
            let groups = rows * cols.div_ceil(format.group());
            let mut state = 5u32;
            let mut random = |most: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) % most
            };
            let codes = (0..rows * cols).map(|_| random(1 << format.bits()) as u8).collect();
            let scales = (0..groups).map(|_| random(1 << 16) as u16).collect();
            let most = if format.scheme() == Scheme::Gptq { 1 << format.bits() } else { 1 << 16 };
            let offsets = if format.scheme() == Scheme::Symmetric { Vec::new() } else { (0..groups).map(|_| random(most) as u16).collect() };
            let lifted = Lifted { codes, scales, offsets };
            let mut packed = vec![0; format.row_bytes(rows, cols)];
            place(format, cols, &lifted.codes, Groups { scales: &lifted.scales, offsets: &lifted.offsets }, &mut packed);
            let mut back = Lifted::default();
            lift(format, rows, cols, &packed, &mut back);
            assert!(back == lifted, "{format}, {rows} x {cols}");
            // What is quantized leaves nothing where there are no rows and no inputs.
            let w = gaussian(rows * cols, 3);
            quantize(format, Effort::Default, &w, cols, &mut packed);
            lift(format, rows, cols, &packed, &mut back);
            let mut again = vec![1; packed.len()];
            place(format, cols, &back.codes, Groups { scales: &back.scales, offsets: &back.offsets }, &mut again);
            assert!(again == packed, "{format}, {rows} x {cols}");
        }
    }
}

#[test]
fn symmetric_scales_are_the_same_in_both_halves() {
    let w: Vec<f32> = gaussian(48 * 128, 29).iter().enumerate().map(|(i, w)| w * 10f32.powi((i / 128) as i32 % 12 - 9)).collect();
    for format in ["s4g32", "s8g128"].map(|f| f.parse::<Format>().expect("a format")) {
        for effort in Effort::ALL {
            let mut packed = vec![0; format.row_bytes(48, 128)];
            quantize(format, effort, &w, 128, &mut packed);
            let mut lifted = Lifted::default();
            lift(format, 48, 128, &packed, &mut lifted);
            for scale in lifted.scales.into_iter().map(|bits| half::f16::from_bits(bits).to_f32()) {
                assert!(scale > 0.0 && half::bf16::from_f32(scale).to_f32() == scale, "{format}: {scale}");
            }
        }
    }
}
