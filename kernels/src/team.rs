//! The threads of one computation. A forward pass is some tens of parallel regions of a fraction of a millisecond; between
//! them helpers wait by spinning, so that a region costs a microsecond, and park where the next one is long in coming.
//!
//! Helpers are workers of the process' one rayon pool, lent for as long as a [`team`] lasts. Nobody waits for a helper that
//! has not come yet: where all of them are busy elsewhere, the caller computes alone.
use crate::isa::Level;
use std::{
    any::Any,
    cell::Cell,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::PoisonError,
};
use sync::{
    Arc, Condvar, Mutex, UnsafeCell,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    spin_loop, yield_now,
};

/// What threads share: the standard library's, or loom's, which tries the orders in which threads may do what they do. Under loom there
/// is no time: who would spin for a while looks once.
#[cfg(not(loom))]
mod sync {
    use std::time::{Duration, Instant};
    pub use std::{
        hint::spin_loop,
        sync::{Arc, Condvar, Mutex, atomic},
        thread::yield_now,
    };

    /// How long a helper spins before it parks: longer than what one thread does alone within a layer, shorter than anyone notices.
    pub const SPIN: Duration = Duration::from_micros(100);

    /// What `found` gives within [`SPIN`].
    #[inline(always)]
    pub fn spin<R>(found: impl Fn() -> Option<R>) -> Option<R> {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..64 {
                let result = found();
                if result.is_some() {
                    return result;
                }
                spin_loop();
            }
        }
        None
    }

    /// Loom takes sequentially consistent accesses for those that only acquire and release; where more is needed, this is said.
    #[inline(always)]
    pub fn sequential() {}

    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod sync {
    pub use loom::{
        cell::UnsafeCell,
        hint::spin_loop,
        sync::{Arc, Condvar, Mutex, atomic},
        thread::yield_now,
    };

    pub fn spin<R>(found: impl Fn() -> Option<R>) -> Option<R> {
        found()
    }

    pub fn sequential() {
        atomic::fence(atomic::Ordering::SeqCst);
    }
}

/// The caller and its helpers, and the instruction set that they use.
pub struct Team {
    level: Level,
    helpers: usize,
    shared: Arc<Shared>,
    /// One thread leads: not [`Sync`], so that no task can open a region within a region.
    leader: PhantomData<*const ()>,
}

/// Runs `f` with a team of as many threads as rayon's current pool has, the caller one of them. `f` leaves rayon alone: its workers
/// may all be helpers of teams, and who waits for one of them waits for ever where two teams do.
pub fn team<R>(level: Level, f: impl FnOnce(&Team) -> R) -> R {
    let helpers = rayon::current_num_threads() - 1;
    let team = Team { level, helpers, shared: Arc::default(), leader: PhantomData };
    for _ in 0..helpers {
        let shared = team.shared.clone();
        rayon::spawn(move || shared.serve());
    }
    f(&team)
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.publish(DONE);
    }
}

