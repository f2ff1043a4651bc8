//! MLPs of a layer: those that a token chose, one that every token takes, or both, and what is done to their results before they are added.
use super::{Fused, Scratch, add_rows, zeros};
use crate::{
    backend::{Apart, MlpNorms, Norm},
    forward_error::Fault,
};
use ram_kernels::{Experts, Routed};

/// Whose weights hold.
#[derive(Clone, Copy, PartialEq)]
pub enum Routes {
    Chosen,
    /// Those of the shared one, or of the only one there is.
    Shared,
}

/// What MLPs read the stream through, these, and what the sum of their results is normalised by.
type Group<'a, V, E> = (&'a Norm<V>, &'a [E], Option<&'a Norm<V>>);

impl<V> MlpNorms<V> {
    /// The same of other weights.
    pub fn map<U>(&self, vector: impl Fn(&V) -> U) -> MlpNorms<U> {
        let apart = self
            .apart
            .as_ref()
            .map(|Apart { routed, after }| Apart { routed: routed.map(&vector), after: after.each_ref().map(|norm| norm.map(&vector)) });
        MlpNorms { before: self.before.map(&vector), apart, after: self.after.as_ref().map(|norm| norm.map(&vector)) }
    }

    /// MLPs, of which `is_shared` says that the last ones are, by what they read the stream through.
    pub fn groups<'a, E>(&'a self, each: &'a [E], is_shared: impl Fn(&E) -> bool) -> Vec<Group<'a, V, E>> {
        match &self.apart {
            None => vec![(&self.before, each, None)],
            Some(Apart { routed, after: [first, second] }) => {
                let (own, shared) = each.split_at(each.partition_point(|mlp| !is_shared(mlp)));
                let both = vec![(routed, own, Some(first)), (&self.before, shared, Some(second))];
                both.into_iter().filter(|(_, mlps, _)| !mlps.is_empty()).collect()
            }
        }
    }

    /// Whether anything is done to results before they are added.
    pub fn is_plain(&self) -> bool {
        self.apart.is_none() && self.after.is_none()
    }
}

impl Fused<'_> {
    /// Adds the weighted results of MLPs, and of the shared one where there is one.
    pub(super) fn add_mlps(&mut self, norms: &MlpNorms<Vec<f32>>, own: (&Experts, Routes), shared: Option<&Experts>) -> Result<(), Fault> {
        let both = [Some(own), shared.map(|shared| (shared, Routes::Shared))];
        let both: Vec<(&Experts, Routes)> = both.into_iter().flatten().collect();
        if norms.is_plain() {
            return self.add_weighted(&norms.before, &both, None);
        }
        let (size, team, len) = (self.hidden_size, self.team, self.s.hidden.len());
        let [mut sum, mut other] = std::mem::take(&mut self.s.results);
        zeros(&mut sum, len);
        for (before, mlps, after) in norms.groups(&both, |(_, routes)| *routes == Routes::Shared) {
            let Some(after) = after else {
                self.add_weighted(before, mlps, Some(&mut sum))?;
                continue;
            };
            self.add_weighted(before, mlps, Some(zeros(&mut other, len)))?;
            after.row().apply(team, &mut other)?;
            add_rows(team, &other, &mut sum, size);
        }
        if let Some(after) = &norms.after {
            after.row().apply(team, &mut sum)?;
        }
        add_rows(team, &sum, &mut self.s.hidden, size);
        self.s.results = [sum, other];
        Ok(())
    }

    /// Adds the weighted results of MLPs to rows, or else to the stream.
    fn add_weighted(&mut self, norm: &Norm<Vec<f32>>, mlps: &[(&Experts, Routes)], to: Option<&mut Vec<f32>>) -> Result<(), Fault> {
        let Scratch { tokens, hidden, routes, shared_routes, mixture, .. } = &mut *self.s;
        let (n, size, level) = (tokens.len(), self.hidden_size, self.team.level());
        let parts = mlps.iter().map(|(experts, from)| {
            let routes: &[(u32, f32)] = if *from == Routes::Chosen { routes } else { shared_routes };
            Routed { experts, routes, per_token: routes.len() / n }
        });
        let parts: Vec<Routed> = parts.collect();
        mixture.gate(self.team, &parts, n, |t| norm.of(level, &hidden[t * size..][..size]))?;
        mixture.add_to(self.team, &parts, to.unwrap_or(hidden));
        Ok(())
    }

    /// Gate and up of one expert for the tokens that take it with their weights.
    pub(super) fn gate(&mut self, expert: &Experts, taken: &[(u32, f32)], norm: &Norm<Vec<f32>>) -> Result<(), Fault> {
        let (size, level, routes) = (self.hidden_size, self.team.level(), routes(taken));
        let parts = [Routed { experts: expert, routes: &routes, per_token: 1 }];
        let row = |i: usize| &self.s.hidden[taken[i].0 as usize * size..][..size];
        Ok(self.s.mixture.gate(self.team, &parts, taken.len(), |i| norm.of(level, row(i)))?)
    }

    /// The same expert's weighted results, (tokens that take it, hidden_size).
    pub(super) fn results(&mut self, expert: &Experts, taken: &[(u32, f32)], norm: &Norm<Vec<f32>>) -> Result<Vec<f32>, Fault> {
        self.gate(expert, taken, norm)?;
        let (routes, mut out) = (routes(taken), vec![0.0; taken.len() * self.hidden_size]);
        self.s.mixture.add_to(self.team, &[Routed { experts: expert, routes: &routes, per_token: 1 }], &mut out);
        Ok(out)
    }

    /// Adds an expert's results to those of all tokens.
    pub(super) fn add_results(&self, taken: &[(u32, f32)], results: &[f32], sum: &mut [f32]) {
        let size = self.hidden_size;
        for ((token, _), out) in taken.iter().zip(results.chunks_exact(size)) {
            sum[*token as usize * size..][..size].iter_mut().zip(out).for_each(|(sum, y)| *sum += y);
        }
    }
}

/// Routes of tokens that take the only expert there is.
fn routes(taken: &[(u32, f32)]) -> Vec<(u32, f32)> {
    taken.iter().map(|(_, weight)| (0, *weight)).collect()
}
