//! Inputs of products, made ready once: rotated and quantized to i8, with the sums that zero points need.
use crate::{
    Format, Scheme,
    arena::resize,
    isa::{Isa, Kernel, dispatch},
    ops::{NotFinite, Values, Watch, rotate},
    team::Team,
};
use std::ops::Range;

/// Inputs per activation scale where weights are not rotated: outliers stay in blocks of 32.
const PLAIN_BLOCK: usize = 32;

/// What a format wants its inputs to be.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Want {
    /// f32 as they are.
    #[default]
    Dense,
    /// i8 with a scale per 32.
    Plain,
    /// Rotated in blocks, then i8 with a scale per block.
    Rotated,
}

impl Want {
    /// What `format` wants.
    pub fn of(format: Format) -> Want {
        match format.scheme() {
            Scheme::Trellis | Scheme::Signed => Want::Rotated,
            Scheme::Affine | Scheme::AffineBf16 | Scheme::Gptq | Scheme::GptqOrdered | Scheme::Symmetric | Scheme::Mx => Want::Plain,
            Scheme::Bf16 | Scheme::F16 | Scheme::F32 => Want::Dense,
        }
    }
}

/// Squared relative error of a product with weights in `format` that comes from its inputs' rounding: 0 for dense weights.
/// Were rotated inputs Gaussian, the largest of a block of 128 would be 2.76 deviations on average (root mean square), steps
/// 2.76 / 127 of a deviation, and rounding would add a twelfth of their square. Those of trained models are not quite: with
/// all weights in 8 bits the KL divergence of three of them is twice what this says, hence 3.9 deviations.
pub const fn input_error(format: Format) -> f64 {
    if format.is_dense() { 0.0 } else { (3.9 / 127.0) * (3.9 / 127.0) / 12.0 }
}

/// Vectors ahead of the one in use that a source is asked for: a block of 128 inputs.
const AHEAD: usize = 8;

/// Inputs that share an activation scale and a weight scale can be 16, 32, 64 or 128.
const SPANS: usize = 4;

/// Tokens' inputs in one of the three forms. A row is `stride` words: inputs (four codes per word, or an f32 each), then
/// for codes scale and sum (`Row::spans`) of every 16, 32, 64 and 128 inputs.
#[derive(Debug, Default)]
pub struct Rows {
    want: Want,
    padded: usize,
    block: usize,
    stride: usize,
    words: Vec<u32>,
}

/// One token's inputs as codes.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// Four steps of four codes each per 16 inputs.
    pub codes: &'a [[u32; 4]],
    /// Of each span its scale, as f32 bits, and -64 times the sum of its codes; where inputs are not rotated and spans are blocks, the
    /// sum of what the codes stand for instead, as f32 bits.
    pub spans: &'a [[u32; 2]],
}

impl Rows {
    /// Makes `rows` ready, each of `cols` inputs, in parallel; zeros stand behind them up to a multiple of 16. Others stay, as long as
    /// `want` and `cols` do.
    ///
    /// # Errors
    /// Where an input is not finite: those from there on are not ready.
    pub fn fill<S: Values>(
        &mut self,
        team: &Team,
        want: Want,
        rows: Range<usize>,
        cols: usize,
        source: impl Fn(usize) -> S + Sync,
    ) -> Result<(), NotFinite> {
        let padded = cols.next_multiple_of(16);
        let block = if want == Want::Rotated { rotate::block(padded) } else { PLAIN_BLOCK };
        let stride = stride(want, padded);
        (self.want, self.padded, self.block, self.stride) = (want, padded, block, stride);
        let end = rows.end.checked_mul(stride).expect("as many rows of inputs as memory holds");
        let len = self.words.len().max(end);
        resize(&mut self.words, len);
        let (level, source, watch) = (team.level(), |i: usize| source(rows.start + i), Watch::default());
        team.chunks(&mut self.words[rows.start * stride..end], stride, |i, words| match want {
            Want::Dense => watch.see(dispatch(level, Copy { source: source(i), words: &mut words[..padded] })),
            Want::Plain | Want::Rotated => {
                let (codes, rest) = words.split_at_mut(padded / 4);
                let (codes, spans, rotated) = (codes.as_chunks_mut().0, rest.as_chunks_mut().0, want == Want::Rotated);
                watch.see(dispatch(level, Quantize { source: source(i), padded, rotated, block, codes, spans }));
            }
        });
        watch.result("inputs")
    }

