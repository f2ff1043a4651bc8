//! Memory that no cache holds, to measure what reading memory takes.

/// Takes the lines of `bytes` out of every cache. Nothing where the processor has no such instruction.
pub fn flush(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: every x86-64 processor has the instruction, and the address is that of a borrowed byte.
        unsafe { core::arch::x86_64::_mm_clflush(line.as_ptr()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
