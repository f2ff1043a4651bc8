//! Error feedback for the inputs that a model's own text gives.
use crate::parity::shared;
use ram_run::{Checkpoint, Error, Method, Model, Plan, Protocol, Request, Survey, load, plan, refined};
use std::{collections::HashSet, sync::Arc};

#[test]
fn feedback_for_its_own_text_makes_a_model_better() -> Result<(), Error> {
    let Some(shared) = shared() else { return Ok(()) };
    let text = std::fs::read_to_string(shared.join("data/wikitext-2-raw/wiki.test.raw")).expect("the text");
    // Measured are 0.52, 0.38 and 0.51.
    for model in ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"] {
        let [plain, fed] = losses(&Checkpoint::open(&shared.join("models").join(model))?, &text)?;
        eprintln!("{model}: KL {plain} without feedback, {fed} with");
        assert!(fed < 0.7 * plain, "{model}: {fed} with feedback, {plain} without");
    }
    Ok(())
}

/// KL divergence of a model in 3 bits without and with feedback.
fn losses(checkpoint: &Checkpoint, text: &str) -> Result<[f64; 2], Error> {
    let mut request = Request { method: Method::Uniform("t3g64".parse().expect("a format")), ..Request::default() };
    request.survey = Some(Arc::new(Survey::measure(checkpoint, &|_| ())?));
    let plain = plan(checkpoint, &request, &|_| ())?;
    assert!(plain.survey.text().is_none());
    let survey = refined(checkpoint, &request, &|_, _| ())?;
    let own: HashSet<&[u32]> = survey.text().expect("a text").iter().map(Vec::as_slice).collect();
    assert_eq!((own.len(), survey.text().map(|text| text[0].len())), (64, Some(256)), "sequences that differ");
    request.survey = Some(Arc::new(survey));
    let fed = plan(checkpoint, &request, &|_| ())?;
    assert!(fed.survey.text().is_some() && fed.weight_bytes == plain.weight_bytes && fed.fingerprint != plain.fingerprint);
    let dense = plan(checkpoint, &Request { method: Method::Dense, ..Request::default() }, &|_| ())?;
    let model = |plan: &Plan| Model::new(checkpoint, plan, &load(checkpoint, plan, &|_| ())?);
    let reference = model(&dense)?;
    let protocol = Protocol::windows(256, 256);
    let kl = |plan: &Plan| {
        let report = model(plan)?.perplexity(text, &protocol, Some(16), Some(&reference), &mut |_| ())?;
        Ok::<_, Error>(report.kl.expect("against the dense model"))
    };
    Ok([kl(&plain)?, kl(&fed)?])
}
