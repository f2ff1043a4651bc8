//! Packed bytes into levels, and into floats.
mod bits;
mod codec;
mod embed;
mod levels;
mod lift;
mod planes;
mod shifts;
mod unpack;

#[cfg(test)]
pub use codec::zeros;
pub use codec::{AffineScaling, Centred, Codec, CodecKernel, Scaling, by_codec};
pub use embed::embed;
pub use levels::{E2M1, of as levels, tables};
pub use lift::{Lifted, lift};
pub use planes::{Decoder, words};
pub use unpack::{Decode, Levels, dequantize_row, dequantize_rows, with_memory};
