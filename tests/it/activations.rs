//! What the fast kernels' 8-bit activations cost: the same packed weights once as they run, and once as f32 with f32 activations.
use ram_kernels::{Arena, Format, KvElement, Matrix, dequantize_row};
use ram_models::Weights;
use ram_run::{Checkpoint, Error, Loaded, Method, Model, Plan, Protocol, Request, TensorSpec, Tokenizer, Transformer};
use std::{path::Path, sync::Arc};

/// The values that packed weights stand for.
struct Dequantized<'a>(&'a Loaded);

impl Weights for Dequantized<'_> {
    type Error = Error;

    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Error> {
        let packed = self.0.matrix(spec)?;
        let (rows, cols) = (packed.rows(), packed.cols());
        let mut values = vec![0.0f32; rows * cols];
        for (row, values) in values.chunks_exact_mut(cols).enumerate() {
            dequantize_row(packed.format(), rows, cols, packed.bytes(), row, values);
        }
        let mut arena = Arena::new(4 * values.len()).expect("room");
        arena.bytes_mut()[..4 * values.len()].as_chunks_mut().0.iter_mut().zip(&values).for_each(|(to, v)| *to = v.to_le_bytes());
        Ok(Matrix::new(Arc::new(arena), 0, Format::F32, rows, cols))
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Error> {
        self.0.vector(spec)
    }
}

/// Both models of a checkpoint in one format.
fn both(folder: &Path, format: Format) -> [Model; 2] {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let plan = ram_run::plan(&checkpoint, &Request { method: Method::Uniform(format), ..Request::default() }, &|_| {}).unwrap();
    let packed = ram_run::load(&checkpoint, &plan, &|_| {}).unwrap();
    let wide = Transformer::new(checkpoint.description().clone(), &Dequantized(&packed), &ram_run::Backend::Fused).unwrap();
    let tokenizer = Tokenizer::open(folder, checkpoint.description().vocab_size).unwrap();
    let exact = Model { transformer: wide, tokenizer: tokenizer.into(), plan: Plan { kv: KvElement::F32, ..plan.clone() } };
    [Model::new(&checkpoint, &plan, &packed).unwrap(), exact]
}

#[test]
fn eight_bit_activations_leave_perplexity_within_a_thousandth() {
    let Some(shared) = crate::parity::shared() else { return };
    let text = std::fs::read_to_string(shared.join("data/wikitext-2-raw/wiki.test.raw")).unwrap();
    for name in ["tiny-mixtral", "tiny-qwen2-moe", "tiny-qwen3-moe"] {
        for format in ["t3g64", "t4g64", "a4g64"] {
            let [fast, exact] = both(&shared.join("models").join(name), format.parse().unwrap());
            let [fast, exact] = [fast, exact].map(|m| m.perplexity(&text, &Protocol::windows(256, 256), Some(64), None, &mut |_| {}).unwrap());
            let more = fast.perplexity / exact.perplexity - 1.0;
            eprintln!("{name} {format}: {:.4} with f32 activations, {:.4} as it runs: {:+.4} %", exact.perplexity, fast.perplexity, 100.0 * more);
            assert!(more.abs() < 1e-3, "{name} {format}: {more}");
            // Both computed something, and not the same thing twice.
            assert!(more != 0.0 && exact.perplexity < 150.0, "{name} {format}: {}", exact.perplexity);
        }
    }
}
