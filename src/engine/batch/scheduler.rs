//! Who is computed when: jobs in the order that they came, prompts in parts beside those that decode, all within the pages there are.
use super::{
    Done, Event, Listener, Status,
    kept::{Beginnings, common},
};
use crate::{
    Error, Model,
    planner::KEPT,
    run::{Scored, Session},
};
use ram_models::KvCache;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

const PAGE: usize = KvCache::PAGE;
/// Tokens of a pass at the most while somebody waits for one: a prompt of thousands then holds nobody up for long.
const BESIDE: usize = 256;
/// Pages that are free besides when a job begins beside others: it would soon have to give way again.
const SPARE: usize = 4;

/// What the thread is told.
pub enum Command {
    /// A job.
    Take(Box<Waiting>),
    /// To end, with all jobs.
    Stop,
}

/// A job and what is known of it, before it is computed and while it is.
pub struct Waiting {
    /// Counts the jobs there are.
    pub _ticket: Arc<()>,
    pub session: Session,
    pub listener: Listener,
    pub owner: u64,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens that may still be chosen.
    pub left: usize,
    pub ignore_end: bool,
    pub top: Option<usize>,
    /// Whether its prompt is yet to be scored.
    pub score: bool,
    /// Of its prompt, the tokens that another job had computed.
    pub cached: Option<usize>,
    /// When it came.
    pub since: Instant,
    pub started: Option<Instant>,
    /// When its first token was there.
    pub first: Option<Instant>,
}

impl Waiting {
    fn decodes(&self) -> bool {
        self.session.computed() + 1 >= self.session.tokens().len() && self.first.is_some()
    }

    /// Pages that it takes once all of its tokens, and one more, are computed.
    fn pages_wanted(&self) -> usize {
        self.session.pages_of((self.session.tokens().len() + 1).min(self.session.capacity()))
    }

    fn done(&self, ended: bool) -> Done {
        let now = Instant::now();
        let (started, first) = (self.started.unwrap_or(now), self.first.unwrap_or(now));
        Done {
            ended,
            cached: self.cached.unwrap_or(0),
            generated: self.session.stats.generated,
            queued: started - self.since,
            prefill: first - started,
            decode: now - first,
        }
    }
}

/// The thread's state.
pub struct Scheduler {
    model: Arc<Model>,
    commands: Receiver<Command>,
    status: Arc<Mutex<Status>>,
    /// In the order that they came; those that gave way to others before them.
    waiting: VecDeque<Waiting>,
    /// In the order that they were begun.
    running: Vec<Waiting>,
    kept: Beginnings,
    /// Pages of keys and values that there is memory for.
    pages: usize,
    /// What was done; the rest of it is counted when it is published.
    counts: Status,
    turn: usize,
}

impl Scheduler {
    pub fn new(model: Arc<Model>, commands: Receiver<Command>, status: Arc<Mutex<Status>>) -> Scheduler {
        let kept = Beginnings::new(KEPT * model.plan.sequences);
        let states = KvCache::pages_of_states(model.transformer.description(), model.plan.context, model.plan.kv);
        let pages = model.plan.kv_tokens.div_ceil(PAGE) + model.plan.sequences * states;
        let (waiting, running, counts) = (VecDeque::new(), Vec::new(), Status::default());
        Scheduler { model, commands, status, waiting, running, kept, pages, counts, turn: 0 }
    }

    /// Until it is told to stop, or nobody can tell it anything any more.
    pub fn run(&mut self) {
        while self.receive() {
            self.leave_cancelled();
            self.admit();
            self.publish();
            self.compute();
            self.publish();
        }
    }

