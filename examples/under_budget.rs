//! A model inside a larger program: what memory it may take, what it will take, and the packed weights kept for the
//! next start.
//!
//!     cargo run --release --example under_budget
use ram_run::{
    Checkpoint, Error, Limit, Model, Request, Sampling, load,
    packed::{self, Found},
    peak_rss, plan, size,
};

fn main() -> Result<(), Error> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe").as_ref())?;
    // A budget bounds a whole process; this program keeps 16 MB of it for itself.
    let request = Request { limit: Limit::Process(64_000_000), reserved: 16_000_000, context: Some(512), ..Request::default() };
    let plan = match plan(&checkpoint, &request, &|_| ()) {
        Err(Error::Budget { need, .. }) => {
            println!("this machine is too small: {} are needed", size::show(need));
            return Ok(());
        }
        plan => plan?,
    };
    println!("{:.2} bits per weight in {}, context {}", plan.bits_per_weight, size::show(plan.memory.total), plan.context);

    let folder = std::env::temp_dir().join("ram-run-example");
    let path = packed::path(&folder, &checkpoint, &plan)?;
    let weights = match packed::read(&path, &plan, &|_| ())? {
        Found::Whole(weights) => weights,
        Found::Nothing | Found::Damaged(_) => {
            let weights = load(&checkpoint, &plan, &|_| ())?;
            packed::write(&path, &checkpoint, &plan, &weights, &|_| ())?;
            weights
        }
    };
    let model = Model::new(&checkpoint, &plan, &weights)?;
    let mut session = model.session(Sampling::default())?;
    session.prompt(&model.tokenizer.encode("The river", true)?)?;
    let next = model.logits(&mut session)?;
    let likeliest = next.iter().zip(0u32..).max_by(|a, b| a.0.total_cmp(b.0)).map_or(0, |(_, token)| token);
    println!("The river{}", model.tokenizer.decode(&[likeliest])?);
    println!("peak memory {}", peak_rss().map_or("unknown".into(), size::show));
    Ok(())
}
