//! What the machine gives: memory that is really free, and how fast it is read.
use crate::memory::rss;
use rayon::prelude::*;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// Memory that a process started now may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes, the least of all limits.
    pub bytes: u64,
    /// Bytes that it may have at the most, whatever else runs now.
    pub total: u64,
    /// What sets the limit, in words.
    pub limit: String,
}

/// Memory that is free: what the system calls available, less where a cgroup (v1 or v2) allows less.
pub fn available() -> Option<Available> {
    in_root(Path::new("/"))
}

fn in_root(root: &Path) -> Option<Available> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kilobytes = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    let mut least = Available { bytes: kilobytes("MemAvailable:")? << 10, total: kilobytes("MemTotal:")? << 10, limit: "available memory".into() };
    for (folder, limit, used) in cgroups(root) {
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        // "max" is no number, and version 1 writes a huge one: both mean no limit.
        let Some(limit) = number(limit) else { continue };
        // Pages of files that could be dropped count as used; what was not touched for long does not hold us back.
        let droppable = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let droppable =
            droppable.lines().find_map(|l| l.strip_prefix("inactive_file ").or(l.strip_prefix("total_inactive_file "))?.parse::<u64>().ok());
        let free = limit.saturating_sub(number(used).unwrap_or(0).saturating_sub(droppable.unwrap_or(0)));
        least.total = least.total.min(limit);
        if free < least.bytes {
            (least.bytes, least.limit) = (free, format!("cgroup limit in {}", folder.display()));
        }
    }
    Some(least)
}

/// Folders of this process' memory cgroups and their parents, with the names of limit and use.
fn cgroups(root: &Path) -> Vec<(PathBuf, &'static str, &'static str)> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, limit, used) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
            c if c.split(',').any(|c| c == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        // In a container the path may be the host's: then only the root of the mount is there.
        let base = root.join(base);
        let mut folder = base.join(path.trim_start_matches('/'));
        while folder.starts_with(&base) {
            found.push((folder.clone(), limit, used));
            folder.pop();
        }
    }
    found
}

/// Most memory that is read to measure bandwidth: enough that starting threads takes no time beside it.
const MEASURED: u64 = 128 << 20;
/// What a measurement leaves of a budget to whatever else grows meanwhile.
const MARGIN: u64 = 8 << 20;
/// Below this, starting threads takes longer than reading.
const LEAST: u64 = 4 << 20;

/// Bytes of memory that [`read_bandwidth`] may take: at most 128 MiB, and what a budget of the process leaves beside what it takes
/// now. None where that is too little to measure with.
pub fn bandwidth_bytes(budget: Option<u64>) -> Option<usize> {
    let left = budget.map_or(u64::MAX, |budget| budget.saturating_sub(rss().unwrap_or(0) + MARGIN));
    let bytes = MEASURED.min(left).min(available().map_or(u64::MAX, |free| free.bytes / 2));
    (bytes >= LEAST).then_some(bytes as usize)
}

/// Bytes per second at which all threads together read memory that no cache holds, in pages like those of packed weights: the
/// median of five passes over `bytes` of it, each put out of the caches before. The limit of decoding, in which every weight is
/// read once per token.
///
/// # Panics
/// If the system does not give that much address space.
pub fn read_bandwidth(bytes: usize) -> f64 {
    let mut arena = ram_kernels::Arena::new(bytes).expect("address space");
    arena.bytes_mut().fill(1);
    let share = bytes.div_ceil(rayon::current_num_threads().max(1)).next_multiple_of(64);
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            arena.bytes().par_chunks(share).for_each(ram_kernels::isa::flush);
            let start = Instant::now();
            // Eight words side by side, so that operations do not wait for each other.
            let mixed: u64 = arena
                .bytes()
                .par_chunks(share)
                .map(|part| {
                    let mut mixed = [0u64; 8];
                    for line in part.as_chunks::<8>().0.as_chunks::<8>().0 {
                        mixed.iter_mut().zip(line).for_each(|(m, v)| *m ^= u64::from_le_bytes(*v));
                    }
                    mixed.iter().fold(0, |a, b| a ^ b)
                })
                .reduce(|| 0, |a, b| a ^ b);
            std::hint::black_box(mixed);
            bytes as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("written");
        }
        folder
    }

    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal:       8000 kB\nMemFree: 10 kB\nMemAvailable:   6000 kB\n");

    #[test]
    fn measuring_keeps_to_a_budget() {
        assert_eq!(bandwidth_bytes(Some(1000)), None);
        let now = rss().expect("a Linux");
        let bytes = bandwidth_bytes(Some(now + (40 << 20))).expect("enough") as u64;
        assert!(bytes <= 40 << 20, "{bytes}");
        assert!(bandwidth_bytes(None).expect("enough") as u64 <= MEASURED);
        assert!(read_bandwidth(16 << 20) > 0.0);
    }

    #[test]
    fn the_least_limit_counts() {
        let none = in_root(root(&[MEMORY]).path()).expect("memory");
        assert_eq!((none.bytes, none.total), (6000 << 10, 8000 << 10));
        let two = root(&[
            MEMORY,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "4194304\n"),
            ("sys/fs/cgroup/a/memory.current", "2097152\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 1048576\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ]);
        let two = in_root(two.path()).expect("memory");
        assert_eq!((two.bytes, two.total), (3 << 20, 4 << 20));
        assert!(two.limit.contains("cgroup/a"));
        let one = root(&[
            MEMORY,
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3145728\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1048576\n"),
        ]);
        assert_eq!(in_root(one.path()).expect("memory").bytes, 2 << 20);
    }
}
