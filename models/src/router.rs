//! Which experts a token takes and with what weights, from the router's logits.
use crate::description::{Groups, Router, Score};
use std::cmp::Ordering;

/// (expert, weight) pairs of one token, as many as it takes: the largest scores, the lower number where two are equal. `logits` become
/// scores; `correction`, where there is one, is added to them while experts are chosen, and weights are multiplied with `scales`.
pub(crate) fn route(router: &Router, logits: &mut [f32], [correction, scales]: [Option<&[f32]>; 2], routes: &mut [(u32, f32)]) {
    if let Score::Mixer(jitter) = router.score {
        mix(jitter, logits, routes);
        return;
    }
    // Without a correction the largest logits are the largest scores, and are chosen before anything is rounded.
    let early = correction.is_none();
    if early {
        choose(router.groups, |e| logits[e], logits.len(), routes);
    }
    score(router.score, logits);
    if !early {
        choose(router.groups, |e| logits[e] + correction.map_or(0.0, |c| c[e]), logits.len(), routes);
    }
    routes.iter_mut().for_each(|(e, w)| *w = logits[*e as usize]);
    if let Some(least) = router.norm_topk_prob {
        let sum = routes.iter().map(|(_, w)| w).sum::<f32>().max(least as f32);
        routes.iter_mut().for_each(|(_, w)| *w /= sum);
    }
    if router.scaling != 1.0 {
        routes.iter_mut().for_each(|(_, w)| *w *= router.scaling as f32);
    }
    if let Some(scales) = scales {
        routes.iter_mut().for_each(|(e, w)| *w *= scales[*e as usize]);
    }
}

/// The experts with the largest values, of the groups that are kept.
fn choose(Groups { count, kept, summed }: Groups, value: impl Fn(usize) -> f32, experts: usize, routes: &mut [(u32, f32)]) {
    let valued = |e: usize| (e as u32, value(e));
    if kept == count {
        largest((0..experts).map(valued), routes);
        return;
    }
    let (size, mut groups) = (experts / count, vec![(0, 0.0); kept]);
    let members = |group: usize| (group * size..(group + 1) * size).map(valued);
    let two = |group: usize| {
        let mut two = [(0, 0.0); 2];
        let found = largest(members(group), &mut two);
        two[..found.min(summed)].iter().map(|(_, value)| value).sum::<f32>()
    };
    largest((0..count).map(|group| (group as u32, two(group))), &mut groups);
    groups.sort_unstable_by_key(|(group, _)| *group);
    largest(groups.iter().flat_map(|(group, _)| members(*group as usize)), routes);
}

fn score(score: Score, logits: &mut [f32]) {
    match score {
        Score::Softmax => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            logits.iter_mut().for_each(|l| *l = (*l - most).exp());
            let total: f32 = logits.iter().sum();
            logits.iter_mut().for_each(|l| *l /= total);
        }
        Score::Mixer(_) => {}
        Score::Sigmoid => logits.iter_mut().for_each(|l| *l = 1.0 / (1.0 + (-*l).exp())),
    }
}

/// One expert after the other: the largest logit, and its softmax among those that are left and near it.
fn mix(jitter: f32, logits: &[f32], routes: &mut [(u32, f32)]) {
    for i in 0..routes.len() {
        let (taken, rest) = routes.split_at_mut(i);
        let left = || (0u32..).zip(logits.iter().copied()).filter(|(e, _)| !taken.iter().any(|(t, _)| t == e));
        largest(left(), &mut rest[..1]);
        let (expert, most) = rest[0];
        let near = left().filter(|(_, logit)| (most - logit) / logit.abs().max(most) <= 2.0 * jitter);
        rest[0] = (expert, 1.0 / near.map(|(_, logit)| (logit - most).exp()).sum::<f32>());
    }
}

