//! How far sampled rate-distortion curves are from full ones: all rows of some matrices against the rows that a plan looks at.
//!
//!     cargo bench --bench curves -- FOLDER [MATRICES]
use ram_kernels::{Effort, relative_error};
use ram_run::{Checkpoint, curves, read_rows, trellis_menu};
use rayon::prelude::*;

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let folder = args.next().expect("a folder");
    let count = args.next().map_or(24, |n| n.parse().expect("a number"));
    let checkpoint = Checkpoint::open(folder.as_ref()).expect("a checkpoint");
    let all = checkpoint.specs();
    let matrices: Vec<_> = all.iter().filter(|s| s.kind.is_matrix() && s.shape[0] >= 64 && s.shape[0] < 20_000).collect();
    let every = (matrices.len() / count).max(1);
    // All of them are asked for, so that the plan's own rule for large models holds.
    let menu = trellis_menu();
    let sampled = curves(&checkpoint, &matrices, &vec![menu.clone(); matrices.len()], Effort::Default, None, &|_| ()).expect("curves");
    let picked: Vec<usize> = (0..matrices.len()).step_by(every).collect();
    let ratios: Vec<Vec<f64>> = picked
        .par_iter()
        .map(|&i| {
            let (rows, cols) = (matrices[i].shape[0], matrices[i].shape[1]);
            let whole = read_rows(&checkpoint, &matrices[i].name, cols, &(0..rows).collect::<Vec<_>>()).expect("rows");
            let full = menu.iter().map(|&f| relative_error(f, Effort::Default, &whole, cols));
            full.zip(&sampled[i].points).map(|(full, point)| point.error / full - 1.0).collect()
        })
        .collect();
    println!("| format | mean | root mean square | most |\n|---|---|---|---|");
    for (f, format) in menu.iter().enumerate() {
        let off = || ratios.iter().map(|r| r[f]);
        let n = ratios.len() as f64;
        let most = off().fold(0.0f64, |m, o| m.max(o.abs()));
        let (mean, square) = (off().sum::<f64>() / n, (off().map(|o| o * o).sum::<f64>() / n).sqrt());
        println!("| {format} | {:+.2} % | {:.2} % | {:.2} % |", 100.0 * mean, 100.0 * square, 100.0 * most);
    }
}
