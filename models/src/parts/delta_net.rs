//! A gated delta net: norm, projections, convolution, memories, gated norm, output.
use super::{At, MixerOf, Supply};
use crate::{
    backend::{Mixer, Mixing, Needs, Norm, Tensors},
    description::DeltaNet,
    tensors::Kind,
};
use ram_kernels::{DeltaLayer, delta_numbers};

impl DeltaNet {
    /// Bytes of a sequence's states, however long it is.
    pub(super) fn state_bytes(&self) -> usize {
        DeltaLayer::bytes(self.shape)
    }

    pub(super) fn needs(&self, hidden_size: usize) -> Needs {
        Needs {
            inputs: hidden_size.max(self.shape.values()),
            products: hidden_size.max(self.shape.inputs()),
            heads_in: self.shape.inputs(),
            mixed: self.shape.values(),
            deltas: delta_numbers(self.shape, 1),
            ..Needs::default()
        }
    }

    pub(super) fn build<S: Supply>(&self, at: At, from: &mut S) -> Result<MixerOf<S>, S::Error> {
        let (channels, values, heads) = (self.shape.channels(), self.shape.values(), self.shape.value_heads);
        let norm = at.stream_norm(0, from)?;
        let each: &[(&str, usize, Kind)] = if self.packed {
            &[("qkvz", channels + values, Kind::DeltaInput), ("ba", 2 * heads, Kind::DeltaRates)]
        } else {
            let (rates, gate) = (Kind::DeltaRates, Kind::DeltaGate);
            &[("qkv", channels, Kind::DeltaInput), ("z", values, gate), ("b", heads, rates), ("a", heads, rates)]
        };
        let mut matrix = |(name, n, kind): &(&str, usize, Kind)| {
            from.matrix(at.spec(&format!("linear_attn.in_proj_{name}.weight"), vec![*n, at.hidden_size], *kind))
        };
        let inputs = each.iter().map(&mut matrix).collect::<Result<Vec<_>, _>>()?;
        let mut vector = |name: &str, shape| from.vector(at.spec(&format!("linear_attn.{name}"), shape, Kind::Recurrence));
        let taps = vector("conv1d.weight", vec![channels, 1, self.shape.kernel])?;
        let (decay, time) = (vector("A_log", vec![heads])?, vector("dt_bias", vec![heads])?);
        let weight = vector("norm.weight", vec![self.shape.value_dim])?;
        let results = Norm::rms(weight, at.eps);
        let output = from.matrix(at.spec("linear_attn.out_proj.weight", vec![at.hidden_size, values], Kind::DeltaOutput))?;
        let taps = S::Tensors::taps(taps, self.shape.kernel);
        let of = Mixing::DeltaNet { shape: self.clone(), taps, decay, time, norm: results };
        Ok(Mixer { norm, inputs, inner: Vec::new(), of, output, bias: None, after: at.norm_after(0, from)?, times: 1.0 })
    }
}
