//! The gated delta net against what f64 says, however its tokens are cut, on every instruction set.
use crate::{
    DeltaLayer, DeltaShape, DeltaWeights, NotFinite, delta_net,
    isa::Level,
    team,
    tests::{gaussian, levels},
};
use std::ops::Range;

const SHAPES: [DeltaShape; 4] = [
    DeltaShape { key_heads: 1, value_heads: 1, key_dim: 16, value_dim: 16, kernel: 4 },
    DeltaShape { key_heads: 2, value_heads: 6, key_dim: 32, value_dim: 48, kernel: 3 },
    DeltaShape { key_heads: 2, value_heads: 2, key_dim: 64, value_dim: 32, kernel: 1 },
    DeltaShape { key_heads: 1, value_heads: 2, key_dim: 128, value_dim: 128, kernel: 4 },
];

/// Weights and the inputs of some tokens.
struct Case {
    shape: DeltaShape,
    taps: Vec<f32>,
    decay: Vec<f32>,
    time: Vec<f32>,
    norm: Vec<f32>,
    inputs: Vec<f32>,
}

impl Case {
    fn new(shape: DeltaShape, tokens: usize, seed: u64) -> Case {
        let around = |n: usize, seed: u64, middle: f32| gaussian(n, seed).into_iter().map(|x| middle + 0.5 * x).collect::<Vec<f32>>();
        Case {
            shape,
            taps: gaussian(shape.kernel * shape.channels(), 1),
            // From heads that forget at once to some that hardly do.
            decay: (0..shape.value_heads).map(|h| 2.0 - 2.5 * h as f32).collect(),
            time: around(shape.value_heads, 3, -1.0),
            norm: around(shape.value_dim, 4, 1.0),
            inputs: gaussian(tokens * shape.inputs(), seed),
        }
    }

    fn weights(&self) -> DeltaWeights<'_> {
        DeltaWeights { taps: &self.taps, decay: &self.decay, time: &self.time, norm: &self.norm, eps: 1e-6 }
    }

    /// As the paper has it.
    fn in_f64(&self) -> Vec<f64> {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, kernel } = self.shape;
        let (row, channels, keys) = (self.shape.inputs(), self.shape.channels(), self.shape.keys());
        let x = |t: usize, i: usize| f64::from(self.inputs[t * row + i]);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let mut memory = vec![0.0; value_heads * key_dim * value_dim];
        let mut all = Vec::new();
        for t in 0..self.inputs.len() / row {
            let mixed = |c: usize| {
                let tap = |j: usize| f64::from(self.taps[j * channels + c]);
                silu((0..kernel).filter(|j| t + j + 1 >= kernel).map(|j| tap(j) * x(t + j + 1 - kernel, c)).sum())
            };
            let unit = |from: usize| {
                let head: Vec<f64> = (from..from + key_dim).map(mixed).collect();
                let length = (head.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                head.into_iter().map(move |x| x / length).collect::<Vec<f64>>()
            };
            for h in 0..value_heads {
                let head = h / (value_heads / key_heads);
                let (q, k) = (unit(head * key_dim), unit(keys + head * key_dim));
                let beta = 1.0 / (1.0 + (-x(t, channels + self.shape.values() + h)).exp());
                let time = x(t, channels + self.shape.values() + value_heads + h) + f64::from(self.time[h]);
                let decay = (-f64::from(self.decay[h]).exp() * time.exp().ln_1p()).exp();
                let own = &mut memory[h * key_dim * value_dim..][..key_dim * value_dim];
                own.iter_mut().for_each(|s| *s *= decay);
                let found: Vec<f64> = (0..value_dim)
                    .map(|j| {
                        let v = mixed(2 * keys + h * value_dim + j);
                        let change = beta * (v - (0..key_dim).map(|i| own[i * value_dim + j] * k[i]).sum::<f64>());
                        (0..key_dim).for_each(|i| own[i * value_dim + j] += k[i] * change);
                        (0..key_dim).map(|i| own[i * value_dim + j] * q[i]).sum::<f64>() / (key_dim as f64).sqrt()
                    })
                    .collect();
                let size = (found.iter().map(|x| x * x).sum::<f64>() / value_dim as f64 + 1e-6).sqrt();
                all.extend(found.iter().enumerate().map(|(j, o)| o / size * f64::from(self.norm[j]) * silu(x(t, channels + h * value_dim + j))));
            }
        }
        all
    }

    /// The inputs of some tokens.
    fn of(&self, tokens: Range<usize>) -> &[f32] {
        &self.inputs[tokens.start * self.shape.inputs()..tokens.end * self.shape.inputs()]
    }

    /// What the tokens behind those in `layer` find, cut into pieces.
    fn run(&self, level: Level, layer: &mut DeltaLayer, pieces: &[usize]) -> Vec<f32> {
        let (mut all, mut at, mut work) = (Vec::new(), layer.tokens(), Vec::new());
        for n in pieces {
            let mut out = vec![f32::NAN; n * self.shape.values()];
            team(level, |team| delta_net(team, &mut [(&mut *layer, *n)], self.of(at..at + n), self.weights(), &mut work, &mut out)).expect("numbers");
            at += n;
            all.extend(out);
        }
        all
    }
}

