//! The allocator: rate-distortion curves and a number of bytes in, one point per item out. Nothing else is seen.
//!
//! Minimises the sum of losses under the bytes: the lower convex hull of every item, all hull steps by gain per byte
//! while they fit (Shoham and Gersho 1988), then single moves that use what is left. A step of a large item that does not fit once
//! smaller ones were taken is tried first, too: a head may be a fifth of a small model's bytes and most of its loss.

/// One way to store an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Exact bytes.
    pub bytes: u64,
    /// What it costs in the objective's unit.
    pub loss: f64,
}

/// Indices of the chosen points, one per item; deterministic, ties go to the earlier item.
///
/// # Errors
/// The smallest number of bytes that would do, where `budget` does not.
///
/// # Panics
/// If an item has no choice or a loss is not a number.
pub fn allocate(items: &[Vec<Choice>], budget: u64) -> Result<Vec<usize>, u64> {
    let hulls: Vec<Vec<usize>> = items.iter().map(|choices| hull(choices)).collect();
    let least: Vec<usize> = hulls.iter().map(|h| h[0]).collect();
    let bytes = bytes_of(items, &least);
    if bytes > budget {
        return Err(bytes);
    }
    let mut steps: Vec<Step> = Vec::new();
    for (item, hull) in hulls.iter().enumerate() {
        steps.extend(hull.windows(2).enumerate().map(|(rank, w)| {
            let (from, to) = (items[item][w[0]], items[item][w[1]]);
            Step { gain: (from.loss - to.loss) / (to.bytes - from.bytes) as f64, item, rank, from: w[0], to: w[1], bytes: to.bytes - from.bytes }
        }));
    }
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain).then(a.item.cmp(&b.item)).then(a.rank.cmp(&b.rank)));
    let (mut start, mut best) = (least.clone(), None::<(f64, Vec<usize>)>);
    for _ in 0..FIRST {
        let (at, missed) = climb(items, &steps, start.clone(), budget);
        let loss = items.iter().zip(&at).map(|(choices, &i)| choices[i].loss).sum::<f64>();
        if best.as_ref().is_some_and(|(least, _)| loss >= WORTH * *least) {
            break;
        }
        best = Some((loss, at));
        // The step that would gain most of those that did not fit, before all others.
        let Some(step) = missed.into_iter().max_by(|a, b| (a.gain * a.bytes as f64).total_cmp(&(b.gain * b.bytes as f64))) else { break };
        start[step.item] = step.to;
        if bytes_of(items, &start) > budget {
            break;
        }
    }
    Ok(best.map_or(least, |(_, at)| at))
}

/// How many steps are tried before all others, one after the other.
const FIRST: usize = 16;
/// The part of the loss that must be left for that: with the head in finer steps the rest has coarser ones, whose losses add up to more than
/// they say. On SmolLM2 2 % less was expected at 3 bits and 16 % more was found; on Qwen2-MoE at 2.3 bits a half of both went away.
const WORTH: f64 = 0.95;

fn bytes_of(items: &[Vec<Choice>], at: &[usize]) -> u64 {
    items.iter().zip(at).map(|(choices, &i)| choices[i].bytes).sum()
}

/// Takes steps while they fit, then single moves; says also which first step of an item did not fit.
fn climb<'a>(items: &[Vec<Choice>], steps: &'a [Step], mut at: Vec<usize>, budget: u64) -> (Vec<usize>, Vec<&'a Step>) {
    let mut bytes = bytes_of(items, &at);
    let (mut stopped, mut missed) = (vec![false; items.len()], Vec::new());
    for s in steps {
        // Others are below where the item starts.
        if stopped[s.item] || s.from != at[s.item] {
            continue;
        }
        if bytes + s.bytes > budget {
            stopped[s.item] = true;
            missed.push(s);
            continue;
        }
        bytes += s.bytes;
        at[s.item] = s.to;
    }
    while let Some((item, to)) = best_move(items, &at, budget - bytes) {
        bytes = bytes - items[item][at[item]].bytes + items[item][to].bytes;
        at[item] = to;
    }
    (at, missed)
}

/// The fewest bytes that any allocation takes.
#[cfg(test)]
fn smallest(items: &[Vec<Choice>]) -> u64 {
    items.iter().map(|choices| choices.iter().map(|c| c.bytes).min().unwrap_or(0)).sum()
}

