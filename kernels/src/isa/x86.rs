//! The instruction sets of x86-64, found at run time.
mod avx2;
mod avx512;

use super::{Isa, Kernel, Level, bits};
use avx2::Avx2;
use avx512::Avx512;

/// Whether this machine has them.
pub fn available(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::Avx2 => Avx2::<false>::new().is_some(),
        Level::AvxVnni => Avx2::<true>::new().is_some(),
        Level::Avx512 => Avx512::<false, false>::new().is_some(),
        Level::Avx512Vnni => Avx512::<true, false>::new().is_some(),
        Level::Avx512Vbmi => Avx512::<true, true>::new().is_some(),
    }
}

/// [`dispatch`](super::dispatch) of all but scalar kernels.
pub fn run<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        Level::Scalar => unreachable!("scalar kernels need no instruction set"),
        // SAFETY (all five): the token's constructor has just found the shim's features on this machine.
        Level::Avx2 => {
            let isa = Avx2::<false>::new().expect("AVX2, FMA and F16C");
            // SAFETY: see above.
            unsafe { with_avx2(kernel, isa) }
        }
        Level::AvxVnni => {
            let isa = Avx2::<true>::new().expect("AVX2 and AVX-VNNI");
            // SAFETY: see above.
            unsafe { with_avx_vnni(kernel, isa) }
        }
        Level::Avx512 => {
            let isa = Avx512::<false, false>::new().expect("AVX-512");
            // SAFETY: see above.
            unsafe { with_avx512(kernel, isa) }
        }
        Level::Avx512Vnni => {
            let isa = Avx512::<true, false>::new().expect("AVX-512 VNNI");
            // SAFETY: see above.
            unsafe { with_avx512_vnni(kernel, isa) }
        }
        Level::Avx512Vbmi => {
            let isa = Avx512::<true, true>::new().expect("AVX-512 VNNI, VBMI and GFNI");
            // SAFETY: see above.
            unsafe { with_avx512_vbmi(kernel, isa) }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx2<K: Kernel>(kernel: K, isa: Avx2<false>) -> K::Out {
    kernel.run(isa)
}

#[target_feature(enable = "avxvnni,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx_vnni<K: Kernel>(kernel: K, isa: Avx2<true>) -> K::Out {
    kernel.run(isa)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx512<K: Kernel>(kernel: K, isa: Avx512<false, false>) -> K::Out {
    kernel.run(isa)
}

#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx512_vnni<K: Kernel>(kernel: K, isa: Avx512<true, false>) -> K::Out {
    kernel.run(isa)
}

#[target_feature(enable = "gfni,avx512vbmi,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx512_vbmi<K: Kernel>(kernel: K, isa: Avx512<true, true>) -> K::Out {
    kernel.run(isa)
}
