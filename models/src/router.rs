//! Which experts a token takes and with what weights, from the router's logits.
use std::cmp::Ordering;

/// (expert, weight) pairs of one token, as many as `routes` takes: the largest of the softmax over all experts, the lower number where two
/// are equal, scaled to sum to 1 where `renormalise`.
pub(crate) fn route(logits: &[f32], renormalise: bool, routes: &mut [(u32, f32)]) {
    let mut found = 0;
    for (e, &logit) in (0..).zip(logits) {
        // Behind its equals. A NaN is never larger: it comes last, and every choice is another expert.
        let at = routes[..found].iter().rposition(|(_, kept)| logit.partial_cmp(kept) != Some(Ordering::Greater)).map_or(0, |i| i + 1);
        if at < routes.len() {
            found = (found + 1).min(routes.len());
            routes[at..found].rotate_right(1);
            routes[at] = (e, logit);
        }
    }
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|l| (l - most).exp()).sum();
    routes.iter_mut().for_each(|(_, w)| *w = (*w - most).exp() / total);
    if renormalise {
        let sum: f32 = routes.iter().map(|(_, w)| w).sum();
        routes.iter_mut().for_each(|(_, w)| *w /= sum);
    }
}

#[cfg(test)]
mod tests {
    fn route(logits: &[f32], experts: usize, per_token: usize, renormalise: bool) -> Vec<(u32, f32)> {
        let mut routes = vec![(9, 9.0); logits.len() / experts * per_token];
        for (logits, routes) in logits.chunks(experts).zip(routes.chunks_mut(per_token)) {
            super::route(logits, renormalise, routes);
        }
        routes
    }

    #[test]
    fn the_largest_in_order_ties_to_the_lower() {
        let logits = [0.0, 2.0, 1.0, 2.0, f32::NEG_INFINITY, 0.0, 0.0, 0.0];
        let routes = route(&logits, 4, 2, true);
        assert_eq!(routes.iter().map(|(e, _)| *e).collect::<Vec<_>>(), [1, 3, 1, 2]);
        assert!(routes.iter().all(|(_, w)| (w - 0.5).abs() < 1e-6));
    }

    #[test]
    fn without_scaling_weights_are_those_of_the_softmax() {
        let routes = route(&[1.0, 0.0, 0.0], 3, 1, false);
        assert!((routes[0].1 - 1.0f32.exp() / (1.0f32.exp() + 2.0)).abs() < 1e-6);
    }

    #[test]
    fn nan_still_gives_different_experts() {
        let routes = route(&[f32::NAN; 4], 4, 4, true);
        assert_eq!(routes.iter().map(|(e, _)| *e).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