impl Team {
    /// The instruction set that it uses.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.helpers + 1
    }

    /// `f(i, chunk)` for the chunks of `len` items of `data`, the last of which may be shorter.
    pub fn chunks<T: Send>(&self, data: &mut [T], len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let all = data.len();
        let pieces = Pieces(data.as_mut_ptr());
        self.run(all.div_ceil(len.max(1)), &|i, _| {
            let start = i * len;
            // SAFETY: chunks do not overlap, lie in `data`, and `run` gives every number once.
            f(i, unsafe { pieces.piece(start, len.min(all - start)) });
        });
    }

    /// [`Team::chunks`] of two slices side by side: as many of `other` as there are of `data`.
    pub fn chunks2<T: Send, U: Send>(
        &self,
        (data, len): (&mut [T], usize),
        (other, other_len): (&mut [U], usize),
        f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
    ) {
        let needed = data.len().div_ceil(len.max(1)).checked_mul(other_len);
        assert!(needed.is_some_and(|n| n <= other.len()), "a chunk of both for every task");
        let others = Pieces(other.as_mut_ptr());
        self.chunks(data, len, |i, chunk| {
            // SAFETY: as above: i is below the number of chunks, so that by the assertion nothing wraps and the piece lies in `other`.
            f(i, chunk, unsafe { others.piece(i * other_len, other_len) });
        });
    }

    /// `f(i, part, turns)` for the parts of `data` that end at `ends`, each starting where the one before ended.
    pub(crate) fn parts<T: Send>(&self, data: &mut [T], ends: &[usize], f: impl Fn(usize, &mut [T], &Turns) + Sync) {
        assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end <= data.len()), "parts in order, within the data");
        let pieces = Pieces(data.as_mut_ptr());
        self.run(ends.len(), &|i, turns| {
            let start = if i == 0 { 0 } else { ends[i - 1] };
            // SAFETY: parts do not overlap and lie in `data`, as asserted; `run` gives every number once.
            f(i, unsafe { pieces.piece(start, ends[i] - start) }, turns);
        });
    }

    /// `task(i, turns)` for every i below `count`, each once, on whichever thread is free.
    pub(crate) fn run(&self, count: usize, task: &(dyn Fn(usize, &Turns) + Sync)) {
        if self.helpers == 0 || count <= 1 {
            return work(&AtomicUsize::new(0), count, task);
        }
        // SAFETY: only the lifetime changes; no helper uses the task after `Close` has seen them all leave, which it waits for
        // even where a task panics.
        let task_of_helpers = unsafe { std::mem::transmute::<*const (dyn Fn(usize, &Turns) + Sync + '_), Task>(task) };
        // SAFETY: no helper reads the cell now: the region before is closed.
        self.shared.region.with_mut(|region| unsafe { *region = Region { count, task: task_of_helpers } });
        self.shared.next.store(0, SeqCst);
        self.shared.publish(OPEN);
        let close = Close(&self.shared);
        work(&self.shared.next, count, task);
        drop(close);
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// A slice whose pieces go to different threads.
struct Pieces<T>(*mut T);

// SAFETY: every piece is used by one thread at a time, to which it may be sent.
unsafe impl<T: Send> Sync for Pieces<T> {}

impl<T> Pieces<T> {
    /// # Safety
    /// The piece lies in the slice, which nobody else uses meanwhile, and overlaps no other.
    #[expect(clippy::mut_from_ref, reason = "pieces do not overlap")]
    unsafe fn piece(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Tasks as one thread takes them.
pub(crate) struct Turns<'a> {
    /// The first that no thread has taken.
    next: &'a AtomicUsize,
    count: usize,
    taken: Cell<Option<usize>>,
}

impl Turns<'_> {
    /// What this thread does after the task that it is at, if there is more. It is this thread's from now on: whoever asks near the
    /// end of a task keeps no other from it for long.
    pub fn then(&self) -> Option<usize> {
        let i = self.taken.get().unwrap_or_else(|| self.next.fetch_add(1, SeqCst));
        self.taken.set(Some(i));
        (i < self.count).then_some(i)
    }
}

/// Takes tasks until there are no more.
fn work(next: &AtomicUsize, count: usize, task: &(dyn Fn(usize, &Turns) + Sync)) {
    let turns = Turns { next, count, taken: Cell::new(None) };
    while let Some(i) = turns.then() {
        turns.taken.set(None);
        task(i, &turns);
    }
}

type Task = *const (dyn Fn(usize, &Turns) + Sync);

struct Region {
    count: usize,
    task: Task,
}

/// Of [`Shared::state`]: helpers within the region are counted below this.
const OPEN: u64 = 1 << 16;
const DONE: u64 = 1 << 17;
const NUMBER: u64 = 1 << 32;

struct Shared {
    /// Helpers within the region, whether it is open, whether all is done, and the region's number.
    state: AtomicU64,
    next: AtomicUsize,
    region: UnsafeCell<Region>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parked: AtomicUsize,
    parking: Mutex<()>,
    wake: Condvar,
}

impl Default for Shared {
    fn default() -> Shared {
        let region = UnsafeCell::new(Region { count: 0, task: &|_, _| {} });
        let (state, next, parked) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Shared { state, next, region, panic: Mutex::default(), parked, parking: Mutex::default(), wake: Condvar::new() }
    }
}

// SAFETY: the cell is written by the leader while no region is open and no helper is in one, and read by helpers in an open one.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in the cell is to a `Sync` task.
unsafe impl Send for Shared {}

/// Closes the region when dropped, and waits until every helper has left it.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, SeqCst);
        let mut spins = 0u32;
        while !self.0.state.load(SeqCst).is_multiple_of(OPEN) {
            spins += 1;
            // A helper whose core was taken away comes back sooner where this one is free.
            if spins.is_multiple_of(4096) { yield_now() } else { spin_loop() }
        }
    }
}

impl Shared {
    /// The next number with `flag`; wakes who is parked.
    fn publish(&self, flag: u64) {
        let number = self.state.load(SeqCst) / NUMBER + 1;
        self.state.store((number * NUMBER) | flag, SeqCst);
        // Either a helper that parks sees the new state, or this sees that it parks.
        sync::sequential();
        if self.parked.load(SeqCst) > 0 {
            drop(self.parking.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// What a helper does until all is done.
    fn serve(&self) {
        let mut seen = 0;
        loop {
            let state = self.wait(seen);
            if state & DONE > 0 {
                return;
            }
            if self.state.compare_exchange(state, state + 1, SeqCst, SeqCst).is_err() {
                continue;
            }
            // SAFETY: this helper is counted as within the open region, so the leader waits for it.
            let (count, task) = self.region.with(|region| unsafe { ((*region).count, &*(*region).task) });
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&self.next, count, task))) {
                self.next.store(count, SeqCst);
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.fetch_sub(1, SeqCst);
            seen = state / NUMBER;
        }
    }

    /// The state once it is an open region after number `seen`, or done.
    fn wait(&self, seen: u64) -> u64 {
        let fresh = || {
            let state = self.state.load(SeqCst);
            (state & DONE > 0 || (state & OPEN > 0 && state / NUMBER != seen)).then_some(state)
        };
        if let Some(state) = sync::spin(fresh) {
            return state;
        }
        let mut parking = self.parking.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_add(1, SeqCst);
        sync::sequential();
        loop {
            if let Some(state) = fresh() {
                self.parked.fetch_sub(1, SeqCst);
                return state;
            }
            parking = self.wake.wait(parking).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{sync::SPIN, *};

    fn with_threads<R: Send>(n: usize, f: impl FnOnce(&Team) -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool").install(|| team(Level::Scalar, f))
    }

    #[test]
    fn every_task_runs_once_in_every_region() {
        for threads in [1, 2, 5] {
            let counts = with_threads(threads, |team| {
                let mut counts = vec![0u32; 1000];
                for region in 0..200 {
                    team.chunks(&mut counts[..region * 5], 3, |_, c| c.iter_mut().for_each(|c| *c += 1));
                    if region % 50 == 0 {
                        // Long enough for helpers to park.
                        std::thread::sleep(3 * SPIN);
                    }
                }
                counts
            });
            for (i, n) in counts.iter().enumerate() {
                assert_eq!(*n as usize, 199 - i / 5, "{threads} threads, item {i}");
            }
        }
    }

    #[test]
    fn both_slices_have_a_chunk_for_every_task() {
        let (mut data, mut other) = (vec![0; 10], vec![0; 7]);
        with_threads(3, |team| {
            let mut pairs = |len, other_len| {
                let run = || team.chunks2((&mut data, len), (&mut other, other_len), |i, a, b| (a.fill(i), b.fill(i)).0);
                catch_unwind(AssertUnwindSafe(run)).is_ok()
            };
            // 2 chunks of usize::MAX / 2 + 1 are 0, and 5 of usize::MAX / 5 + 1 are 4, to who counts without looking.
            let [half, fifth] = [2, 5].map(|n| usize::MAX / n + 1);
            assert_eq!([(5, half), (2, fifth), (2, 2), (1, 1), (0, 1)].map(|(len, other_len)| pairs(len, other_len)), [false; 5]);
            assert_eq!([(5, 3), (2, 1), (1, 0), (usize::MAX, 7)].map(|(len, other_len)| pairs(len, other_len)), [true; 4]);
        });
    }

    #[test]
    fn parts_may_be_empty() {
        let mut data = [0; 10];
        with_threads(3, |team| team.parts(&mut data, &[0, 4, 4, 9], |i, part, _| part.fill(i)));
        assert_eq!(data, [1, 1, 1, 1, 3, 3, 3, 3, 3, 0]);
    }

    #[test]
    fn what_comes_next_is_what_a_thread_gets() {
        for threads in [1, 2, 5] {
            with_threads(threads, |team| {
                for _ in 0..100 {
                    let (mut counts, ends): (_, Vec<usize>) = ([0; 100], (1..=100).collect());
                    let next = Mutex::new(std::collections::HashMap::new());
                    team.parts(&mut counts, &ends, |i, part, turns| {
                        part[0] += 1;
                        let mut next = next.lock().expect("no panic");
                        if let Some(said) = next.insert(std::thread::current().id(), turns.then()) {
                            assert_eq!(said, Some(i));
                        }
                        // Asking again takes no more.
                        assert_eq!(next[&std::thread::current().id()], turns.then());
                    });
                    assert_eq!(counts, [1; 100]);
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_team_goes_on() {
        with_threads(2, |team| {
            for bad in 0..20 {
                let run = || team.run(20, &|i, _| assert!(i != bad, "task {i}"));
                assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            }
            let mut data = [0; 100];
            team.chunks(&mut data, 1, |i, d| d[0] = i);
            assert!(data.iter().enumerate().all(|(i, d)| i == *d));
        });
    }

    #[test]
    fn teams_within_a_busy_pool_compute_alone() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
        let sums: Vec<usize> = pool.install(|| {
            use rayon::prelude::*;
            let each = (0..16).into_par_iter().map(|_| {
                team(Level::Scalar, |team| {
                    let mut data = [0; 64];
                    team.chunks(&mut data, 4, |i, d| d.fill(i));
                    data.iter().sum()
                })
            });
            each.collect()
        });
        assert!(sums.iter().all(|s| *s == 4 * 15 * 16 / 2));
    }
}

/// The protocol under loom: every order, up to some preemptions, in which a leader and its helpers may do what they do, with what memory
/// may show them then. Helpers are loom's threads instead of rayon's workers; how long one spins, and a leader's own panic, are left out.
#[cfg(all(test, loom))]
mod orders {
    use super::{sync::atomic, *};

    /// `f` leads a team in every order that is tried; all helpers end.
    fn tried(helpers: usize, preemptions: usize, f: impl Fn(&Team) + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.check(move || {
            let team = Team { level: Level::Scalar, helpers, shared: Arc::default(), leader: PhantomData };
            let serve = |shared: Arc<Shared>| loom::thread::spawn(move || shared.serve());
            let helpers: Vec<_> = (0..helpers).map(|_| serve(team.shared.clone())).collect();
            f(&team);
            drop(team);
            helpers.into_iter().for_each(|helper| helper.join().expect("no panic"));
        });
    }

    /// A number of which loom sees who uses it.
    type Seen = UnsafeCell<u32>;

    fn add(to: &mut [Seen]) {
        // SAFETY: a slice that is this thread's alone; loom looks whether it is.
        to[0].with_mut(|n| unsafe { *n += 1 });
    }

    fn all(of: &[Seen]) -> Vec<u32> {
        // SAFETY: no region is open; loom looks whether all that happened there happened before.
        of.iter().map(|n| n.with(|n| unsafe { *n })).collect()
    }

    fn regions(team: &Team, lengths: &[usize]) {
        let mut data: Vec<Seen> = (0..3).map(|_| Seen::new(0)).collect();
        for &n in lengths {
            team.chunks(&mut data[..n], 1, |_, item| add(item));
        }
        let expected: Vec<u32> = (0..3).map(|i| lengths.iter().filter(|n| **n > i).count() as u32).collect();
        assert_eq!(all(&data), expected);
    }

    #[test]
    fn every_task_runs_once_in_every_region() {
        tried(1, 4, |team| regions(team, &[3, 2]));
        tried(2, 2, |team| regions(team, &[2, 3]));
    }

    #[test]
    fn what_comes_next_is_what_a_thread_gets() {
        tried(1, 3, |team| {
            let mut data: Vec<Seen> = (0..3).map(|_| Seen::new(0)).collect();
            team.parts(&mut data, &[1, 2, 3], |_, part, turns| {
                add(part);
                assert_eq!(turns.then(), turns.then());
            });
            assert_eq!(all(&data), [1; 3]);
        });
    }

    #[test]
    fn a_helpers_panic_reaches_the_leader_and_the_team_goes_on() {
        tried(1, 3, |team| {
            let leader = loom::thread::current().id();
            let helped = atomic::AtomicBool::new(false);
            let run = || {
                team.run(2, &|_, _| {
                    if loom::thread::current().id() != leader {
                        helped.store(true, SeqCst);
                        resume_unwind(Box::new("a helper's"));
                    }
                });
            };
            let panicked = catch_unwind(AssertUnwindSafe(run)).is_err();
            assert_eq!(panicked, helped.load(SeqCst));
            regions(team, &[2]);
        });
    }
}
