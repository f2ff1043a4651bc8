//! Attention over latents: queries become such for latents, and what they find becomes values, head by head.
use super::{Fused, LayerState, Scratch};
use crate::{backend::Norm, description::Latent, forward_error::Fault};
use ram_kernels::{Heads, Inputs, Look, Matrix, NotFinite, Product, Products, Same, Team, Turn, attend, resize};

/// Products of each head's rows of a matrix with that head's row of every token, `x` being (tokens, heads, `stride`) of which the first
/// numbers count; `by_head` are the rows of each head.
fn by_head(
    team: &Team,
    (inputs, products): (&mut Inputs, &mut Products),
    matrix: &Matrix,
    (x, stride): (&[f32], usize),
    by_head: &[u32],
    tokens: usize,
) -> Result<(), NotFinite> {
    let (cols, heads) = (matrix.cols(), by_head.len() / tokens);
    inputs.fill(team, [(matrix, by_head)].into_iter(), by_head.len(), cols, |row| Same(&x[row * stride..][..cols]))?;
    let own = matrix.rows() / heads;
    let each: Vec<Product> =
        by_head.chunks_exact(tokens).enumerate().map(|(head, rows)| inputs.product(matrix, rows).of_rows(head * own, own)).collect();
    products.run(team, &each);
    Ok(())
}

impl Fused<'_> {
    /// What queries find, in the scratch's `mixed`; or, where `inner` ends before, the inputs of the next matrix: what makes queries where it
    /// is not the stream, then (tokens, heads) rows of those for keys, then of latents that are found.
    pub(super) fn find_latents(
        &mut self,
        norm: &Norm<Vec<f32>>,
        [inputs, inner]: [&[Matrix]; 2],
        shape: &Latent,
        (query, latent): (Option<&Norm<Vec<f32>>>, &Norm<Vec<f32>>),
        states: &mut [&mut LayerState],
    ) -> Result<Option<Vec<f32>>, Fault> {
        const INPUTS: NotFinite = NotFinite("inputs of the attention");
        self.project(norm, inputs, INPUTS.0)?;
        let mut caches = self.caches(states);
        let (team, level, turned) = (self.team, self.team.level(), self.rotaries.iter().position(|r| r.is(&shape.rope)));
        let Scratch { tokens, angles, inputs, products, heads: out, work, between, rows, mixed, .. } = &mut *self.s;
        let (n, heads, rank, kept, width) = (tokens.len(), shape.num_attention_heads, shape.kv_lora_rank, shape.kept(), shape.query());
        let (angles, dim) = (turned.map_or(&[][..], |i| &angles[i]), shape.rope.dim);
        let turn = |t: usize, part: &mut [f32]| {
            let (cos, sin) = angles[t * dim..][..dim].split_at(dim / 2);
            Turn { norm: None, angles: [cos, sin], pairs: shape.rope.pairs, turned_first: false }.apply(level, part, dim);
        };
        // Behind a token's queries lies its latent.
        let stride = (heads + 1) * kept;
        resize(out, n * stride);
        team.chunks(out, stride, |t, row| {
            let row = &mut row[heads * kept..];
            products.token(1, t, n).copy_to(row);
            let (own, tells) = row.split_at_mut(rank);
            Turn::only_norm(latent.row()).apply(level, own, rank);
            turn(t, tells);
        });
        let mut inner = inner.iter();
        if let Some(query) = query {
            let rank = query.weight.len();
            resize(between, n * rank);
            team.chunks(between, rank, |t, row| {
                products.token(0, t, n).copy_to(row);
                Turn::only_norm(query.row()).apply(level, row, rank);
            });
            let Some(matrix) = inner.next() else { return Ok(Some(between.clone())) };
            let tokens = tokens.as_slice();
            inputs.fill(team, [(matrix, tokens)].into_iter(), n, rank, |t| Same(&between[t * rank..][..rank])).map_err(|_| INPUTS)?;
            products.run(team, &[inputs.product(matrix, tokens)]);
        }
        // Scores are divided by the root of what is kept where they are computed.
        let longer = (shape.scale * (kept as f64).sqrt()) as f32;
        resize(between, n * heads * width);
        team.chunks(between, heads * width, |t, row| products.token(0, t, n).copy_to(row));
        let queries: &[f32] = between;
        team.chunks(out, stride, |t, row| {
            for (head, row) in row[..heads * kept].chunks_exact_mut(kept).enumerate() {
                let tells = &mut row[rank..];
                tells.copy_from_slice(&queries[(t * heads + head) * width..][shape.qk_nope_head_dim..width]);
                turn(t, tells);
                tells.iter_mut().for_each(|x| *x *= longer);
            }
        });
        rows.clear();
        rows.extend((0..heads).flat_map(|head| (0..n).map(move |t| (t * heads + head) as u32)));
        let Some(matrix) = inner.next() else {
            let rows = queries.chunks_exact(width).flat_map(|q| &q[..shape.qk_nope_head_dim]);
            return Ok(Some(rows.copied().collect()));
        };
        by_head(team, (inputs, products), matrix, (queries, width), rows, n).map_err(|_| INPUTS)?;
        team.chunks(out, stride, |t, row| {
            for (head, row) in row[..heads * kept].chunks_exact_mut(kept).enumerate() {
                products.token(head, t, n).copy_to(&mut row[..rank]);
                row[..rank].iter_mut().for_each(|x| *x *= longer);
            }
        });
        resize(between, n * heads * rank);
        let [q, k] = [0, heads * kept].map(|start| Heads { data: &out[start..], stride, step: kept });
        attend(team, &mut caches, [q, k, k], heads, Look::default(), work, between)?;
        let Some(matrix) = inner.next() else { return Ok(Some(between.clone())) };
        by_head(team, (inputs, products), matrix, (between, rank), rows, n).map_err(|_| NotFinite("results of the attention"))?;
        resize(mixed, n * heads * shape.v_head_dim);
        team.chunks(mixed, heads * shape.v_head_dim, |t, row| {
            let each = row.chunks_exact_mut(shape.v_head_dim).enumerate();
            each.for_each(|(head, row)| products.token(head, t, n).copy_to(row));
        });
        Ok(None)
    }
}
