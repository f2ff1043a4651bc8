//! What a CPU can do, as a token: one algorithm, generic over [`Isa`], runs on every instruction set.
//!
//! Every instruction set shows the same virtual registers: 16 floats, 16 integers, 64 bytes. Lane order and the
//! order of every float operation are therefore the same everywhere, and so are the results, bit for bit.
//! A token exists only where its instructions do; target features stand in `isa/x86.rs` alone, in the shims of
//! [`dispatch`], and everything they call is `#[inline(always)]` so that it is compiled with the feature on.

mod flush;
mod scalar;
#[cfg(all(target_arch = "x86_64", not(portable)))]
mod x86;
/// What stands for it where there is none: other processors, and builds with `--cfg portable`.
#[cfg(not(all(target_arch = "x86_64", not(portable))))]
#[path = "isa/none.rs"]
mod x86;

pub use flush::flush;
use std::sync::OnceLock;

/// The operations kernels are written in. Floats follow x86: `min` and `max` give the second operand on a NaN,
/// `fma` rounds once, `round` goes to the nearest even integer.
pub trait Isa: Copy + Send + Sync {
    /// 16 x f32.
    type F: Copy;
    /// 16 x i32.
    type I: Copy;
    /// 64 x u8.
    type B: Copy;
    /// A table of up to 64 bytes, ready for [`Isa::look`].
    type Table: Copy;
    /// How many tokens one register block of the matrix product serves (a power of two, at most 8).
    const TOKENS: usize;
    /// How many tiles share a block of so many tokens, where levels are decoded before: 1 or 2.
    const TILES: usize = Self::TOKENS / 4;
    /// Whether [`Isa::bits`] is one instruction.
    const BITS: bool;
    /// What [`Isa::dot_c8`] takes off every byte of `w`: 128 where bytes with signs are the faster ones.
    const CENTRE: i32 = 0;

    /// All lanes `v`.
    fn splat(self, v: f32) -> Self::F;
    /// 16 floats.
    fn load(self, v: &[f32; 16]) -> Self::F;
    /// 16 floats.
    fn store(self, v: Self::F, to: &mut [f32; 16]);
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The smaller lane by lane.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger lane by lane.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Magnitudes.
    fn abs(self, a: Self::F) -> Self::F;
    /// Bit i set where lane i of `a` is less than lane i of `b`.
    fn lt(self, a: Self::F, b: Self::F) -> u16;
    /// Lane i of `a` where bit i is set, else of `b`.
    fn select(self, mask: u16, a: Self::F, b: Self::F) -> Self::F;
    /// Lane i takes lane `i ^ N`; N is 1, 2, 4 or 8.
    fn swap<const N: usize>(self, a: Self::F) -> Self::F;
    /// 16 signed bytes as floats.
    fn load_i8(self, v: &[i8; 16]) -> Self::F;
    /// 16 halves as floats.
    fn load_f16(self, v: &[u16; 16]) -> Self::F;
    /// 16 brain floats as floats.
    fn load_bf16(self, v: &[u16; 16]) -> Self::F;

    /// All lanes `v`.
    fn splat_i(self, v: i32) -> Self::I;
    /// 16 integers.
    fn load_i(self, v: &[i32; 16]) -> Self::I;
    /// 16 integers.
    fn store_i(self, v: Self::I, to: &mut [i32; 16]);
    /// `a + b`, wrapping.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`, wrapping.
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger lane by lane.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a & b`.
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a | b`.
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shift left.
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I;
    /// Arithmetic shift right.
    fn shr_i<const N: u32>(self, a: Self::I) -> Self::I;
    /// `table[lane & 127]` per lane.
    fn lookup(self, table: &[u32; 128], at: Self::I) -> Self::I;
    /// As floats.
    fn to_f(self, a: Self::I) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::I;
    /// Toward zero.
    fn trunc(self, a: Self::F) -> Self::I;
    /// The bits as they are.
    fn as_f(self, a: Self::I) -> Self::F;
    /// The bits as they are.
    fn as_i(self, a: Self::F) -> Self::I;

    /// The lowest bytes of the lanes, in order.
    #[inline(always)]
    fn to_bytes(self, a: Self::I) -> [u32; 4] {
        let mut lanes = [0; 16];
        self.store_i(a, &mut lanes);
        let words = lanes.as_chunks::<4>().0;
        std::array::from_fn(|i| u32::from_le_bytes(words[i].map(|v| v as u8)))
    }
    /// Sum of the lanes, wrapping.
    #[inline(always)]
    fn sum_i(self, a: Self::I) -> i32 {
        let mut lanes = [0i32; 16];
        self.store_i(a, &mut lanes);
        lanes.into_iter().fold(0, i32::wrapping_add)
    }

