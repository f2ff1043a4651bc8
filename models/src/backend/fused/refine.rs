//! A pass over weights that are coded as an operation needs them: the same operations, with what coding leaves of the weights. Some
//! sequences at a time, so that of all tokens only the residual stream and the results of a layer's experts are in memory.
use super::{
    Fused, Scratch,
    survey::{Named, Taking, Unread, plain, taking},
};
use crate::{
    backend::{Ending, Mixer, MlpNorms, Mlps, Norm, Pass, Span, rotary::Rotary},
    description::Router,
    forward_error::Fault,
    tensors::TensorSpec,
};
use ram_kernels::{Arena, Format, Matrix, Moments, Team};
use std::{ops::Range, sync::Arc};

/// Who codes a model's matrices.
pub trait Coder {
    /// What can go wrong.
    type Error;

    /// The values of a norm or a bias, as the model will have them.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;

    /// Codes an embedding, of whose inputs nothing is known, and gives the rows of tokens, (tokens, hidden_size).
    ///
    /// # Errors
    /// Where it cannot be had.
    fn table(&mut self, team: &Team, spec: &TensorSpec, tokens: &[u32]) -> Result<Vec<f32>, Self::Error>;

    /// Matrices that share their inputs where they are coded already.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn coded(&mut self, specs: &[&TensorSpec]) -> Result<Option<Vec<Matrix>>, Self::Error>;

    /// Codes matrices that share their inputs.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn code(&mut self, team: &Team, specs: &[&TensorSpec], inputs: &Moments) -> Result<Vec<Matrix>, Self::Error>;

    /// Codes the head, or codes the embedding once more where that is it.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn head(&mut self, team: &Team, spec: &TensorSpec, inputs: Moments) -> Result<(), Self::Error>;

    /// How many inputs apart errors may be to make up for each other.
    fn span(&self) -> usize;
}

/// Tokens that are computed at once, at the least, where there are so many: of whole sequences.
pub const TOKENS: usize = 1024;

/// A pass by a team of threads.
pub struct Refining<'a, C: Coder> {
    team: &'a Team,
    scratch: &'a mut Scratch,
    hidden_size: usize,
    rotaries: &'a [Rotary],
    /// Sequences that are computed together, and where their tokens are.
    pieces: Vec<(Range<usize>, Vec<Span>)>,
    /// The residual stream, (tokens, hidden_size).
    stream: Vec<f32>,
    coder: &'a mut C,
    /// Why matrices could not be coded.
    failed: &'a mut Option<C::Error>,
    /// Of every token its experts, and the shared one.
    routes: [Vec<(u32, f32)>; 2],
}