    /// Takes what came; waits for it where there is nothing else to do.
    fn receive(&mut self) -> bool {
        let idle = self.waiting.is_empty() && self.running.is_empty();
        let mut next = if idle { self.commands.recv().map_err(|_| TryRecvError::Disconnected) } else { self.commands.try_recv() };
        loop {
            match next {
                Ok(Command::Take(job)) => self.waiting.push_back(*job),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
            next = self.commands.try_recv();
        }
    }

    /// What was computed of a cancelled job stays for the next one, who may be the same one again.
    fn leave_cancelled(&mut self) {
        let cancelled = |job: &Waiting| job.session.cancel().is_cancelled();
        self.counts.cancelled += self.waiting.iter().filter(|job| cancelled(job)).count() as u64;
        self.waiting.retain(|job| !cancelled(job));
        for at in (0..self.running.len()).rev() {
            if cancelled(&self.running[at]) {
                self.counts.cancelled += 1;
                self.take_off(at);
            }
        }
    }

    /// Takes a running job off, and keeps what it computed.
    fn take_off(&mut self, at: usize) -> Waiting {
        let job = self.running.remove(at);
        let computed = job.session.computed();
        self.kept.keep(job.owner, &job.session.tokens()[..computed], job.session.beginning(computed));
        job
    }

    /// Pages that anybody has.
    fn pages_taken(&self) -> BTreeSet<usize> {
        self.running.iter().flat_map(|job| job.session.pages()).chain(self.kept.pages()).collect()
    }

    /// Pages that nobody has and that no running job is promised for the tokens that it has.
    fn pages_free(&self) -> usize {
        self.pages.saturating_sub(self.pages_taken().len() + self.promised())
    }

    /// Makes `pages` pages free by giving up what is kept; whether that worked.
    fn make_room(&mut self, pages: usize) -> bool {
        loop {
            let free = self.pages_free();
            if free >= pages {
                return true;
            }
            if !self.kept.shorten(pages - free) {
                return false;
            }
        }
    }

    /// Begins with waiting jobs, in order, as long as there are places and pages. One whose beginning another is computing now waits for it.
    fn admit(&mut self) {
        let mut at = 0;
        while self.running.len() < self.model.plan.sequences && at < self.waiting.len() {
            if self.is_begun_by_another(&self.waiting[at]) {
                at += 1;
                continue;
            }
            let Some(mut job) = self.waiting.remove(at) else { return };
            // Scores need every token's logits.
            let found = if job.score { None } else { self.find(&job) };
            if let Some(found) = found {
                job.session.adopt(found);
            }
            let more = job.pages_wanted().saturating_sub(job.session.computed() / PAGE);
            let spare = if self.running.is_empty() { 0 } else { SPARE };
            if !self.make_room(more + spare) {
                job.session.release();
                self.waiting.insert(at, job);
                // Nobody overtakes it.
                return;
            }
            if job.cached.is_none() {
                let cached = job.session.computed();
                job.cached = Some(cached);
                job.started = Some(Instant::now());
                self.counts.prompt_tokens += job.prompt as u64;
                self.counts.cached_tokens += cached as u64;
                tell(&mut job, Event::Prompt { computed: cached, cached });
            }
            self.running.push(job);
            let last = self.running.len() - 1;
            if self.running[last].left == 0 && !self.running[last].score {
                self.end(last, false);
            }
        }
    }

    /// The longest beginning of a job's tokens that is there.
    fn find(&mut self, job: &Waiting) -> Option<KvCache> {
        let tokens = job.session.tokens();
        let own = self.running.iter().filter(|other| other.owner == job.owner);
        let common = |other: &Waiting| common(&other.session.tokens()[..other.session.computed()], tokens);
        let beside = own.map(|other| (other.session.reach(common(other)), other)).max_by_key(|(len, _)| *len);
        match beside {
            Some((len, other)) if len > self.kept.longest(job.owner, tokens) => Some(other.session.beginning(len)),
            _ => self.kept.find(job.owner, tokens),
        }
    }

    /// Whether a running job is about to compute a good part of what this one begins with.
    fn is_begun_by_another(&self, job: &Waiting) -> bool {
        let tokens = job.session.tokens();
        let there = self.kept.longest(job.owner, tokens);
        !job.score
            && self.running.iter().filter(|other| other.owner == job.owner && !other.score && other.first.is_none()).any(|other| {
                let will = common(other.session.tokens(), tokens).min(tokens.len() - 1);
                will > other.session.computed() && will >= there + PAGE
            })
    }

    /// One forward pass, of all or for a score.
    fn compute(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.turn += 1;
        let start = Instant::now();
        let scoring = self.running.iter().position(|job| job.score);
        match scoring {
            // In turns with the others.
            Some(at) if self.turn.is_multiple_of(2) || self.running.len() == 1 => self.score(at),
            _ => self.step(),
        }
        self.counts.passes += 1;
        self.counts.computing += start.elapsed();
    }

    fn score(&mut self, at: usize) {
        let job = &mut self.running[at];
        match self.model.score(&mut job.session, BESIDE, job.top.unwrap_or(0)) {
            Err(Error::Cancelled) => {}
            Err(e) => self.fail(at, e),
            Ok(scores) => {
                job.score = !scores.is_empty();
                if !scores.is_empty() {
                    tell(job, Event::Scores(scores));
                }
                let computed = job.session.computed();
                tell(job, Event::Prompt { computed, cached: 0 });
                if !job.score && job.left == 0 {
                    self.end(at, false);
                }
            }
        }
    }

    /// The next pass of all that have nothing to score, and what it gives each.
    fn step(&mut self) {
        self.give_way();
        let mut order: Vec<usize> = (0..self.running.len()).filter(|at| !self.running[*at].score).collect();
        if order.is_empty() {
            return;
        }
        // Short texts first, so that a long one holds nobody up; now and then in order, so that it comes to an end too.
        if !self.turn.is_multiple_of(4) {
            order.sort_by_key(|at| self.running[*at].session.tokens().len() - self.running[*at].session.computed());
        }
        let most = if self.running.iter().any(Waiting::decodes) { BESIDE } else { usize::MAX };
        let mut places: Vec<Option<&mut Session>> = self.running.iter_mut().map(|job| Some(&mut job.session)).collect();
        let mut sessions: Vec<&mut Session> = order.iter().filter_map(|at| places[*at].take()).collect();
        let chosen = match self.model.pass(&mut sessions, most) {
            Ok(chosen) => chosen,
            Err(Error::Cancelled) => return,
            // Whose fault it is shows when each is alone.
            Err(_) => sessions.iter_mut().map(|session| self.model.pass(&mut [&mut **session], most)?.pop().unwrap_or(Ok(None))).collect(),
        };
        let mut over: Vec<(usize, Result<bool, Error>)> = Vec::new();
        for (at, chosen) in order.into_iter().zip(chosen) {
            let job = &mut self.running[at];
            match chosen {
                Err(Error::Cancelled) => {}
                Err(e) => over.push((at, Err(e))),
                Ok(None) => {
                    let (computed, cached) = (job.session.computed().min(job.prompt), job.cached.unwrap_or(0));
                    tell(job, Event::Prompt { computed, cached });
                }
                Ok(Some(token)) => {
                    self.counts.generated_tokens += 1;
                    if let Some(end) = take(&self.model, job, token) {
                        over.push((at, Ok(end)));
                    }
                }
            }
        }
        over.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (at, how) in over {
            match how {
                Ok(ended) => self.end(at, ended),
                Err(e) => self.fail(at, e),
            }
        }
    }

    /// Every job that decodes has a page for its next token after this: where nothing is kept any more, those that were begun last give
    /// theirs back, and begin again when there is room.
    fn give_way(&mut self) {
        // Of the pages wanted, those that are not yet there are promised; a promise that cannot be kept is what is looked for.
        while self.pages_taken().len() + self.promised() > self.pages {
            if self.kept.shorten(1) {
                continue;
            }
            if self.running.len() < 2 {
                return;
            }
            let Some(mut job) = self.running.pop() else { return };
            job.session.release();
            self.counts.preempted += 1;
            self.waiting.push_front(job);
        }
    }

    fn promised(&self) -> usize {
        self.running.iter().map(|job| job.pages_wanted().saturating_sub(job.session.pages().len())).sum()
    }

    fn end(&mut self, at: usize, ended: bool) {
        let job = self.take_off(at);
        self.counts.ended += 1;
        let done = job.done(ended);
        self.tell_last(job, Event::End(done));
    }

    fn fail(&mut self, at: usize, e: Error) {
        let job = self.running.remove(at);
        self.counts.failed += 1;
        self.tell_last(job, Event::Failed(e));
    }

    /// Tells the last of a job, which is over before that: whoever is told looks at once.
    fn tell_last(&mut self, job: Waiting, event: Event) {
        let Waiting { mut listener, _ticket: ticket, session, .. } = job;
        drop((ticket, session));
        self.publish();
        listener(event);
    }

    /// Shows what was done and what there is.
    pub fn publish(&mut self) {
        let active: BTreeSet<usize> = self.running.iter().flat_map(|job| job.session.pages()).collect();
        let taken = self.pages_taken().len();
        let now = Status {
            running: self.running.len(),
            // Counted where it is asked for: some are not received yet.
            waiting: 0,
            kv_tokens: self.pages * PAGE,
            kv_active: active.len() * PAGE,
            kv_kept: (taken - active.len()) * PAGE,
            ..self.counts.clone()
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// Tells a job's listener; where nobody listens, the job is cancelled.
fn tell(job: &mut Waiting, event: Event) {
    if !(job.listener)(event) {
        job.session.cancel().cancel();
    }
}

/// What a chosen token does to its job; how that ends, where it does.
fn take(model: &Model, job: &mut Waiting, token: u32) -> Option<bool> {
    job.first.get_or_insert_with(Instant::now);
    if model.tokenizer.eos.contains(&token) && !job.ignore_end {
        return Some(true);
    }
    let scored = match job.top {
        Some(count) => Scored::of(token, job.session.last_logits(), count),
        None => Scored { token, logprob: f32::NAN, top: Vec::new() },
    };
    job.left = job.left.saturating_sub(1);
    tell(job, Event::Token(scored));
    (job.left == 0 || job.session.is_full()).then_some(false)
}