    /// 64 bytes.
    fn load_b(self, v: &[u8; 64]) -> Self::B;
    /// 64 bytes.
    fn store_b(self, v: Self::B, to: &mut [u8; 64]);
    /// The 32 bytes twice, as 16-bit words shifted by `by`, left where that is positive, and the second time one bit further
    /// right: bits cross from byte to byte, callers mask. `by` is a constant after inlining.
    fn load_b_twice(self, v: &[u8; 32], by: i32) -> Self::B;
    /// 64 times `v`.
    fn splat_b(self, v: u8) -> Self::B;
    /// Four bytes (little-endian), 16 times.
    fn splat_word(self, v: u32) -> Self::B;
    /// `a & b`.
    fn and_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a | b`.
    fn or_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a ^ b`.
    fn xor_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a ^ b ^ c`.
    fn xor3_b(self, a: Self::B, b: Self::B, c: Self::B) -> Self::B;
    /// Bit i of every byte becomes the parity of those of its bits that `rows[i]` has: a product with a matrix of bits.
    fn bits(self, a: Self::B, rows: [u8; 8]) -> Self::B;
    /// Shift of 16-bit words: bits cross from byte to byte, callers mask.
    fn shr_b<const N: u32>(self, a: Self::B) -> Self::B;
    /// Shift of 16-bit words: bits cross from byte to byte, callers mask.
    fn shl_b<const N: u32>(self, a: Self::B) -> Self::B;
    /// `(a & mask) | b`.
    fn and_or_b(self, a: Self::B, mask: Self::B, b: Self::B) -> Self::B;
    /// Bits of `a` where `mask` has them, else of `b`.
    fn select_b(self, mask: Self::B, a: Self::B, b: Self::B) -> Self::B;
    /// `a ^ (b & mask)`.
    #[inline(always)]
    fn xor_and_b(self, a: Self::B, b: Self::B, mask: Self::B) -> Self::B {
        self.xor_b(a, self.and_b(b, mask))
    }
    /// Asks for a cache line that is read soon; any address will do.
    fn prefetch(self, at: *const u8);
    /// The same for what is read later, into a cache that holds more.
    fn prefetch_far(self, at: *const u8);
    /// Makes a table ready.
    fn table(self, v: &[u8; 64]) -> Self::Table;
    /// `table[byte]` for bytes below 16, or, where [`Isa::BITS`], for the lower six bits of any (N is 16 or 64).
    fn look<const N: usize>(self, table: Self::Table, at: Self::B) -> Self::B;
    /// The same for bytes below 16 in one of the table's quarters, where not [`Isa::BITS`]: 0, or 1 where `odd` has a byte's top
    /// bit, or 2 and 3 where `upper` has it.
    fn look_in(self, table: Self::Table, at: Self::B, odd: Self::B, upper: Option<Self::B>) -> Self::B;
    /// Adds to integer lane i the product of unsigned bytes 4i..4i+4 of `w`, all at most 127, with signed bytes of `x`.
    fn dot_u7(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I;
    /// The same for any unsigned bytes.
    fn dot_u8(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I;
    /// The same less [`Isa::CENTRE`] for each of `w`, where no byte of `x` is -128.
    #[inline(always)]
    fn dot_c8(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I {
        self.dot_u8(acc, w, x)
    }

    /// Shift of 16-bit words, left where `by` is positive: bits cross from byte to byte, callers mask. `by` is a constant
    /// after inlining.
    #[inline(always)]
    fn shift_b(self, a: Self::B, by: i32) -> Self::B {
        match by {
            0 => a,
            1 => self.shl_b::<1>(a),
            2 => self.shl_b::<2>(a),
            3 => self.shl_b::<3>(a),
            4 => self.shl_b::<4>(a),
            5 => self.shl_b::<5>(a),
            6 => self.shl_b::<6>(a),
            -1 => self.shr_b::<1>(a),
            -2 => self.shr_b::<2>(a),
            -3 => self.shr_b::<3>(a),
            -4 => self.shr_b::<4>(a),
            -5 => self.shr_b::<5>(a),
            -6 => self.shr_b::<6>(a),
            _ => self.shr_b::<7>(a),
        }
    }

    /// Sum of the lanes, by halving.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let a = self.add(a, self.swap::<8>(a));
        let a = self.add(a, self.swap::<4>(a));
        let a = self.add(a, self.swap::<2>(a));
        let a = self.add(a, self.swap::<1>(a));
        let mut out = [0.0; 16];
        self.store(a, &mut out);
        out[0]
    }

    /// Largest lane.
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        let a = self.max(a, self.swap::<8>(a));
        let a = self.max(a, self.swap::<4>(a));
        let a = self.max(a, self.swap::<2>(a));
        let a = self.max(a, self.swap::<1>(a));
        let mut out = [0.0; 16];
        self.store(a, &mut out);
        out[0]
    }

    /// Lane by lane the larger of `most` and the bits of a magnitude: their order as integers is that of the numbers, and those of a
    /// NaN or an infinity, which a maximum of floats may drop, are above them all.
    #[inline(always)]
    fn larger_bits(self, a: Self::F, most: Self::I) -> Self::I {
        self.max_i(self.as_i(self.abs(a)), most)
    }

    /// The largest magnitude whose bits a lane has.
    #[inline(always)]
    fn largest_bits(self, a: Self::I) -> f32 {
        let a = self.max_i(a, self.as_i(self.swap::<8>(self.as_f(a))));
        let a = self.max_i(a, self.as_i(self.swap::<4>(self.as_f(a))));
        let a = self.max_i(a, self.as_i(self.swap::<2>(self.as_f(a))));
        let a = self.max_i(a, self.as_i(self.swap::<1>(self.as_f(a))));
        let mut out = [0; 16];
        self.store_i(a, &mut out);
        f32::from_bits(out[0] as u32)
    }

    /// e^x to 2 units in the last place; 0 below -87.3, e^88 above 88, NaN for a NaN (Cephes' expf: range reduction by ln 2 in two parts).
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        let low = self.lt(x, self.splat(-87.3));
        // A NaN is the second operand of both, and stays.
        let x = self.max(self.splat(-87.3), self.min(self.splat(88.0), x));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let nf = self.to_f(n);
        let r = self.fma(nf, self.splat(-0.693_359_4), x);
        let r = self.fma(nf, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.fma(p, r, self.splat(c));
        }
        let p = self.add(self.fma(p, self.mul(r, r), r), self.splat(1.0));
        let scale = self.as_f(self.shl_i::<23>(self.add_i(n, self.splat_i(127))));
        self.select(low, self.splat(0.0), self.mul(p, scale))
    }
}

/// [`Isa::bits`] byte by byte.
fn bits<I: Isa>(isa: I, a: I::B, rows: [u8; 8]) -> I::B {
    let mut bytes = [0u8; 64];
    isa.store_b(a, &mut bytes);
    for byte in &mut bytes {
        let parities = rows.iter().enumerate().map(|(i, row)| ((row & *byte).count_ones() as u8 & 1) << i);
        *byte = parities.sum();
    }
    isa.load_b(&bytes)
}

/// A computation that is generic over the instruction set.
pub trait Kernel {
    /// What it gives.
    type Out;
    /// Runs it; implementations are `#[inline(always)]`.
    fn run<I: Isa>(self, isa: I) -> Self::Out;
}