impl<'a, C: Coder> Refining<'a, C> {
    /// The pass over the sequences at `spans` with what `coder` makes of the weights. Where it cannot the reason is left in `failed`.
    pub fn new(
        team: &'a Team,
        scratch: &'a mut Scratch,
        hidden_size: usize,
        rotaries: &'a [Rotary],
        spans: &[Span],
        coder: &'a mut C,
        failed: &'a mut Option<C::Error>,
    ) -> Refining<'a, C> {
        let mut pieces: Vec<(Range<usize>, Vec<Span>)> = Vec::new();
        for span in spans {
            let (start, end) = (span.tokens.start, span.tokens.end);
            match pieces.last_mut().filter(|(tokens, _)| tokens.len() < TOKENS) {
                Some((tokens, own)) => {
                    tokens.end = end;
                    own.push(Span { tokens: start - tokens.start..end - tokens.start, start: span.start });
                }
                None => pieces.push((start..end, vec![Span { tokens: 0..end - start, start: span.start }])),
            }
        }
        let (stream, routes) = (Vec::new(), Default::default());
        Refining { team, scratch, hidden_size, rotaries, pieces, stream, coder, failed, routes }
    }

    /// What `found` had, or the reason why not, kept.
    fn had<T>(&mut self, found: Result<T, C::Error>) -> Result<T, Fault> {
        found.map_err(|e| {
            *self.failed = Some(e);
            candle_core::Error::Msg("a matrix cannot be coded".into()).into()
        })
    }

    /// Codes matrices for inputs that are only summed where they must be.
    fn code(&mut self, specs: &[&TensorSpec], inputs: impl FnOnce(&mut Self) -> Result<Moments, Fault>) -> Result<Vec<Matrix>, Fault> {
        let coded = self.coder.coded(specs);
        if let Some(coded) = self.had(coded)? {
            return Ok(coded);
        }
        let inputs = inputs(self)?;
        let coded = self.coder.code(self.team, specs, &inputs);
        self.had(coded)
    }

    /// Computes the sequences of one piece, whose stream is `hidden` then; it is kept where `keep` says so.
    fn piece(&mut self, i: usize, keep: bool, run: impl FnOnce(&mut Fused) -> Result<(), Fault>) -> Result<(), Fault> {
        let (tokens, spans) = &self.pieces[i];
        let own = tokens.start * self.hidden_size..tokens.end * self.hidden_size;
        let mut fused = Fused::new(self.team, self.scratch, self.hidden_size, self.rotaries, spans);
        fused.s.hidden.clear();
        fused.s.hidden.extend_from_slice(&self.stream[own.clone()]);
        run(&mut fused)?;
        if keep {
            self.stream[own].copy_from_slice(&self.scratch.hidden);
        }
        Ok(())
    }

    /// Computes an expert's tokens, some at a time: their stream is `hidden` then, in their order.
    fn taken(
        &mut self,
        taken: &[(u32, f32)],
        mut run: impl FnMut(&mut Fused, &[(u32, f32)], &[(u32, f32)]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let size = self.hidden_size;
        for taken in taken.chunks(TOKENS) {
            let own: Vec<(u32, f32)> = taken.iter().zip(0..).map(|((_, weight), i)| (i, *weight)).collect();
            let mut fused = Fused::new(self.team, self.scratch, size, &[], &[]);
            fused.s.hidden.clear();
            for (token, _) in taken {
                fused.s.hidden.extend_from_slice(&self.stream[*token as usize * size..][..size]);
            }
            run(&mut fused, taken, &own)?;
        }
        Ok(())
    }

    /// Second moments of the normed stream of some tokens.
    fn normed(&self, norm: &Norm<Vec<f32>>, tokens: usize, token: impl Fn(usize) -> usize + Sync) -> Moments {
        let (stream, size, level) = (&self.stream, self.hidden_size, self.team.level());
        let mut moments = Moments::new(size, self.coder.span());
        moments.add(self.team, tokens, |i, to| {
            let row = &stream[token(i) * size..][..size];
            norm.of(level, row).write_to(level, to);
        });
        moments
    }

    /// The same of all.
    fn all_normed(&self, norm: &Norm<Vec<f32>>) -> Moments {
        self.normed(norm, self.stream.len() / self.hidden_size, |i| i)
    }

    /// Codes the head for the stream behind the last layer.
    pub fn finish(mut self, norm: &Norm<Named>, head: &TensorSpec) -> Result<(), Fault> {
        let inputs = self.all_normed(&plain(norm));
        let coded = self.coder.head(self.team, head, inputs);
        self.had(coded)
    }

    /// All MLPs of a layer; `shared_out` where not every token takes each.
    fn mlps(&mut self, norms: &MlpNorms<Named>, each: &[Taking], shared_out: bool) -> Result<(), Fault> {
        let (norms, team) = (norms.map(|(_, values)| values.clone()), self.team);
        let mut total = vec![0.0; self.stream.len()];
        for (norm, mlps, after) in norms.groups(each, Taking::is_shared) {
            let Some(after) = after else {
                self.group(norm, mlps, shared_out, &mut total)?;
                continue;
            };
            let mut sum = vec![0.0; total.len()];
            self.group(norm, mlps, shared_out, &mut sum)?;
            after.row().apply(team, &mut sum)?;
            total.iter_mut().zip(sum).for_each(|(x, y)| *x += y);
        }
        if let Some(after) = &norms.after {
            after.row().apply(team, &mut total)?;
        }
        self.stream.iter_mut().zip(total).for_each(|(x, y)| *x += y);
        Ok(())
    }

    /// Adds to `sum` what MLPs make that read the stream through one norm.
    fn group(&mut self, norm: &Norm<Vec<f32>>, each: &[Taking], shared_out: bool, sum: &mut [f32]) -> Result<(), Fault> {
        let mut all = None;
        for mlp in each {
            let Taking { specs: [gate, up, down], taken, .. } = mlp;
            let inputs = |pass: &mut Self| {
                let mut inputs = pass.normed(norm, taken.len(), |i| taken[i].0 as usize);
                if shared_out {
                    inputs.add_like(all.get_or_insert_with(|| pass.all_normed(norm)));
                }
                Ok(inputs)
            };
            let [gate, up] = pair(self.code(&[gate, up], inputs)?);
            let inputs = |pass: &mut Self| pass.middle(norm, [&gate, &up], mlp);
            let down = self.code(&[down], inputs)?.remove(0);
            let experts = mlp.alone([gate, up, down]);
            self.taken(taken, |fused, taken, local| {
                let out = fused.results(&experts, local, norm)?;
                fused.add_results(taken, &out, sum);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Second moments of what gate and up give.
    fn middle(&mut self, norm: &Norm<Vec<f32>>, [gate, up]: [&Matrix; 2], mlp: &Taking) -> Result<Moments, Fault> {
        let Taking { specs: [_, _, down], taken, .. } = mlp;
        let mut middle = Moments::new(down.shape[1], self.coder.span());
        // Stands for the matrix that takes what gate and up give, as it is.
        let any = Arena::new(64 * down.shape[1]).map_err(candle_core::Error::from)?;
        let any = Matrix::new(Arc::new(any), 0, Format::F32, 16, down.shape[1]);
        let experts = mlp.alone([gate.clone(), up.clone(), any]);
        self.taken(taken, |fused, _, local| {
            fused.gate(&experts, local, norm)?;
            let rows = fused.s.mixture.middle(0);
            middle.add(fused.team, local.len(), |i, to| to.iter_mut().zip(rows.dense(i)).for_each(|(to, x)| *to = x));
            Ok(())
        })?;
        Ok(middle)
    }
}

fn pair(mut both: Vec<Matrix>) -> [Matrix; 2] {
    let second = both.remove(1);
    [both.remove(0), second]
}

impl<C: Coder> Pass for Refining<'_, C> {
    type Tensors = Unread;
    type State = ();

    fn embed(&mut self, table: &TensorSpec, tokens: &[u32], times: f32) -> Result<(), Fault> {
        let rows = self.coder.table(self.team, table, tokens);
        self.stream = self.had(rows)?;
        self.stream.iter_mut().for_each(|x| *x *= times);
        Ok(())
    }

    fn mix(&mut self, mixer: &Mixer<TensorSpec, Named>, _: &mut [&mut ()]) -> Result<(), Fault> {
        let (norm, of) = (plain(&mixer.norm), mixer.of.map(|(_, values)| values.clone()));
        let matrices = self.code(&mixer.inputs.iter().collect::<Vec<_>>(), |pass| Ok(pass.all_normed(&norm)))?;
        let mut inner = Vec::new();
        for spec in &mixer.inner {
            let cols = spec.shape[1];
            let inputs = |pass: &mut Self| {
                let mut inputs = Moments::new(cols, pass.coder.span());
                for i in 0..pass.pieces.len() {
                    pass.piece(i, false, |fused| {
                        let rows = fused.find_alone(&norm, [&matrices, &inner], &of)?.unwrap_or_default();
                        inputs.add(fused.team, rows.len() / cols, |i, to| to.copy_from_slice(&rows[i * cols..][..cols]));
                        Ok(())
                    })?;
                }
                Ok(inputs)
            };
            let coded = self.code(&[spec], inputs)?.remove(0);
            inner.push(coded);
        }
        let cols = mixer.output.shape[1];
        let inputs = |pass: &mut Self| {
            let mut inputs = Moments::new(cols, pass.coder.span());
            for i in 0..pass.pieces.len() {
                pass.piece(i, false, |fused| {
                    fused.find_alone(&norm, [&matrices, &inner], &of)?;
                    let found = &fused.s.mixed;
                    inputs.add(fused.team, fused.s.tokens.len(), |i, to| to.copy_from_slice(&found[i * cols..][..cols]));
                    Ok(())
                })?;
            }
            Ok(inputs)
        };
        let (output, after) = (self.code(&[&mixer.output], inputs)?.remove(0), mixer.after.as_ref().map(plain));
        let bias = mixer.bias.as_ref().map(|(_, values)| values);
        for i in 0..self.pieces.len() {
            self.piece(i, true, |fused| {
                fused.find_alone(&norm, [&matrices, &inner], &of)?;
                fused.add_found(&of, Ending { output: &output, bias, after: after.as_ref(), times: mixer.times })
            })?;
        }
        Ok(())
    }

    fn route(&mut self, norm: &Norm<Named>, routers: &[TensorSpec], more: [Option<&Named>; 3], router: &Router) -> Result<(), Fault> {
        let (norm, more) = (plain(norm), more.map(|more| more.map(|(_, values)| values)));
        let each = self.code(&routers.iter().collect::<Vec<_>>(), |pass| Ok(pass.all_normed(&norm)))?;
        let mut routes: [Vec<(u32, f32)>; 2] = Default::default();
        for i in 0..self.pieces.len() {
            self.piece(i, false, |fused| {
                fused.route(&norm, &each, more, router)?;
                routes[0].extend(&fused.s.routes);
                routes[1].extend(&fused.s.shared_routes);
                Ok(())
            })?;
        }
        self.routes = routes;
        Ok(())
    }

    fn add_experts(
        &mut self,
        norms: &MlpNorms<Named>,
        experts: &Mlps<TensorSpec, Named>,
        shared: Option<&Mlps<TensorSpec, Named>>,
    ) -> Result<(), Fault> {
        let routes = std::mem::take(&mut self.routes);
        let each = taking(&routes[0], &routes[1], self.stream.len() / self.hidden_size, experts, shared);
        self.mlps(norms, &each, true)
    }

    fn add_mlp(&mut self, norms: &MlpNorms<Named>, mlp: &Mlps<TensorSpec, Named>) -> Result<(), Fault> {
        let all = (0..(self.stream.len() / self.hidden_size) as u32).map(|token| (token, 1.0)).collect();
        self.mlps(norms, &[Taking::of(mlp, 0, all)], false)
    }

    fn scale(&mut self, by: &Named) -> Result<(), Fault> {
        self.stream.iter_mut().for_each(|x| *x *= by.1[0]);
        Ok(())
    }
}
