//! `ram-run generate`: continues a text, token by token.
use super::{
    args::{Args, GenerateArgs},
    open, print, prompt,
};
use crate::cli::{Error, note};
use ram_run::{Generator, Model, Sampler, Sampling, peak_rss, size};

/// Generates and streams.
pub fn run(args: &Args, a: &GenerateArgs) -> Result<(), Error> {
    let checkpoint = open::checkpoint(args)?;
    let sampling = a.sampling.over(&Sampling::published(checkpoint.folder())?);
    Sampler::new(sampling.clone())?;
    let plan = open::plan(&checkpoint, &open::request(args)?)?;
    let prompt = match (&a.prompt, &a.file) {
        (Some(prompt), _) if prompt != "-" => prompt.clone(),
        (_, Some(path)) => prompt::file(path, plan.context)?,
        _ => prompt::stdin(plan.context)?,
    };
    // Before a weight is read: a prompt that does not fit is known now.
    let tokens = open::tokenizer(&checkpoint)?.encode_at_most(&prompt, true, plan.context)?;
    let model = open::model(args, &checkpoint, &plan)?;
    let mut cache = model.cache();
    let mut generator = model.generate(&mut cache, tokens.clone(), sampling, a.sampling.max_tokens)?;
    if !a.json {
        print(&prompt)?;
    }
    let text = stream(&model, &mut generator, &tokens, || false, &mut |piece| if a.json { Ok(()) } else { print(piece) })?;
    let stats = generator.stats.clone();
    if a.json {
        let new = &generator.tokens()[tokens.len()..];
        let json = serde_json::json!({
            "prompt": prompt, "text": text, "tokens": new, "prompt_tokens": stats.prompt_tokens,
            "prefill_seconds": stats.prefill.as_secs_f64(), "decoded_tokens": stats.decoded, "decode_seconds": stats.decode.as_secs_f64(),
            "bits_per_weight": plan.bits_per_weight, "weight_bytes": plan.weight_bytes, "peak_rss": peak_rss(), "budget": plan.memory.budget, "plan": plan.fingerprint,
        });
        return print(&format!("{json}\n"));
    }
    print("\n")?;
    if !args.quiet {
        note(&summary(&model, &generator));
    }
    Ok(())
}

/// The text of the tokens that `generator` gives, shown piece by piece as it comes, until `stop`.
pub fn stream(
    model: &Model,
    generator: &mut Generator,
    context: &[u32],
    stop: impl Fn() -> bool,
    show: &mut dyn FnMut(&str) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut decoder = model.tokenizer.stream(context);
    let mut text = String::new();
    let mut add = |piece: String| {
        text.push_str(&piece);
        show(&piece)
    };
    for token in generator {
        add(decoder.push(token?)?)?;
        if stop() {
            break;
        }
    }
    add(decoder.finish()?)?;
    Ok(text)
}

/// Speed, bits and memory in a line.
pub fn summary(model: &Model, generator: &Generator) -> String {
    let s = &generator.stats;
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