/// An instruction set that kernels are compiled for, from slowest to fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No instruction set needed.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
    /// The same with VNNI, VBMI and GFNI.
    Avx512Vbmi,
}

impl Level {
    /// All of them.
    pub const ALL: [Level; 6] = [Level::Scalar, Level::Avx2, Level::AvxVnni, Level::Avx512, Level::Avx512Vnni, Level::Avx512Vbmi];

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        match self {
            Level::Scalar => true,
            Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Vbmi => x86::available(self),
        }
    }

    /// Tokens that one register block of the matrix product serves, and the tiles that share it: [`Isa::TOKENS`], [`Isa::TILES`].
    pub fn block(self) -> (usize, usize) {
        struct Block;
        impl Kernel for Block {
            type Out = (usize, usize);
            #[inline(always)]
            fn run<I: Isa>(self, _: I) -> (usize, usize) {
                (I::TOKENS, I::TILES)
            }
        }
        dispatch(self, Block)
    }

    /// The fastest that this machine has.
    pub fn best() -> Level {
        Level::ALL.into_iter().rev().find(|l| l.available()).unwrap_or(Level::Scalar)
    }

    /// What `RAM_RUN_ISA` asks for (`scalar`, `avx2`, `avxvnni` or `avx512`), else the fastest.
    ///
    /// # Errors
    /// A sentence where the variable names none of them, or one that this machine lacks.
    pub fn from_env() -> Result<Level, String> {
        let Some(asked) = std::env::var_os("RAM_RUN_ISA") else { return Ok(Level::best()) };
        let level = match asked.to_str() {
            Some("scalar") => Level::Scalar,
            Some("avx2") => Level::Avx2,
            Some("avxvnni") => Level::AvxVnni,
            Some("avx512") => Level::best().max(Level::Avx512),
            _ => return Err(format!("RAM_RUN_ISA={} is not scalar, avx2, avxvnni or avx512", asked.display())),
        };
        if level.available() { Ok(level) } else { Err(format!("RAM_RUN_ISA={}: this machine's processor does not have it", asked.display())) }
    }

    /// The level that all operations of this process use: [`Level::from_env`], the fastest where that fails.
    pub fn active() -> Level {
        static ACTIVE: OnceLock<Level> = OnceLock::new();
        *ACTIVE.get_or_init(|| Level::from_env().unwrap_or_else(|_| Level::best()))
    }
}

/// Runs a kernel with the instructions of `level`.
///
/// # Panics
/// If the machine does not have that level.
pub fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        Level::Scalar => kernel.run(scalar::Scalar),
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Avx512Vbmi => x86::run(level, kernel),
    }
}
