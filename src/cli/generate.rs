//! `ram-run generate`: continues a text, token by token.
use super::{
    args::{Args, GenerateArgs},
    open, print, prompt,
};
use crate::cli::{Error, note};
use ram_run::{Model, Sampler, Sampling, Session, Stats, peak_rss, size};

/// Generates and streams.
pub fn run(args: &Args, a: &GenerateArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let sampling = a.sampling.over(&Sampling::published(checkpoint.folder())?);
    Sampler::new(sampling.clone())?;
    let plan = open::planned(args, &checkpoint, open::request(args)?)?;
    let prompt = match (&a.prompt, &a.file) {
        (Some(prompt), _) if prompt != "-" => prompt.clone(),
        (_, Some(path)) => prompt::file(path, plan.context)?,
        _ => prompt::stdin(plan.context)?,
    };
    // Before a weight is read: a prompt that does not fit is known now.
    let tokens = open::tokenizer(&checkpoint)?.encode_at_most(&prompt, true, plan.context)?;
    let model = open::model(args, &checkpoint, &plan)?;
    let mut session = match &a.session {
        Some(path) if path.exists() => model.restore(path, sampling.clone())?,
        _ => model.session(sampling.clone())?,
    };
    // Choices begin anew with every prompt.
    session.sample_by(sampling)?;
    session.prompt(&tokens)?;
    if !a.json {
        print(&prompt)?;
    }
    let text = stream(&model, &mut session, a.sampling.max_tokens, &mut |piece| if a.json { Ok(()) } else { print(piece) })?;
    if let Some(path) = &a.session {
        model.save(&session, path)?;
    }
    let stats = &session.stats;
    if a.json {
        let new = &session.tokens()[tokens.len()..];
        let json = serde_json::json!({
            "prompt": prompt, "text": text, "tokens": new, "prompt_tokens": stats.prompt_tokens,
            "prefill_seconds": stats.prefill.as_secs_f64(), "decoded_tokens": stats.decoded, "decode_seconds": stats.decode.as_secs_f64(),
            "bits_per_weight": plan.bits_per_weight, "weight_bytes": plan.weight_bytes, "peak_rss": peak_rss(), "budget": plan.memory.budget, "plan": plan.fingerprint,
        });
        return print(&format!("{json}\n"));
    }
    print("\n")?;
    if !args.quiet {
        note(&summary(&model, stats));
    }
    Ok(())
}

/// The text that follows, shown piece by piece as it comes; where it is cancelled, up to there.
pub fn stream(model: &Model, session: &mut Session, max_tokens: usize, show: &mut dyn FnMut(&str) -> Result<(), Error>) -> Result<String, Error> {
    let mut decoder = model.tokenizer.stream(session.tokens());
    let mut text = String::new();
    let mut add = |piece: String| {
        text.push_str(&piece);
        show(&piece)
    };
    for token in model.generate(session, max_tokens) {
        match token {
            Err(ram_run::Error::Cancelled) => break,
            token => add(decoder.push(token?)?)?,
        }
    }
    add(decoder.finish()?)?;
    Ok(text)
}

/// Speed, bits and memory in a line.
pub fn summary(model: &Model, s: &Stats) -> String {
    let rate = |n: usize, t: std::time::Duration| if t.is_zero() { 0.0 } else { n as f64 / t.as_secs_f64() };
    let peak = peak_rss().map_or("unknown".into(), size::show);
    let budget = model.plan.memory.budget.map_or(String::new(), |b| format!(" of {}", size::show(b)));
    format!(
        "prompt {} tokens, {:.1} tokens/s; generated {}, {:.1} tokens/s; {:.2} bits per weight; peak memory {peak}{budget}",
        s.prompt_tokens,
        rate(s.prompt_tokens, s.prefill),
        s.generated,
        rate(s.decoded, s.decode),
        model.plan.bits_per_weight,
    )
}