struct Step {
    gain: f64,
    item: usize,
    rank: usize,
    from: usize,
    to: usize,
    bytes: u64,
}

/// Points on the lower convex hull, from fewest bytes to least loss; gains per byte fall along it.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| choices[a].bytes.cmp(&choices[b].bytes).then(choices[a].loss.total_cmp(&choices[b].loss)).then(a.cmp(&b)));
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        let c = choices[i];
        if hull.last().is_some_and(|&last| c.loss >= choices[last].loss || c.bytes == choices[last].bytes) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            let slope = |p: Choice, q: Choice| (p.loss - q.loss) / (q.bytes - p.bytes) as f64;
            if slope(choices[a], choices[b]) > slope(choices[b], c) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// The single change within `spare` bytes that gains most loss, if any gains.
fn best_move(items: &[Vec<Choice>], at: &[usize], spare: u64) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (item, choices) in items.iter().enumerate() {
        let now = choices[at[item]];
        for (to, c) in choices.iter().enumerate() {
            let gain = now.loss - c.loss;
            if c.bytes <= now.bytes + spare && gain > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, item, to));
            }
        }
    }
    best.map(|(_, item, to)| (item, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Curves like those of real matrices: loss u * 4^-bits, sizes all over.
    fn curves(n: usize) -> Vec<Vec<Choice>> {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        (0..n)
            .map(|_| {
                let (size, u) = ((1000.0 * random()) as u64 + 1, random() * random());
                (2..=8).map(|b| Choice { bytes: size * b, loss: u * 0.25f64.powi(b as i32) * (0.9 + 0.2 * random()) }).collect()
            })
            .collect()
    }

    fn loss(items: &[Vec<Choice>], at: &[usize]) -> f64 {
        items.iter().zip(at).map(|(c, &i)| c[i].loss).sum()
    }

    #[test]
    fn within_one_step_of_every_allocation() {
        let items = curves(6);
        for budget in (smallest(&items)..30_000).step_by(997) {
            let at = allocate(&items, budget).expect("the smallest fits");
            assert!(items.iter().zip(&at).map(|(c, &i)| c[i].bytes).sum::<u64>() <= budget);
            let mut best = f64::INFINITY;
            for code in 0..7usize.pow(6) {
                let pick: Vec<usize> = (0..6).map(|i| code / 7usize.pow(i) % 7).collect();
                if items.iter().zip(&pick).map(|(c, &i)| c[i].bytes).sum::<u64>() <= budget {
                    best = best.min(loss(&items, &pick));
                }
            }
            let step = items.iter().map(|c| c[0].loss - c[1].loss).fold(0.0, f64::max);
            assert!(loss(&items, &at) <= best + step, "{budget}: {} against {best}", loss(&items, &at));
        }
    }

    #[test]
    fn what_costs_most_is_not_left_over_for_being_large() {
        // One small step gains a little more per byte than the head's, which then does not fit, and all others gain next to nothing. Where
        // there is much else to lose, that is not worth it.
        for (each, first) in [(0.3, 1), (1.0, 0)] {
            let small =
                (0..100).map(|i| [(20, each), (30, each - if i == 7 { 0.2 } else { 0.01 })].map(|(bytes, loss)| Choice { bytes, loss }).to_vec());
            let head = vec![Choice { bytes: 400, loss: 20.0 }, Choice { bytes: 601, loss: 16.1 }];
            let items: Vec<Vec<Choice>> = small.chain([head]).collect();
            let at = allocate(&items, 2400 + 205).expect("fits");
            assert_eq!(at[100], first, "{each}: {at:?}");
        }
    }

    #[test]
    fn more_bytes_never_hurt_and_too_few_are_refused() {
        let items = curves(200);
        let least = smallest(&items);
        assert_eq!(allocate(&items, least - 1), Err(least));
        let losses: Vec<f64> = (0..50).map(|i| loss(&items, &allocate(&items, least + i * 9001).expect("fits"))).collect();
        assert!(losses.windows(2).all(|w| w[1] <= w[0] * 1.001), "{losses:?}");
        let free: f64 = items.iter().map(|c| c.iter().map(|c| c.loss).fold(f64::INFINITY, f64::min)).sum();
        assert_eq!(loss(&items, &allocate(&items, u64::MAX).expect("fits")), free);
    }
}
