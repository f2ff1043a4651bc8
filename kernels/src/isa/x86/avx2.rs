//! AVX2 with FMA and F16C: a virtual register is a pair of 256-bit ones; AVX-VNNI where the machine has it.
use super::Isa;
use core::arch::x86_64::*;

/// Exists only where the machine has AVX2, FMA and F16C, and AVX-VNNI, as the parameter says.
#[derive(Clone, Copy)]
pub struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// The token, where the machine has what it stands for.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let has = has && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        let has = has && is_x86_feature_detected!("lzcnt") && is_x86_feature_detected!("popcnt");
        (has && (!VNNI || is_x86_feature_detected!("avxvnni"))).then_some(Avx2(()))
    }
}

/// The one way into intrinsics in this file.
macro_rules! op {
    ($e:expr) => {{
        // SAFETY: `self` exists, so the machine has the instructions; pointers come from references to whole arrays.
        unsafe { $e }
    }};
}
/// One intrinsic on both halves.
macro_rules! both {
    ($f:expr; $($a:expr),*) => { op!([$f($($a[0]),*), $f($($a[1]),*)]) };
}

impl<const VNNI: bool> Isa for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    type Table = [__m256i; 4];
    const TOKENS: usize = 4;
    const BITS: bool = false;
    const CENTRE: i32 = if VNNI { 0 } else { 128 };

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        op!([_mm256_set1_ps(v); 2])
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> Self::F {
        op!([_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v.as_ptr().add(8))])
    }
    #[inline(always)]
    fn store(self, v: Self::F, to: &mut [f32; 16]) {
        op!({
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        })
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps; a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps; a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps; a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps; a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps; a, b, c)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps; a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps; a, b)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        let sign = self.splat(-0.0);
        both!(_mm256_andnot_ps; sign, a)
    }
    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> u16 {
        let m = op!([_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])]);
        op!(_mm256_movemask_ps(m[0]) as u16 | (_mm256_movemask_ps(m[1]) as u16) << 8)
    }
    #[inline(always)]
    fn select(self, mask: u16, a: Self::F, b: Self::F) -> Self::F {
        let half = |bits: i32| {
            let each = op!(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128));
            op!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), each), each)))
        };
        let m = [half(i32::from(mask & 255)), half(i32::from(mask >> 8))];
        both!(_mm256_blendv_ps; b, a, m)
    }
    #[inline(always)]
    fn swap<const N: usize>(self, a: Self::F) -> Self::F {
        match N {
            1 => op!([_mm256_permute_ps::<0xb1>(a[0]), _mm256_permute_ps::<0xb1>(a[1])]),
            2 => op!([_mm256_permute_ps::<0x4e>(a[0]), _mm256_permute_ps::<0x4e>(a[1])]),
            4 => op!([_mm256_permute2f128_ps::<1>(a[0], a[0]), _mm256_permute2f128_ps::<1>(a[1], a[1])]),
            _ => [a[1], a[0]],
        }
    }
    #[inline(always)]
    fn load_i8(self, v: &[i8; 16]) -> Self::F {
        let v = op!(_mm_loadu_si128(v.as_ptr().cast()));
        op!([_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v)))])
    }
    #[inline(always)]
    fn load_f16(self, v: &[u16; 16]) -> Self::F {
        op!([_mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().cast())), _mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().add(8).cast()))])
    }
    #[inline(always)]
    fn load_bf16(self, v: &[u16; 16]) -> Self::F {
        let v = op!([_mm256_cvtepu16_epi32(_mm_loadu_si128(v.as_ptr().cast())), _mm256_cvtepu16_epi32(_mm_loadu_si128(v.as_ptr().add(8).cast()))]);
        op!([_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v[0])), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v[1]))])
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> Self::I {
        op!([_mm256_set1_epi32(v); 2])
    }
    #[inline(always)]
    fn load_i(self, v: &[i32; 16]) -> Self::I {
        op!([_mm256_loadu_si256(v.as_ptr().cast()), _mm256_loadu_si256(v.as_ptr().add(8).cast())])
    }
    #[inline(always)]
    fn store_i(self, v: Self::I, to: &mut [i32; 16]) {
        op!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), v[1]);
        })
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_add_epi32; a, b)
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_sub_epi32; a, b)
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_max_epi32; a, b)
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_and_si256; a, b)
    }
    #[inline(always)]
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_or_si256; a, b)
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I {
        let n = op!(_mm_cvtsi32_si128(N as i32));
        op!([_mm256_sll_epi32(a[0], n), _mm256_sll_epi32(a[1], n)])
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: Self::I) -> Self::I {
        let n = op!(_mm_cvtsi32_si128(N as i32));
        op!([_mm256_sra_epi32(a[0], n), _mm256_sra_epi32(a[1], n)])
    }
    #[inline(always)]
    fn lookup(self, table: &[u32; 128], at: Self::I) -> Self::I {
        let at = self.and_i(at, self.splat_i(127));
        // SAFETY: as above, and every index is below 128.
        unsafe { [_mm256_i32gather_epi32::<4>(table.as_ptr().cast(), at[0]), _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), at[1])] }
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps; a)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32; a)
    }
    #[inline(always)]
    fn trunc(self, a: Self::F) -> Self::I {
        both!(_mm256_cvttps_epi32; a)
    }
    #[inline(always)]
    fn as_f(self, a: Self::I) -> Self::F {
        both!(_mm256_castsi256_ps; a)
    }
    #[inline(always)]
    fn as_i(self, a: Self::F) -> Self::I {
        both!(_mm256_castps_si256; a)
    }

    #[inline(always)]
    fn load_b(self, v: &[u8; 64]) -> Self::B {
        op!([_mm256_loadu_si256(v.as_ptr().cast()), _mm256_loadu_si256(v.as_ptr().add(32).cast())])
    }
    #[inline(always)]
    fn store_b(self, v: Self::B, to: &mut [u8; 64]) {
        op!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(32).cast(), v[1]);
        })
    }
    #[inline(always)]
    fn load_b_twice(self, v: &[u8; 32], by: i32) -> Self::B {
        let v = op!(_mm256_loadu_si256(v.as_ptr().cast()));
        let n = |n: i32| op!(_mm_cvtsi32_si128(n));
        if by > 0 {
            return op!([_mm256_sll_epi16(v, n(by)), _mm256_sll_epi16(v, n(by - 1))]);
        }
        op!([_mm256_srl_epi16(v, n(-by)), _mm256_srl_epi16(v, n(1 - by))])
    }
    #[inline(always)]
    fn splat_b(self, v: u8) -> Self::B {
        op!([_mm256_set1_epi8(v as i8); 2])
    }
    #[inline(always)]
    fn splat_word(self, v: u32) -> Self::B {
        op!([_mm256_set1_epi32(v as i32); 2])
    }
    #[inline(always)]
    fn and_b(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm256_and_si256; a, b)
    }
    #[inline(always)]
    fn or_b(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm256_or_si256; a, b)
    }
    #[inline(always)]
    fn xor_b(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm256_xor_si256; a, b)
    }
    #[inline(always)]
    fn xor3_b(self, a: Self::B, b: Self::B, c: Self::B) -> Self::B {
        self.xor_b(self.xor_b(a, b), c)
    }
    #[inline(always)]
    fn bits(self, a: Self::B, rows: [u8; 8]) -> Self::B {
        super::bits(self, a, rows)
    }
    #[inline(always)]
    fn shr_b<const N: u32>(self, a: Self::B) -> Self::B {
        let n = op!(_mm_cvtsi32_si128(N as i32));
        op!([_mm256_srl_epi16(a[0], n), _mm256_srl_epi16(a[1], n)])
    }
    #[inline(always)]
    fn shl_b<const N: u32>(self, a: Self::B) -> Self::B {
        let n = op!(_mm_cvtsi32_si128(N as i32));
        op!([_mm256_sll_epi16(a[0], n), _mm256_sll_epi16(a[1], n)])
    }
    #[inline(always)]
    fn and_or_b(self, a: Self::B, mask: Self::B, b: Self::B) -> Self::B {
        self.or_b(self.and_b(a, mask), b)
    }
    #[inline(always)]
    fn select_b(self, mask: Self::B, a: Self::B, b: Self::B) -> Self::B {
        let rest = both!(_mm256_andnot_si256; mask, b);
        self.or_b(self.and_b(a, mask), rest)
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
    #[inline(always)]
    fn prefetch_far(self, at: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
    #[inline(always)]
    fn table(self, v: &[u8; 64]) -> Self::Table {
        let quarters = v.as_chunks::<16>().0;
        core::array::from_fn(|i| op!(_mm256_broadcastsi128_si256(_mm_loadu_si128(quarters[i].as_ptr().cast()))))
    }
    #[inline(always)]
    fn look<const N: usize>(self, table: Self::Table, at: Self::B) -> Self::B {
        debug_assert!(N == 16, "without products of bits nothing asks for more");
        op!([_mm256_shuffle_epi8(table[0], at[0]), _mm256_shuffle_epi8(table[0], at[1])])
    }
    #[inline(always)]
    fn look_in(self, table: Self::Table, at: Self::B, odd: Self::B, upper: Option<Self::B>) -> Self::B {
        let mut out = at;
        for (i, out) in out.iter_mut().enumerate() {
            *out = op!(_mm256_blendv_epi8(_mm256_shuffle_epi8(table[0], at[i]), _mm256_shuffle_epi8(table[1], at[i]), odd[i]));
            if let Some(upper) = upper {
                let high = op!(_mm256_blendv_epi8(_mm256_shuffle_epi8(table[2], at[i]), _mm256_shuffle_epi8(table[3], at[i]), odd[i]));
                *out = op!(_mm256_blendv_epi8(*out, high, upper[i]));
            }
        }
        out
    }
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I {
        if VNNI {
            return both!(_mm256_dpbusd_avx_epi32; acc, w, x);
        }
        // Pairs of products are at most 2 * 127 * 127 < 32768: the saturating 16-bit sum is exact.
        let pairs = both!(_mm256_maddubs_epi16; w, x);
        let ones = op!([_mm256_set1_epi16(1); 2]);
        let dots = both!(_mm256_madd_epi16; pairs, ones);
        both!(_mm256_add_epi32; acc, dots)
    }
    #[inline(always)]
    fn dot_u8(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I {
        if VNNI {
            return both!(_mm256_dpbusd_avx_epi32; acc, w, x);
        }
        // w = 2 * (w >> 1) + (w & 1), each half small enough for the saturating product.
        let upper = self.and_b(self.shr_b::<1>(w), self.splat_b(127));
        let lower = self.and_b(w, self.splat_b(1));
        let acc = self.dot_u7(acc, lower, x);
        let pairs = both!(_mm256_maddubs_epi16; upper, x);
        let twos = op!([_mm256_set1_epi16(2); 2]);
        let dots = both!(_mm256_madd_epi16; pairs, twos);
        both!(_mm256_add_epi32; acc, dots)
    }
    #[inline(always)]
    fn dot_c8(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I {
        if VNNI {
            return self.dot_u8(acc, w, x);
        }
        // |w - 128| is at most 128, with its sign moved to x: pairs are at most 2 * 128 * 127 < 32768.
        let signed = self.xor_b(w, self.splat_b(128));
        let size = [op!(_mm256_abs_epi8(signed[0])), op!(_mm256_abs_epi8(signed[1]))];
        let x = both!(_mm256_sign_epi8; x, signed);
        self.dot_u7(acc, size, x)
    }
}
