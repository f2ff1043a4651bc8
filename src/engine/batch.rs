//! One model for many requests at once: a thread that computes what all of them have to do in batches, and keeps the beginnings of what it
//! has computed for those that begin alike.
mod kept;
mod scheduler;

use crate::{
    Error, Model, Request,
    planner::{Limit, logits_bytes},
    run::{Guide, Sampling, Scored},
};
use ram_models::{Cancel, Description};
use scheduler::{Command, Scheduler, Waiting};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What somebody wants to have continued.
pub struct Job {
    /// Its tokens: at least one, and at most the plan's context.
    pub prompt: Vec<u32>,
    /// Tokens at most; 0 for the scores of the prompt alone.
    pub max_tokens: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Whether an end token is one like others.
    pub ignore_end: bool,
    /// How many of the likeliest tokens to tell in every place, with logarithms of probabilities; `None` for not even the chosen one's.
    pub top: Option<usize>,
    /// Whether to tell the same of the prompt's tokens, from the second on.
    pub score_prompt: bool,
    /// Whose it is: what was computed for one is not used for another, who could tell from the time it takes what others have asked.
    pub owner: u64,
    /// Rules for what may come.
    pub guide: Option<Box<dyn Guide>>,
}

impl Job {
    /// A text to be continued.
    pub fn new(prompt: Vec<u32>, max_tokens: usize, sampling: Sampling) -> Job {
        Job { prompt, max_tokens, sampling, ignore_end: false, top: None, score_prompt: false, owner: 0, guide: None }
    }
}

/// What happens to a job, in this order: `Prompt` at least once, `Scores` where they are asked for, `Token`s, one `End` or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// How much of the prompt is computed.
    Prompt {
        /// Tokens that are.
        computed: usize,
        /// Of them, those that had been for an earlier job.
        cached: usize,
    },
    /// What was thought of the prompt's next tokens.
    Scores(Vec<Scored>),
    /// A token that was chosen; an end token is none. Its probability is only told where it was asked for, else NaN.
    Token(Scored),
    /// All is done.
    End(Done),
    /// It cannot be done: the job is over.
    Failed(Error),
}

/// How a job ended, and what it took.
#[derive(Clone, Debug)]
pub struct Done {
    /// Whether the model ended it, and not the number of tokens or the context.
    pub ended: bool,
    /// Tokens of the prompt that had been computed for an earlier job.
    pub cached: usize,
    /// Tokens that were chosen, end tokens too.
    pub generated: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// Time from there to the first token.
    pub prefill: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
}

/// What an engine has done, and does.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Jobs that are computed.
    pub running: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// Tokens whose keys and values there is memory for. States of layers that have none count as the tokens that take as much.
    pub kv_tokens: usize,
    /// Of them, those of running jobs.
    pub kv_active: usize,
    /// Of them, those that are only kept.
    pub kv_kept: usize,
    /// Jobs that ended, by themselves or by their limits.
    pub ended: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs whose keys and values were given up for others', to be computed again.
    pub preempted: u64,
    /// Prompts' tokens.
    pub prompt_tokens: u64,
    /// Of them, those that had been computed before.
    pub cached_tokens: u64,
    /// Tokens that were chosen.
    pub generated_tokens: u64,
    /// Forward passes, and the time they took.
    pub passes: u64,
    /// See there.
    pub computing: Duration,
}

/// Who is told of a job's events; false where nobody listens any more.
pub type Listener = Box<dyn FnMut(Event) -> bool + Send>;

/// The thread that computes.
pub struct Engine {
    model: Arc<Model>,
    commands: Sender<Command>,
    status: Arc<Mutex<Status>>,
    /// One more than there are jobs.
    jobs: Arc<()>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts it. Jobs are computed [`Request::sequences`] at a time, in the memory of [`Request::kv_tokens`].
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(model: Arc<Model>) -> Result<Engine, Error> {
        let (commands, received) = mpsc::channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let mut scheduler = Scheduler::new(model.clone(), received, status.clone());
        scheduler.publish();
        let thread = thread::Builder::new().name("engine".into());
        let running = thread.spawn(move || {
            // Whoever listens finds that nobody speaks any more.
            let _ = catch_unwind(AssertUnwindSafe(|| scheduler.run()));
        });
        let thread = running.map_err(|source| Error::Io { path: "a thread".into(), source })?;
        Ok(Engine { model, commands, status, jobs: Arc::new(()), thread: Some(thread) })
    }

    /// What computes.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Takes a job; `listener` is called from the engine's thread and must not wait. What it gives back ends the job, also within a forward pass.
    ///
    /// # Errors
    /// [`Error::Empty`] for no token, [`Error::Context`] for more than there is room for, [`Error::Setting`] for a number out of its range,
    /// [`Error::Stopped`] where the engine's thread has ended.
    pub fn submit(&self, job: Job, listener: Listener) -> Result<Cancel, Error> {
        if job.prompt.is_empty() {
            return Err(Error::Empty);
        }
        let capacity = self.model.plan.context;
        if job.prompt.len() > capacity {
            return Err(Error::Context { tokens: job.prompt.len(), capacity });
        }
        let vocab = self.model.transformer.description().vocab_size;
        if let Some(token) = job.prompt.iter().find(|token| **token as usize >= vocab) {
            return Err(Error::Mismatch(format!("token {token} is none: the vocabulary has {vocab}")));
        }
        let mut session = self.model.session(job.sampling)?;
        session.prompt(&job.prompt)?;
        if let Some(guide) = job.guide {
            session.guided_by(guide);
        }
        let cancel = session.cancel();
        let (prompt, now) = (job.prompt.len(), Instant::now());
        let waiting = Waiting {
            _ticket: self.jobs.clone(),
            session,
            listener,
            owner: job.owner,
            prompt,
            left: job.max_tokens,
            ignore_end: job.ignore_end,
            top: job.top,
            score: job.score_prompt,
            cached: None,
            since: now,
            started: None,
            first: None,
        };
        self.commands.send(Command::Take(Box::new(waiting))).map_err(|_| Error::Stopped)?;
        Ok(cancel)
    }

    /// What it has done and does now.
    pub fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.waiting = (Arc::strong_count(&self.jobs) - 1).saturating_sub(status.running);
        status
    }

    /// Whether its thread is there: it is not after a panic.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Memory that jobs take besides what a plan counts for sequences: what their choices are made in, and blocks of scores. For
    /// [`Request::reserved`].
    pub fn reserved_bytes(description: &Description, request: &Request) -> u64 {
        let candidates = 3 * 8 * description.vocab_size * request.sequences;
        let budget = if let Limit::Process(budget) = request.limit { Some(budget) } else { None };
        (candidates + 2 * logits_bytes(budget)) as u64
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
