//! Evenly spaced codes: how they are chosen, and how they come out of tiles.
use crate::{
    Effort, Format, Groups, Lifted, Scheme, lift, place, quantize, relative_error,
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
            let [fast, default, best] = Effort::ALL.map(|effort| relative_error(format, effort, row, 256));
            assert!(default <= fast * 1.0001 + 1e-12 && best <= fast * 1.0001 + 1e-12, "{format}: {fast}, {default}, {best} for {:?}", &row[..4]);
        }
    }
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
