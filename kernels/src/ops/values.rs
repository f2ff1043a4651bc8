//! Where inputs come from: computed 16 at a time as they are made ready, so that no copy of them is written first.
use crate::isa::Isa;

/// A token's inputs.
pub trait Values: Sync {
    /// Inputs 16 i to 16 i + 15; zeros behind the last.
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F;

    /// Asks for what vector `i` is made of, where the processor does not see by itself what comes next.
    #[inline(always)]
    fn ask<I: Isa>(&self, _: I, _: usize) {}
}

/// A row as it is.
pub struct Same<'a>(pub &'a [f32]);

impl Values for Same<'_> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F {
        let rest = &self.0[(16 * i).min(self.0.len())..];
        match rest.first_chunk() {
            Some(whole) => isa.load(whole),
            None => {
                let mut part = [0.0; 16];
                part[..rest.len()].copy_from_slice(rest);
                isa.load(&part)
            }
        }
    }
}

/// The first of 16 lanes, as many as `to` takes.
#[inline(always)]
pub fn store<I: Isa>(isa: I, v: I::F, to: &mut [f32]) {
    match to.first_chunk_mut() {
        Some(whole) => isa.store(v, whole),
        None => {
            let mut all = [0.0; 16];
            isa.store(v, &mut all);
            to.copy_from_slice(&all[..to.len()]);
        }
    }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub fn sigmoid<I: Isa>(isa: I, x: I::F) -> I::F {
    let one = isa.splat(1.0);
    isa.div(one, isa.add(one, isa.exp(isa.sub(isa.splat(0.0), x))))
}

/// x times its sigmoid.
#[inline(always)]
pub fn silu<I: Isa>(isa: I, x: I::F) -> I::F {
    isa.mul(x, sigmoid(isa, x))
}

/// x times the normal distribution up to it, by the tangent that is near it (Hendrycks and Gimpel, arXiv 1606.08415):
/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, which is x times a sigmoid.
#[inline(always)]
pub fn gelu<I: Isa>(isa: I, x: I::F) -> I::F {
    // 2 sqrt(2 / pi), and that times 0.044715.
    let (first, third) = (isa.splat(1.595_769), isa.splat(0.071_354_814));
    isa.mul(x, sigmoid(isa, isa.mul(x, isa.fma(isa.mul(x, x), third, first))))
}

/// silu(gate) * up, or gelu's, of one token of products in tiles.
pub struct Gated<'a> {
    pub gate: Tiled<'a>,
    pub up: Tiled<'a>,
    /// What both are multiplied with before.
    pub times: f32,
    /// Whether it is gelu.
    pub gelu: bool,
}

impl Values for Gated<'_> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F {
        let times = isa.splat(self.times);
        let gate = isa.mul(self.gate.vector(isa, i), times);
        let gate = if self.gelu { gelu(isa, gate) } else { silu(isa, gate) };
        isa.mul(gate, isa.mul(self.up.vector(isa, i), times))
    }
    #[inline(always)]
    fn ask<I: Isa>(&self, isa: I, i: usize) {
        self.gate.ask(isa, i);
        self.up.ask(isa, i);
    }
}

/// `(up + 1) gate sigmoid(alpha gate)` of gates up to `limit` and ups within it, both with a bias: gpt-oss's SwiGLU.
pub struct Clamped<'a> {
    pub gate: Tiled<'a>,
    pub up: Tiled<'a>,
    /// The gate's, and the up projection's.
    pub biases: [&'a [f32]; 2],
    pub limit: f32,
    pub alpha: f32,
}

impl Values for Clamped<'_> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F {
        let (one, limit) = (isa.splat(1.0), isa.splat(self.limit));
        let [gate_bias, up_bias] = self.biases.map(|bias| Same(bias).vector(isa, i));
        let gate = isa.add(self.gate.vector(isa, i), gate_bias);
        let up = isa.add(self.up.vector(isa, i), up_bias);
        // A NaN stays one: of two numbers the second is taken then, as x86 has it.
        let gate = isa.min(limit, gate);
        let up = isa.max(isa.splat(-self.limit), isa.min(limit, up));
        isa.mul(isa.add(up, one), isa.mul(gate, sigmoid(isa, isa.mul(gate, isa.splat(self.alpha)))))
    }
    #[inline(always)]
    fn ask<I: Isa>(&self, isa: I, i: usize) {
        self.gate.ask(isa, i);
        self.up.ask(isa, i);
    }
}

/// One token of products in tiles: (rows / 16, tokens) of 16.
#[derive(Clone, Copy)]
pub struct Tiled<'a> {
    /// All of them.
    pub tiles: &'a [[f32; 16]],
    /// Which of the tokens.
    pub token: usize,
    /// How many there are.
    pub tokens: usize,
}

impl Tiled<'_> {
    /// The first rows, as many as `out` takes.
    pub fn copy_to(&self, out: &mut [f32]) {
        let (whole, rest) = out.as_chunks_mut();
        let mut tiles = self.tiles[self.token..].iter().step_by(self.tokens);
        whole.iter_mut().zip(&mut tiles).for_each(|(out, tile)| *out = *tile);
        if let (false, Some(tile)) = (rest.is_empty(), tiles.next()) {
            rest.copy_from_slice(&tile[..rest.len()]);
        }
    }
}

impl Values for Tiled<'_> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F {
        isa.load(&self.tiles[i * self.tokens + self.token])
    }
    #[inline(always)]
    fn ask<I: Isa>(&self, isa: I, i: usize) {
        isa.prefetch(self.tiles.as_ptr().wrapping_add(i * self.tokens + self.token).cast());
    }
}

/// A row with its inputs in another order, one of little-endian u32; the row is given as f32 bits.
pub struct Reordered<'a> {
    pub row: &'a [u32],
    pub order: &'a [u8],
}

impl Values for Reordered<'_> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F {
        let mut out = [0.0; 16];
        for (to, from) in out.iter_mut().zip(self.order.as_chunks().0.iter().skip(16 * i)) {
            *to = f32::from_bits(self.row[u32::from_le_bytes(*from) as usize]);
        }
        isa.load(&out)
    }
}