    /// Bytes that it has taken.
    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u32>()
    }

    /// The form they are in.
    pub fn want(&self) -> Want {
        self.want
    }

    /// Inputs of a row, up to a multiple of 16.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Inputs per scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Where a row has what is known of every `span` inputs (16, 32, 64 or 128), which share a scale.
    pub fn spans(&self, span: usize) -> Range<usize> {
        let start = spans(self.padded, span.trailing_zeros() as usize - 4);
        start..start + self.padded.div_ceil(span)
    }

    /// A row of codes, with its part `spans`.
    #[inline(always)]
    pub fn row(&self, token: u32, spans: Range<usize>) -> Row<'_> {
        let words = &self.words[token as usize * self.stride..][..self.stride];
        let (codes, rest) = words.split_at(self.padded / 4);
        Row { codes: codes.as_chunks().0, spans: &rest.as_chunks().0[spans] }
    }

    /// A row of f32 bits.
    pub fn floats(&self, token: u32) -> &[[u32; 16]] {
        self.words[token as usize * self.stride..][..self.padded].as_chunks().0
    }
}

/// Words of a row.
fn stride(want: Want, padded: usize) -> usize {
    let words = if want == Want::Dense { padded } else { padded / 4 + 2 * spans(padded, SPANS) };
    // An odd number of cache lines: rows whose length is a power of two would all fall into one set of the L1 cache.
    (words.div_ceil(16) | 1) * 16
}

/// Bytes of `rows` rows in one form.
pub(super) fn most_bytes(want: Want, rows: usize, cols: usize) -> usize {
    rows * stride(want, cols.next_multiple_of(16)) * size_of::<u32>()
}

/// Spans of the first `widths` widths.
fn spans(padded: usize, widths: usize) -> usize {
    let mut all = 0;
    for s in 0..widths {
        all += padded.div_ceil(16 << s);
    }
    all
}

/// Says whether all inputs are finite.
struct Copy<'a, S> {
    source: S,
    words: &'a mut [u32],
}

impl<S: Values> Kernel for Copy<'_, S> {
    type Out = bool;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> bool {
        let (mut values, mut most) = ([0.0; 16], isa.splat_i(0));
        for (i, to) in self.words.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let v = self.source.vector(isa, i);
            most = isa.larger_bits(v, most);
            isa.store(v, &mut values);
            *to = values.map(f32::to_bits);
        }
        isa.largest_bits(most).is_finite()
    }
}

/// Says whether all inputs are finite; stops where one is not.
struct Quantize<'a, S> {
    source: S,
    padded: usize,
    rotated: bool,
    block: usize,
    /// Of 16 inputs each.
    codes: &'a mut [[u32; 4]],
    spans: &'a mut [[u32; 2]],
}

impl<S: Values> Kernel for Quantize<'_, S> {
    type Out = bool;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> bool {
        let mut values = [[0.0f32; 16]; 8];
        let (narrow, wide) = self.spans.split_at_mut(self.padded / 16);
        for (b, codes) in self.codes.chunks_mut(self.block / 16).enumerate() {
            let first = b * self.block / 16;
            let vectors = &mut values[..codes.len()];
            for (i, v) in vectors.iter_mut().enumerate() {
                self.source.ask(isa, first + AHEAD + i);
                isa.store(self.source.vector(isa, first + i), v);
            }
            if self.rotated {
                rotate::rotate_block(isa, b * self.block, vectors);
            }
            let mut most = isa.splat_i(0);
            for v in vectors.iter() {
                most = isa.larger_bits(isa.load(v), most);
            }
            let most = isa.largest_bits(most);
            if !most.is_finite() {
                return false;
            }
            let scale = (most / 127.0).to_bits();
            // Below 3.8e-37 there is no inverse, as there is none of 0: all codes are 0.
            let inverse = 127.0 / most;
            let inverse = isa.splat(if inverse.is_finite() { inverse } else { 0.0 });
            for ((to, v), span) in codes.iter_mut().zip(vectors.iter()).zip(&mut narrow[first..]) {
                let rounded = isa.round(isa.mul(isa.load(v), inverse));
                *to = isa.to_bytes(rounded);
                *span = [scale, (-64 * isa.sum_i(rounded)) as u32];
            }
        }
        let (mut from, mut to) = (&mut *narrow, wide);
        for _ in 1..SPANS {
            let (own, rest) = to.split_at_mut(from.len().div_ceil(2));
            for (span, pair) in own.iter_mut().zip(from.chunks(2)) {
                *span = [pair[0][0], pair.iter().fold(0, |a, b| a.wrapping_add(b[1]))];
            }
            (from, to) = (own, rest);
        }
        if !self.rotated {
            for [scale, sum] in &mut self.spans[self.padded / 16..][..self.padded.div_ceil(PLAIN_BLOCK)] {
                *sum = (*sum as i32 as f32 * (-1.0 / 64.0) * f32::from_bits(*scale)).to_bits();
            }
        }
        true
    }
}
