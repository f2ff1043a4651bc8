//! Which experts a token takes and with what weights, from the router's logits.

/// (expert, weight) pairs of every token, `per_token` each: the largest of the softmax over all experts, the lower number where two are equal,
/// scaled to sum to 1 where `renormalise`. `logits` is (tokens, experts); `routes` is overwritten.
pub(crate) fn route(logits: &[f32], experts: usize, per_token: usize, renormalise: bool, routes: &mut Vec<(u32, f32)>) {
    routes.clear();
    for row in logits.chunks_exact(experts) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = row.iter().map(|l| (l - most).exp()).sum();
        let start = routes.len();
        for _ in 0..per_token {
            let taken = &routes[start..];
            let free = (0..experts as u32).filter(|e| taken.iter().all(|(t, _)| t != e));
            // Not `max_by`, which takes the last of equals; a NaN is never larger, so that every choice is another expert.
            let best = free.reduce(|best, e| if row[e as usize] > row[best as usize] { e } else { best });
            routes.extend(best.map(|e| (e, (row[e as usize] - most).exp() / total)));
        }
        if renormalise {
            let sum: f32 = routes[start..].iter().map(|(_, w)| w).sum();
            routes[start..].iter_mut().for_each(|(_, w)| *w /= sum);
        }
    }
}

#[cfg(test)]
mod tests {
    fn route(logits: &[f32], experts: usize, per_token: usize, renormalise: bool) -> Vec<(u32, f32)> {
        let mut routes = vec![(9, 9.0)];
        super::route(logits, experts, per_token, renormalise, &mut routes);
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
