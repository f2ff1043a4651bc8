//! The instruction set that every machine has: plain loops over arrays.
use super::Isa;
use half::{bf16, f16};
use std::array::from_fn;

/// No instructions needed.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Isa for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    type Table = [u8; 64];
    const TOKENS: usize = 4;
    const BITS: bool = true;

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 16] {
        [v; 16]
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> [f32; 16] {
        *v
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i].abs())
    }
    #[inline(always)]
    fn lt(self, a: [f32; 16], b: [f32; 16]) -> u16 {
        (0..16).fold(0, |m, i| m | (u16::from(a[i] < b[i]) << i))
    }
    #[inline(always)]
    fn select(self, mask: u16, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if mask >> i & 1 == 1 { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn swap<const N: usize>(self, a: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i ^ N])
    }
    #[inline(always)]
    fn load_i8(self, v: &[i8; 16]) -> [f32; 16] {
        from_fn(|i| f32::from(v[i]))
    }
    #[inline(always)]
    fn load_f16(self, v: &[u16; 16]) -> [f32; 16] {
        from_fn(|i| f16::from_bits(v[i]).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, v: &[u16; 16]) -> [f32; 16] {
        from_fn(|i| bf16::from_bits(v[i]).to_f32())
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> [i32; 16] {
        [v; 16]
    }
    #[inline(always)]
    fn load_i(self, v: &[i32; 16]) -> [i32; 16] {
        *v
    }
    #[inline(always)]
    fn store_i(self, v: [i32; 16], to: &mut [i32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn add_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn max_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    fn and_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i] << N)
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i] >> N)
    }
    #[inline(always)]
    fn lookup(self, table: &[u32; 128], at: [i32; 16]) -> [i32; 16] {
        from_fn(|i| table[(at[i] & 127) as usize] as i32)
    }
    #[inline(always)]
    fn to_f(self, a: [i32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] as f32)
    }
    #[inline(always)]
    fn round(self, a: [f32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].round_ties_even() as i32)
    }
    #[inline(always)]
    fn trunc(self, a: [f32; 16]) -> [i32; 16] {
        from_fn(|i| a[i] as i32)
    }
    #[inline(always)]
    fn as_f(self, a: [i32; 16]) -> [f32; 16] {
        from_fn(|i| f32::from_bits(a[i] as u32))
    }
    #[inline(always)]
    fn as_i(self, a: [f32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].to_bits() as i32)
    }

    #[inline(always)]
    fn load_b(self, v: &[u8; 64]) -> [u8; 64] {
        *v
    }
    #[inline(always)]
    fn store_b(self, v: [u8; 64], to: &mut [u8; 64]) {
        *to = v;
    }
    #[inline(always)]
    fn load_b_twice(self, v: &[u8; 32], by: i32) -> [u8; 64] {
        let twice = from_fn(|i| v[i % 32]);
        let (first, second) = (self.shift_b(twice, by), self.shift_b(twice, by - 1));
        from_fn(|i| if i < 32 { first[i] } else { second[i] })
    }
    #[inline(always)]
    fn splat_b(self, v: u8) -> [u8; 64] {
        [v; 64]
    }
    #[inline(always)]
    fn splat_word(self, v: u32) -> [u8; 64] {
        from_fn(|i| v.to_le_bytes()[i % 4])
    }
    #[inline(always)]
    fn and_b(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or_b(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor_b(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn xor3_b(self, a: [u8; 64], b: [u8; 64], c: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] ^ b[i] ^ c[i])
    }
    #[inline(always)]
    fn bits(self, a: [u8; 64], rows: [u8; 8]) -> [u8; 64] {
        super::bits(self, a, rows)
    }
    #[inline(always)]
    fn shr_b<const N: u32>(self, a: [u8; 64]) -> [u8; 64] {
        from_fn(|i| (u16::from_le_bytes([a[i & !1], a[i | 1]]) >> N).to_le_bytes()[i & 1])
    }
    #[inline(always)]
    fn shl_b<const N: u32>(self, a: [u8; 64]) -> [u8; 64] {
        from_fn(|i| (u16::from_le_bytes([a[i & !1], a[i | 1]]) << N).to_le_bytes()[i & 1])
    }
    #[inline(always)]
    fn and_or_b(self, a: [u8; 64], mask: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] & mask[i] | b[i])
    }
    #[inline(always)]
    fn select_b(self, mask: [u8; 64], a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] & mask[i] | b[i] & !mask[i])
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_far(self, _: *const u8) {}
    #[inline(always)]
    fn table(self, v: &[u8; 64]) -> [u8; 64] {
        *v
    }
    #[inline(always)]
    fn look<const N: usize>(self, table: [u8; 64], at: [u8; 64]) -> [u8; 64] {
        from_fn(|i| table[usize::from(at[i] & 63)])
    }
    #[inline(always)]
    fn look_in(self, table: [u8; 64], at: [u8; 64], odd: [u8; 64], upper: Option<[u8; 64]>) -> [u8; 64] {
        from_fn(|i| table[usize::from(at[i] | odd[i] >> 7 << 4 | upper.map_or(0, |u| u[i] >> 7 << 5))])
    }
    #[inline(always)]
    fn dot_u7(self, acc: [i32; 16], w: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        self.dot_u8(acc, w, x)
    }
    #[inline(always)]
    fn dot_u8(self, acc: [i32; 16], w: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        from_fn(|i| acc[i] + (4 * i..4 * i + 4).map(|j| i32::from(w[j]) * i32::from(x[j] as i8)).sum::<i32>())
    }
}
