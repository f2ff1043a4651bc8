//! Inputs of products, made ready once for all matrices that take them in one form.
use super::{
    activations::{Rows, Want, most_bytes},
    task::Product,
};
use crate::{
    Matrix,
    arena::resize,
    ops::{NotFinite, Reordered, Values},
    team::Team,
};
use std::ops::Range;

/// Inputs in every form that some matrix wants.
#[derive(Debug, Default)]
pub struct Inputs {
    forms: [Rows; 3],
    /// Of matrices that take inputs in an order of their own: only of the tokens that they are multiplied with.
    ordered: Vec<Ordered>,
    used: usize,
    /// 0, 1, 2, ...
    count: Vec<u32>,
}

#[derive(Debug, Default)]
struct Ordered {
    order: Vec<u8>,
    tokens: Vec<u32>,
    rows: Rows,
}

impl Inputs {
    /// Makes `tokens` rows of `cols` inputs ready for matrices of as many columns, each given with the tokens that it is
    /// multiplied with.
    ///
    /// # Errors
    /// Where an input is not finite: no product of them means anything.
    pub fn fill<'m, S: Values>(
        &mut self,
        team: &Team,
        matrices: impl Iterator<Item = (&'m Matrix, &'m [u32])>,
        tokens: usize,
        cols: usize,
        source: impl Fn(usize) -> S + Sync,
    ) -> Result<(), NotFinite> {
        self.forget();
        self.fill_more(team, matrices, 0..tokens, cols, source)
    }

    /// Before the first [`Inputs::fill_more`].
    pub fn forget(&mut self) {
        self.used = 0;
    }

    /// [`Inputs::fill`] of some rows; those made ready since [`Inputs::forget`] stay.
    ///
    /// # Errors
    /// As for [`Inputs::fill`].
    pub fn fill_more<'m, S: Values>(
        &mut self,
        team: &Team,
        matrices: impl Iterator<Item = (&'m Matrix, &'m [u32])>,
        rows: Range<usize>,
        cols: usize,
        source: impl Fn(usize) -> S + Sync,
    ) -> Result<(), NotFinite> {
        let mut ready = [false; 3];
        for (m, tokens_of_m) in matrices {
            let want = if m.order().is_some() { Want::Dense } else { Want::of(m.format()) };
            if !std::mem::replace(&mut ready[want as usize], true) {
                self.forms[want as usize].fill(team, want, rows.clone(), cols, &source)?;
            }
            if let Some(order) = m.order() {
                self.reorder(team, order, tokens_of_m, cols)?;
            }
        }
        Ok(())
    }

    fn reorder(&mut self, team: &Team, order: &[u8], tokens: &[u32], cols: usize) -> Result<(), NotFinite> {
        // q, k and v, or gate and up, mostly have the same.
        if self.ordered[..self.used].iter().any(|o| o.order == order && o.tokens == tokens) {
            return Ok(());
        }
        if self.used == self.ordered.len() {
            self.ordered.push(Ordered::default());
        }
        let (dense, to) = (&self.forms[Want::Dense as usize], &mut self.ordered[self.used]);
        self.used += 1;
        to.order.clear();
        to.tokens.clear();
        to.order.extend_from_slice(order);
        to.tokens.extend_from_slice(tokens);
        if self.count.len() < tokens.len() {
            resize(&mut self.count, tokens.len());
            self.count.iter_mut().zip(0..).for_each(|(count, i)| *count = i);
        }
        to.rows.fill(team, Want::Plain, 0..tokens.len(), cols, |i| Reordered { row: dense.floats(tokens[i]).as_flattened(), order })
    }

    /// Bytes that it has taken.
    pub fn bytes(&self) -> usize {
        let ordered = self.ordered.iter().map(|o| o.order.capacity() + size_of::<u32>() * o.tokens.capacity() + o.rows.bytes());
        self.forms.iter().map(Rows::bytes).sum::<usize>() + ordered.sum::<usize>() + size_of::<u32>() * self.count.capacity()
    }

    /// The most that it takes for `rows` rows of `cols` inputs: in all three forms. Where matrices have orders of their own, `orders` of them
    /// at the most at once, each has its order, and there are `ordered` rows of them all.
    pub fn most_bytes(rows: usize, cols: usize, orders: usize, ordered: usize) -> usize {
        let forms = [Want::Dense, Want::Plain, Want::Rotated].map(|want| most_bytes(want, rows, cols));
        let tokens = 2 * size_of::<u32>() * ordered;
        forms.iter().sum::<usize>() + orders * size_of::<u32>() * cols + most_bytes(Want::Plain, ordered, cols) + tokens
    }

    /// Row `i` as it is, with zeros behind it, where a dense matrix takes it.
    pub fn dense(&self, i: usize) -> impl Iterator<Item = f32> {
        self.forms[Want::Dense as usize].floats(i as u32).as_flattened().iter().map(|bits| f32::from_bits(*bits))
    }

    /// `matrix` times `tokens`, for which they were made ready.
    pub fn product<'a>(&'a self, matrix: &'a Matrix, tokens: &'a [u32]) -> Product<'a> {
        match matrix.order() {
            None => Product::new(matrix, &self.forms[Want::of(matrix.format()) as usize], tokens),
            Some(order) => {
                let own = self.ordered[..self.used].iter().find(|o| o.order == order && o.tokens == tokens);
                let rows = &own.expect("inputs were made for this matrix").rows;
                Product::new(matrix, rows, &self.count[..tokens.len()])
            }
        }
    }
}
