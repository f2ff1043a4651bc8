//! Queries, keys, values, gates, betas and decays of a delta net from its products.
use super::{Fused, LayerState, Scratch};
use crate::{backend::Norm, description::DeltaNet, forward_error::Fault};
use ram_kernels::{DeltaLayer, DeltaWeights, Matrix, Products, delta_net, resize};
use std::ops::Range;

/// What a delta net has besides matrices.
pub struct Parts<'a> {
    pub taps: &'a [f32],
    pub decay: &'a [f32],
    pub time: &'a [f32],
    pub norm: &'a Norm<Vec<f32>>,
}

/// What is a token's inputs in order, as a matrix and rows of it: queries, keys, values, gates, betas, decays of all heads.
fn places(net: &DeltaNet) -> Vec<(usize, Range<usize>)> {
    let (shape, heads) = (net.shape, net.shape.value_heads);
    if !net.packed {
        return vec![(0, 0..shape.channels()), (1, 0..shape.values()), (2, 0..heads), (3, 0..heads)];
    }
    // By key head: its query, its key, the values and the gates of its value heads; their betas and their decays.
    let each = heads / shape.key_heads;
    let (key, values) = (shape.key_dim, each * shape.value_dim);
    let sizes = [(0, 0, key), (0, key, key), (0, 2 * key, values), (0, 2 * key + values, values), (1, 0, each), (1, each, each)];
    let by_head = |(matrix, at, len): (usize, usize, usize)| {
        let all = if matrix == 0 { 2 * (key + values) } else { 2 * each };
        (0..shape.key_heads).map(move |head| (matrix, head * all + at..head * all + at + len))
    };
    sizes.into_iter().flat_map(by_head).collect()
}

/// Copies rows of a product of one token.
fn copy(products: &Products, matrix: usize, (token, tokens): (usize, usize), rows: Range<usize>, out: &mut [f32]) {
    let tiles = products.of(matrix);
    let mut at = rows.start;
    let mut out = out;
    while at < rows.end {
        let n = (16 - at % 16).min(rows.end - at);
        let (own, rest) = out.split_at_mut(n);
        own.copy_from_slice(&tiles[at / 16 * tokens + token][at % 16..][..n]);
        (out, at) = (rest, at + n);
    }
}

impl Fused<'_> {
    /// What tokens find, in the scratch's `mixed`.
    pub(super) fn recall(
        &mut self,
        norm: &Norm<Vec<f32>>,
        inputs: &[Matrix],
        net: &DeltaNet,
        parts: &Parts,
        states: &mut [&mut LayerState],
    ) -> Result<(), Fault> {
        self.project(norm, inputs, "inputs of the delta net")?;
        let Scratch { tokens, products, heads, work, mixed, .. } = &mut *self.s;
        let (n, width, places) = (tokens.len(), net.shape.inputs(), places(net));
        resize(heads, n * width);
        self.team.chunks(heads, width, |t, row| {
            let mut rest = row;
            for (matrix, rows) in &places {
                let (own, after) = rest.split_at_mut(rows.len());
                copy(products, *matrix, (t, n), rows.clone(), own);
                rest = after;
            }
        });
        resize(mixed, n * net.shape.values());
        let each = states.iter_mut().zip(self.spans).filter_map(|(state, span)| match &mut **state {
            LayerState::Delta(layer) => Some((layer, span.tokens.len())),
            LayerState::Kv(_) => None,
        });
        let mut layers: Vec<(&mut DeltaLayer, usize)> = each.collect();
        let weights = DeltaWeights { taps: parts.taps, decay: parts.decay, time: parts.time, norm: &parts.norm.weight, eps: parts.norm.eps as f32 };
        Ok(delta_net(self.team, &mut layers, heads, weights, work, mixed)?)
    }
}
