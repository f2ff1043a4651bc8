//! AVX-512: a virtual register is a real one; VNNI and VBMI where the machine has them.
use super::Isa;
use core::arch::x86_64::*;

/// Exists only where the machine has AVX-512 F, BW, DQ and VL, and VNNI, and VBMI with GFNI, as the parameters say.
#[derive(Clone, Copy)]
pub struct Avx512<const VNNI: bool, const VBMI: bool>(());

impl<const VNNI: bool, const VBMI: bool> Avx512<VNNI, VBMI> {
    /// The token, where the machine has what it stands for.
    pub fn new() -> Option<Self> {
        let has = super::avx2::Avx2::<false>::new().is_some() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let has = has && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl");
        let has = has
            && (!VNNI || is_x86_feature_detected!("avx512vnni"))
            && (!VBMI || is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("gfni"));
        has.then_some(Avx512(()))
    }
}

/// The one way into intrinsics in this file.
macro_rules! op {
    ($e:expr) => {{
        // SAFETY: `self` exists, so the machine has the instructions; pointers come from references to whole arrays.
        unsafe { $e }
    }};
}

impl<const VNNI: bool, const VBMI: bool> Isa for Avx512<VNNI, VBMI> {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type Table = [__m512i; 4];
    const TOKENS: usize = 8;
    const BITS: bool = VBMI;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        op!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> __m512 {
        op!(_mm512_loadu_ps(v.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; 16]) {
        op!(_mm512_storeu_ps(to.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> u16 {
        op!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn select(self, mask: u16, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(mask, b, a))
    }
    #[inline(always)]
    fn swap<const N: usize>(self, a: __m512) -> __m512 {
        match N {
            1 => op!(_mm512_permute_ps::<0xb1>(a)),
            2 => op!(_mm512_permute_ps::<0x4e>(a)),
            4 => op!(_mm512_shuffle_f32x4::<0xb1>(a, a)),
            _ => op!(_mm512_shuffle_f32x4::<0x4e>(a, a)),
        }
    }
    #[inline(always)]
    fn load_i8(self, v: &[i8; 16]) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(v.as_ptr().cast()))))
    }
    #[inline(always)]
    fn load_f16(self, v: &[u16; 16]) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, v: &[u16; 16]) -> __m512 {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(v.as_ptr().cast())))))
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> __m512i {
        op!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    fn load_i(self, v: &[i32; 16]) -> __m512i {
        op!(_mm512_loadu_si512(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_i(self, v: __m512i, to: &mut [i32; 16]) {
        op!(_mm512_storeu_si512(to.as_mut_ptr().cast(), v))
    }
    #[inline(always)]
    fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub_i(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn max_i(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_max_epi32(a, b))
    }
    #[inline(always)]
    fn and_i(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or_i(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_slli_epi32::<N>(a))
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_srai_epi32::<N>(a))
    }
    #[inline(always)]
    fn lookup(self, table: &[u32; 128], at: __m512i) -> __m512i {
        // Four look-ups in 32 entries each, the right one chosen by bits 5 and 6: a gather of 16 takes longer.
        // SAFETY: as above; the eight loads cover the table's 512 bytes.
        let part = |k: usize| unsafe {
            let p = table.as_ptr().add(32 * k).cast::<i32>();
            _mm512_permutex2var_epi32(_mm512_loadu_si512(p.cast()), at, _mm512_loadu_si512(p.add(16).cast()))
        };
        let (b5, b6) = op!((_mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), _mm512_test_epi32_mask(at, _mm512_set1_epi32(64))));
        let (low, high) = op!((_mm512_mask_blend_epi32(b5, part(0), part(1)), _mm512_mask_blend_epi32(b5, part(2), part(3))));
        op!(_mm512_mask_blend_epi32(b6, low, high))
    }
    #[inline(always)]
    fn to_f(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn trunc(self, a: __m512) -> __m512i {
        op!(_mm512_cvttps_epi32(a))
    }
    #[inline(always)]
    fn as_f(self, a: __m512i) -> __m512 {
        op!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn as_i(self, a: __m512) -> __m512i {
        op!(_mm512_castps_si512(a))
    }

    #[inline(always)]
    fn to_bytes(self, a: __m512i) -> [u32; 4] {
        let mut out = [0; 4];
        // SAFETY: as above; the store covers the array's 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)) };
        out
    }

    #[inline(always)]
    fn load_b(self, v: &[u8; 64]) -> __m512i {
        op!(_mm512_loadu_si512(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_b(self, v: __m512i, to: &mut [u8; 64]) {
        op!(_mm512_storeu_si512(to.as_mut_ptr().cast(), v))
    }
    #[inline(always)]
    fn load_b_twice(self, v: &[u8; 32], by: i32) -> __m512i {
        let v = op!(_mm512_broadcast_i64x4(_mm256_loadu_si256(v.as_ptr().cast())));
        let by = by as i16;
        if by > 0 {
            return op!(_mm512_sllv_epi16(v, _mm512_inserti64x4::<1>(_mm512_set1_epi16(by), _mm256_set1_epi16(by - 1))));
        }
        op!(_mm512_srlv_epi16(v, _mm512_inserti64x4::<1>(_mm512_set1_epi16(-by), _mm256_set1_epi16(1 - by))))
    }
    #[inline(always)]
    fn splat_b(self, v: u8) -> __m512i {
        op!(_mm512_set1_epi8(v as i8))
    }
    #[inline(always)]
    fn splat_word(self, v: u32) -> __m512i {
        op!(_mm512_set1_epi32(v as i32))
    }
    #[inline(always)]
    fn and_b(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or_b(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn xor_b(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn xor3_b(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        op!(_mm512_ternarylogic_epi32::<0x96>(a, b, c))
    }
    #[inline(always)]
    fn bits(self, a: __m512i, rows: [u8; 8]) -> __m512i {
        if VBMI {
            return op!(_mm512_gf2p8affine_epi64_epi8::<0>(a, _mm512_set1_epi64(i64::from_be_bytes(rows))));
        }
        super::bits(self, a, rows)
    }
    #[inline(always)]
    fn shr_b<const N: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_srli_epi16::<N>(a))
    }
    #[inline(always)]
    fn shl_b<const N: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_slli_epi16::<N>(a))
    }
    #[inline(always)]
    fn and_or_b(self, a: __m512i, mask: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_ternarylogic_epi32::<0xea>(a, mask, b))
    }
    #[inline(always)]
    fn select_b(self, mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_ternarylogic_epi32::<0xca>(mask, a, b))
    }
    #[inline(always)]
    fn xor_and_b(self, a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
        op!(_mm512_ternarylogic_epi32::<0x78>(a, b, mask))
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
        if VBMI {
            return [self.load_b(v); 4];
        }
        let quarters = v.as_chunks::<16>().0;
        core::array::from_fn(|i| op!(_mm512_broadcast_i32x4(_mm_loadu_si128(quarters[i].as_ptr().cast()))))
    }
    #[inline(always)]
    fn look<const N: usize>(self, table: Self::Table, at: __m512i) -> __m512i {
        if VBMI {
            return op!(_mm512_permutexvar_epi8(at, table[0]));
        }
        debug_assert!(N == 16, "without products of bits nothing asks for more");
        op!(_mm512_shuffle_epi8(table[0], at))
    }
    #[inline(always)]
    fn look_in(self, table: Self::Table, at: __m512i, odd: __m512i, upper: Option<__m512i>) -> __m512i {
        let odd = op!(_mm512_movepi8_mask(odd));
        let low = op!(_mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(table[0], at), odd, table[1], at));
        let Some(upper) = upper else { return low };
        let high = op!(_mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(table[2], at), odd, table[3], at));
        op!(_mm512_mask_blend_epi8(_mm512_movepi8_mask(upper), low, high))
    }
    #[inline(always)]
    fn dot_u7(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        if VNNI {
            return op!(_mm512_dpbusd_epi32(acc, w, x));
        }
        // Pairs of products are at most 2 * 127 * 127 < 32768: the saturating 16-bit sum is exact.
        op!(_mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1))))
    }
    #[inline(always)]
    fn dot_u8(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        if VNNI {
            return op!(_mm512_dpbusd_epi32(acc, w, x));
        }
        // w = 2 * (w >> 1) + (w & 1), each half small enough for the saturating product.
        let acc = self.dot_u7(acc, self.and_b(w, self.splat_b(1)), x);
        let upper = self.and_b(self.shr_b::<1>(w), self.splat_b(127));
        op!(_mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(upper, x), _mm512_set1_epi16(2))))
    }
}