/// The largest of numbered values, largest first, equals in their order; as many as there are, or as `to` has room for.
fn largest(all: impl Iterator<Item = (u32, f32)>, to: &mut [(u32, f32)]) -> usize {
    let mut found = 0;
    for (e, value) in all {
        // Behind its equals. A NaN is never larger: it comes last, and every choice is another expert.
        let at = to[..found].iter().rposition(|(_, kept)| value.partial_cmp(kept) != Some(Ordering::Greater)).map_or(0, |i| i + 1);
        if at < to.len() {
            found = (found + 1).min(to.len());
            to[at..found].rotate_right(1);
            to[at] = (e, value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::description::{Groups, Router, Score};

    fn routes(router: &Router, logits: &[f32], correction: Option<&[f32]>) -> Vec<(u32, f32)> {
        let mut routes = vec![(9, 9.0); router.num_experts_per_tok];
        super::route(router, &mut logits.to_vec(), [correction, None], &mut routes);
        routes
    }

    #[test]
    fn the_largest_in_order_ties_to_the_lower() {
        let router = Router::softmax(2, true);
        for (logits, expected) in [([0.0, 2.0, 1.0, 2.0], [1, 3]), ([f32::NEG_INFINITY, 0.0, 0.0, 0.0], [1, 2])] {
            let routes = routes(&router, &logits, None);
            assert_eq!(routes.iter().map(|(e, _)| *e).collect::<Vec<_>>(), expected);
            assert!(routes.iter().all(|(_, w)| (w - 0.5).abs() < 1e-6));
        }
    }

    #[test]
    fn without_scaling_weights_are_those_of_the_softmax() {
        let routes = routes(&Router::softmax(1, false), &[1.0, 0.0, 0.0], None);
        assert!((routes[0].1 - 1.0f32.exp() / (1.0f32.exp() + 2.0)).abs() < 1e-6);
    }

    #[test]
    fn nan_still_gives_different_experts() {
        let plain = Router::softmax(4, true);
        for router in [plain.clone(), Router { score: Score::Sigmoid, groups: Groups { count: 2, kept: 2, summed: 2 }, ..plain }] {
            let routes = routes(&router, &[f32::NAN; 4], Some(&[0.0; 4]));
            assert_eq!(routes.iter().map(|(e, _)| *e).collect::<Vec<_>>(), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        for score in [Score::Softmax, Score::Sigmoid] {
            let router = Router { score, norm_topk_prob: None, scaling: 2.0, ..Router::softmax(2, true) };
            let logits = [0.5f32, 1.0, -1.0, 0.0];
            let routes = routes(&router, &logits, Some(&[0.0, 0.0, 3.0, 0.0]));
            let total: f32 = logits.iter().map(|l| l.exp()).sum();
            let weight = |l: f32| 2.0 * if score == Score::Softmax { l.exp() / total } else { 1.0 / (1.0 + (-l).exp()) };
            assert_eq!((routes[0].0, routes[1].0), (2, 1));
            assert!((routes[0].1 - weight(-1.0)).abs() < 1e-6 && (routes[1].1 - weight(1.0)).abs() < 1e-6, "{routes:?}");
        }
    }

    /// The second is chosen as if there were no first; what is further below the largest than twice the part of its size is not weighed.
    #[test]
    fn a_mixer_weighs_what_is_near() {
        let router = Router { score: Score::Mixer(0.05), ..Router::softmax(2, false) };
        let routes = routes(&router, &[2.0, 1.85, -3.0, 1.7], None);
        assert_eq!([routes[0].0, routes[1].0], [0, 1]);
        // 1.7 is 0.3 / 2 = 0.15 below 2, and 0.15 / 1.85 = 0.08 below 1.85.
        let weight = |others: f32| 1.0 / (1.0 + (-others).exp());
        assert!((routes[0].1 - weight(0.15)).abs() < 1e-6 && (routes[1].1 - weight(0.15)).abs() < 1e-6, "{routes:?}");
        // Below nothing sizes are those of the smaller ones.
        let routes = super::tests::routes(&router, &[-1.0, -1.1, -2.0, -1.3], None);
        assert!((routes[0].1 - weight(0.1)).abs() < 1e-6 && routes[1] == (1, 1.0), "{routes:?}");
    }

    /// Groups by the sum of their two largest, as many experts of those as are wanted.
    #[test]
    fn experts_come_from_the_groups_with_the_largest_sums() {
        // The largest of all is alone in its group.
        let logits = [5.0, -9.0, -9.0, 2.0, 0.0, 2.0, 1.0, 1.0, 1.0];
        for (summed, expected) in [(2, [3, 5]), (1, [0, 1])] {
            let router = Router { score: Score::Sigmoid, groups: Groups { count: 3, kept: 1, summed }, ..Router::softmax(2, true) };
            let routes = routes(&router, &logits, None);
            assert_eq!(routes.iter().map(|(e, _)| *e).collect::<Vec<_>>(), expected);
            assert!(summed == 1 || (routes[0].1 - 0.5).abs() < 1e-6);
        }
    }
}