#[test]
fn it_matches_f64_however_it_is_cut() {
    for shape in SHAPES {
        let case = Case::new(shape, 150, 7);
        let want = case.in_f64();
        let mut first: Option<Vec<f32>> = None;
        for level in levels() {
            for pieces in [vec![150], vec![1; 150], vec![1, 2, 64, 3, 50, 30]] {
                let found = case.run(level, &mut DeltaLayer::new(shape), &pieces);
                let off = want.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
                assert!(off < 2e-4, "{shape:?} {level:?}: off by {off}");
                assert!(*first.get_or_insert_with(|| found.clone()) == found, "{shape:?} {level:?} {pieces:?}: not the same bits");
            }
        }
    }
}

#[test]
fn sequences_do_not_meet() {
    let shape = SHAPES[1];
    let cases = [Case::new(shape, 40, 8), Case::new(shape, 40, 9)];
    let alone = cases.each_ref().map(|case| case.run(Level::active(), &mut DeltaLayer::new(shape), &[40]));
    let mut layers = [DeltaLayer::new(shape), DeltaLayer::new(shape)];
    let (mut at, mut work) = ([0, 0], Vec::new());
    for pieces in [[5, 1], [1, 1], [1, 30], [33, 8]] {
        let [a, b] = &mut layers;
        let inputs: Vec<f32> = (0..2).flat_map(|i| cases[i].of(at[i]..at[i] + pieces[i])).copied().collect();
        let mut out = vec![0.0; (pieces[0] + pieces[1]) * shape.values()];
        let both = &mut [(a, pieces[0]), (b, pieces[1])];
        team(Level::active(), |team| delta_net(team, both, &inputs, cases[0].weights(), &mut work, &mut out)).expect("numbers");
        let (first, second) = out.split_at(pieces[0] * shape.values());
        for (i, out) in [first, second].into_iter().enumerate() {
            assert!(alone[i][at[i] * shape.values()..].starts_with(out));
            at[i] += pieces[i];
        }
    }
}

#[test]
fn states_are_cut_back_forked_saved_and_restored() {
    let shape = SHAPES[1];
    let case = Case::new(shape, 60, 10);
    let whole = case.run(Level::active(), &mut DeltaLayer::new(shape), &[60]);
    let go_on = |layer: &mut DeltaLayer| {
        let from = layer.tokens();
        let rest = case.run(Level::active(), layer, &[60 - from]);
        assert!(whole.ends_with(&rest) && !rest.is_empty(), "behind {from} tokens");
    };
    let mut layer = DeltaLayer::new(shape);
    case.run(Level::active(), &mut layer, &[10, 20, 1, 1, 1]);
    // What was read in one piece is kept before its last token, and what was there before the last of all.
    assert_eq!([5, 10, 29, 30, 31, 32, 33].map(|len| layer.reach(len)), [0, 10, 29, 29, 29, 32, 33]);
    let mut bytes = Vec::new();
    layer.save(&mut bytes).expect("memory");
    assert_eq!(bytes.len(), DeltaLayer::state_bytes(shape));
    for len in [33, 32, 29, 10, 9, 0] {
        let mut fork = layer.fork(len);
        assert_eq!(fork.tokens(), len);
        go_on(&mut fork);
    }
    assert_eq!(layer.tokens(), 33, "it does not know of its forks");
    let mut restored = DeltaLayer::new(shape);
    restored.restore(33, &mut bytes.as_slice()).expect("a state");
    go_on(&mut restored);
    assert!(DeltaLayer::new(shape).restore(33, &mut &bytes[..bytes.len() - 1]).is_err());
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(DeltaLayer::new(shape).restore(33, &mut bytes.as_slice()).is_err());
    layer.truncate(31);
    assert_eq!(layer.tokens(), 29);
    go_on(&mut layer);
}

#[test]
fn what_is_no_number_is_refused_and_leaves_the_state() {
    let shape = SHAPES[0];
    let case = Case::new(shape, 4, 11);
    let mut layer = DeltaLayer::new(shape);
    let mut out = vec![0.0; shape.values()];
    case.run(Level::active(), &mut layer, &[3]);
    for (at, x) in [(0, f32::NAN), (shape.inputs() - 1, f32::NAN), (40, f32::INFINITY)] {
        let mut inputs = case.of(3..4).to_vec();
        inputs[at] = x;
        let found = team(Level::active(), |team| delta_net(team, &mut [(&mut layer, 1)], &inputs, case.weights(), &mut Vec::new(), &mut out));
        assert_eq!((found, layer.tokens()), (Err(NotFinite("inputs of the delta net")), 3), "{at}");
    }
    assert_eq!(case.run(Level::active(), &mut layer, &[1]), case.run(Level::active(), &mut DeltaLayer::new(shape), &[4])[3 * shape.values()..]);
}
