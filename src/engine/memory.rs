//! What the process takes, as the system counts it.

/// Peak resident bytes of this process (VmHWM), where the system tells.
pub fn peak_rss() -> Option<u64> {
    status("VmHWM:")
}

/// Resident bytes of this process now (VmRSS), where the system tells.
pub fn rss() -> Option<u64> {
    status("VmRSS:")
}

fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
