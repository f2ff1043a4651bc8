//! How long the allocator takes by itself: items with a point per format, sizes and losses all over.
//!
//!     cargo bench --bench allocate -- [ITEMS ...]
use ram_run::{Choice, allocate};
use rand_pcg::{Pcg64Mcg, rand_core::Rng};
use std::time::Instant;

const BITS: std::ops::RangeInclusive<u64> = 2..=8;
const RUNS: usize = 9;

fn main() {
    let mut counts: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![5_000, 20_000, 80_000];
    }
    println!("| items | 3 bits per weight: ms | 4 | 5 |\n|---|---|---|---|");
    for count in counts {
        let (items, weights) = items(count);
        let times = [3, 4, 5].map(|bits| {
            let mut runs: Vec<f64> = (0..RUNS).map(|_| seconds(&items, weights * bits / 8)).collect();
            runs.sort_by(f64::total_cmp);
            1e3 * runs[RUNS / 2]
        });
        println!("| {count} | {:.1} | {:.1} | {:.1} |", times[0], times[1], times[2]);
    }
}

fn seconds(items: &[Vec<Choice>], budget: u64) -> f64 {
    let start = Instant::now();
    assert_eq!(allocate(items, budget).expect("fits").len(), items.len());
    start.elapsed().as_secs_f64()
}

/// Matrices of 0.2 to 50 million weights in seven widths, and how many weights there are.
fn items(count: usize) -> (Vec<Vec<Choice>>, u64) {
    let mut random = Pcg64Mcg::new(7);
    let mut uniform = || f64::from(random.next_u32()) / f64::from(u32::MAX);
    let mut weights = 0;
    let each = |_| {
        let (size, u) = ((200e3 * 250f64.powf(uniform())) as u64, uniform() * uniform());
        weights += size;
        BITS.map(|bits| Choice { bytes: size * bits / 8 + size / 64, loss: u * 0.25f64.powi(bits as i32) * (0.9 + 0.2 * uniform()) }).collect()
    };
    let items = (0..count).map(each).collect();
    (items, weights)
}
