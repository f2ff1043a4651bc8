//! Answers as they are generated: one or several of a prompt, each divided into its parts; they end when nobody waits for them any more.
use crate::{Log, Ready, Shared, problem::Problem, prompt::Prompt, times::Times};
use ram_engine::{Answer, Calls, Cancel, Decoder, Done, Error, Event, Guide, Job, Part, Sampling, Scored, Tokenizer};
use serde_json::Value;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver},
        watch,
    },
    time::{Instant, sleep_until},
};

/// Makes rules for one answer after the other.
pub type Rules = Box<dyn Fn() -> Box<dyn Guide> + Send>;

/// What is to be generated, whatever protocol it was asked for in.
pub struct Ask {
    /// What the answer is called.
    pub name: String,
    /// Prompts, each to be continued.
    pub prompts: Vec<Prompt>,
    /// How often each.
    pub count: usize,
    /// How tokens are chosen; the second answer has the seed after the first one's.
    pub sampling: Sampling,
    /// Tokens at the most; what the context has room for if there are more.
    pub max_tokens: usize,
    /// What an answer ends before.
    pub stops: Vec<String>,
    /// How many likely tokens to tell, where any.
    pub top: Option<usize>,
    /// Whether end tokens are like others.
    pub ignore_end: bool,
    /// Whether the prompt's tokens are told with what was thought of them.
    pub score: bool,
    /// Whether thoughts are told apart, as in a conversation.
    pub divided: bool,
    /// The functions that may be called.
    pub calls: Option<(Calls, Vec<Value>)>,
    /// Makes the rules for each answer.
    pub guide: Option<Rules>,
    /// Whose it is.
    pub owner: u64,
}

/// Ends its job when it is dropped.
struct Guard(Cancel);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model, or a stop string, ended it.
    Stop,
    /// It has as many tokens as it may have.
    Length,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// The stop string before which it ended.
    pub stopped: Option<String>,
    /// What it took.
    pub done: Done,
    /// Tokens of it.
    pub tokens: usize,
    /// Of them, those of thoughts.
    pub thinking: usize,
    /// Whether functions are called in it.
    pub calls: bool,
}

/// What happens to an answer next.
pub enum Step {
    /// So much of the prompt is computed.
    Prompt { computed: usize, cached: usize },
    /// What was thought of the prompt's next tokens.
    Scores(Vec<Scored>),
    /// What a token completes, and the token.
    Parts(Vec<Part>, Option<Scored>),
    /// It is over.
    End(Box<End>),
}

/// Reads one answer.
struct Reader {
    decoder: Option<Decoder<Arc<Tokenizer>>>,
    answer: Answer,
    tokens: usize,
    thinking: usize,
    calls: bool,
    cached: usize,
    /// When its job was given, when it was begun, when its first token was there.
    times: [Option<Instant>; 3],
    _guard: Guard,
}

/// Answers on their way.
pub struct Generation {
    ready: Arc<Ready>,
    /// What it is called where it is told of.
    name: String,
    log: Log,
    times: Arc<Times>,
    since: Instant,
    prompt: usize,
    events: UnboundedReceiver<(usize, Event)>,
    readers: Vec<Option<Reader>>,
    over: watch::Receiver<bool>,
    /// When to give up waiting, until something happens.
    patience: Option<Instant>,
    waited: Duration,
    /// Steps that come before the next event.
    pending: Vec<(usize, Step)>,
}

impl Generation {
    /// Gives the engine what is asked for.
    pub fn start(shared: &Shared, ready: &Arc<Ready>, ask: Ask) -> Result<Generation, Problem> {
        let (engine, jobs) = (&ready.served.engine, ask.prompts.len() * ask.count);
        let status = engine.status();
        if status.waiting + jobs > shared.options.queue + engine.model().plan.sequences.saturating_sub(status.running) {
            // About as long as the last ones took, each in its turn.
            let each = if status.ended == 0 { 1.0 } else { status.computing.as_secs_f64() / status.ended as f64 };
            return Err(Problem::busy(status.waiting, (each * status.waiting as f64).ceil().clamp(1.0, 60.0) as u64));
        }
        let (send, events) = mpsc::unbounded_channel();
        let mut readers = Vec::with_capacity(jobs);
        for prompt in &ask.prompts {
            for n in 0..ask.count {
                let at = readers.len();
                let job = Job {
                    prompt: prompt.tokens.clone(),
                    max_tokens: ask.max_tokens,
                    sampling: Sampling { seed: ask.sampling.seed.wrapping_add(n as u64), ..ask.sampling.clone() },
                    ignore_end: ask.ignore_end,
                    top: ask.top,
                    score_prompt: ask.score,
                    owner: ask.owner,
                    guide: ask.guide.as_ref().map(|guide| guide()),
                };
                let send = send.clone();
                let cancel = engine.submit(job, Box::new(move |event| send.send((at, event)).is_ok()))?;
                let answer = if ask.divided { Answer::to(&prompt.text) } else { Answer::plain() };
                let answer = match &ask.calls {
                    Some((calls, tools)) => answer.calling(*calls, tools.clone()),
                    None => answer,
                };
                let decoder = Some(Decoder::after(ready.tokenizer.clone(), &prompt.tokens));
                let (answer, times) = (answer.until(ask.stops.clone()), [Some(Instant::now()), None, None]);
                readers.push(Some(Reader { decoder, answer, tokens: 0, thinking: 0, calls: false, cached: 0, times, _guard: Guard(cancel) }));
            }
        }
        shared.answers.fetch_add(readers.len() as u64, Relaxed);
        let waited = shared.options.queue_timeout;
        let patience = Some(Instant::now() + waited);
        let (name, prompt) = (ask.name, ask.prompts.iter().map(|prompt| prompt.tokens.len()).sum());
        let (log, times, since) = (shared.options.log.clone(), shared.times.clone(), Instant::now());
        Ok(Generation {
            ready: ready.clone(),
            name,
            log,
            times,
            since,
            prompt,
            events,
            readers,
            over: shared.over.subscribe(),
            patience,
            waited,
            pending: Vec::new(),
        })
    }

    /// What is served.
    pub fn ready(&self) -> &Arc<Ready> {
        &self.ready
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// The next step of any answer, with its number; `None` when all are over.
    pub async fn next(&mut self) -> Result<Option<(usize, Step)>, Problem> {
        loop {
            if !self.pending.is_empty() {
                return Ok(Some(self.pending.remove(0)));
            }
            if self.readers.iter().all(Option::is_none) {
                return Ok(None);
            }
            let far = Instant::now() + Duration::from_secs(1 << 30);
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                _ = self.over.wait_for(|over| *over) => return Err(Problem::unavailable("The server is about to end")),
                () = sleep_until(self.patience.unwrap_or(far)) => {
                    return Err(Problem::unavailable(format!("The request has waited for {} s: try again later", self.waited.as_secs())));
                }
            };
            let Some((at, event)) = event else { return Err(Problem::fault("The engine has ended by a fault")) };
            self.patience = None;
            self.take(at, event)?;
        }
    }

    fn take(&mut self, at: usize, event: Event) -> Result<(), Problem> {
        // What comes behind a stop string is not wanted any more.
        let Some(reader) = &mut self.readers[at] else { return Ok(()) };
        match event {
            Event::Prompt { computed, cached } => {
                reader.cached = cached;
                reader.times[1].get_or_insert_with(Instant::now);
                self.pending.push((at, Step::Prompt { computed, cached }));
            }
            Event::Scores(scores) => self.pending.push((at, Step::Scores(scores))),
            Event::Token(scored) => {
                let parts = reader.push(scored.token)?;
                let told = (!scored.logprob.is_nan()).then_some(scored);
                self.pending.push((at, Step::Parts(parts, told)));
                if reader.answer.stopped().is_some() {
                    // Its job ends with the reader.
                    let done = reader.done();
                    self.end(at, done)?;
                }
            }
            Event::End(done) => self.end(at, done)?,
            Event::Failed(Error::Cancelled) => return Err(Problem::fault("The request was cancelled")),
            Event::Failed(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn end(&mut self, at: usize, done: Done) -> Result<(), Problem> {
        let Some(mut reader) = self.readers[at].take() else { return Ok(()) };
        let rest = reader.finish()?;
        if !rest.is_empty() {
            self.pending.push((at, Step::Parts(rest, None)));
        }
        let reason = if done.ended { Reason::Stop } else { Reason::Length };
        let rate = if done.decode.is_zero() { 0.0 } else { reader.tokens.saturating_sub(1) as f64 / done.decode.as_secs_f64() };
        self.times.queued.add(done.queued, 1);
        self.times.first.add(done.queued + done.prefill, 1);
        if let Some(more) = u32::try_from(reader.tokens).ok().and_then(|tokens| tokens.checked_sub(1)).filter(|more| *more > 0) {
            self.times.token.add(done.decode / more, more.into());
        }
        let [queued, prefill] = [done.queued, done.prefill].map(|time| time.as_secs_f64());
        (self.log)(format!(
            "{}: {} tokens in, {} of them kept; {queued:.3} s in the queue, {prefill:.3} s to the first; {} out, {rate:.1} a second",
            self.name, self.prompt, done.cached, reader.tokens
        ));
        let stopped = reader.answer.stopped().map(String::from);
        let end = End { reason, stopped, done, tokens: reader.tokens, thinking: reader.thinking, calls: reader.calls };
        self.pending.push((at, Step::End(Box::new(end))));
        Ok(())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let left: Vec<usize> = self.readers.iter().flatten().map(|reader| reader.tokens).collect();
        if !left.is_empty() {
            let out = left.iter().sum::<usize>();
            (self.log)(format!("{}: given up after {:.3} s, {out} tokens out", self.name, self.since.elapsed().as_secs_f64()));
        }
    }
}

impl Reader {
    fn push(&mut self, token: u32) -> Result<Vec<Part>, Problem> {
        self.tokens += 1;
        self.times[2].get_or_insert_with(Instant::now);
        self.thinking += usize::from(self.answer.is_thinking());
        let text = self.decoder.as_mut().map_or(Ok(String::new()), |decoder| decoder.push(token))?;
        let parts = self.answer.push(&text);
        self.calls |= parts.iter().any(|part| matches!(part, Part::Call(_)));
        Ok(parts)
    }

    /// How it ended where it was not the engine that ended it.
    fn done(&self) -> Done {
        let now = Instant::now();
        let [given, begun, first] = self.times.map(|time| time.unwrap_or(now));
        let (queued, prefill, decode) = (begun - given, first - begun, now - first);
        Done { ended: true, cached: self.cached, generated: self.tokens, queued, prefill, decode }
    }

    fn finish(&mut self) -> Result<Vec<Part>, Problem> {
        let rest = self.decoder.take().map_or(Ok(String::new()), Decoder::finish)?;
        let mut parts = self.answer.push(&rest);
        parts.extend(self.answer.finish());
        self.calls |= parts.iter().any(|part| matches!(part, Part::Call(_)));
        Ok(parts)
    }
}
