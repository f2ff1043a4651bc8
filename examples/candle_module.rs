//! A candle model of one's own with matrices that a plan has packed: an expert of the bundled model, against the same in full precision.
use candle_nn::Module;
use ram_run::{
    Checkpoint, Error, Limit, Method, PackedLinear, Request,
    candle_core::{Device, Result, Tensor},
};

/// `down (silu(gate x) * (up x))`, of any modules.
struct Mlp<M> {
    gate: M,
    up: M,
    down: M,
}

impl<M: Module> Module for Mlp<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&(self.gate.forward(x)?.silu()? * self.up.forward(x)?)?)
    }
}

/// The expert as a plan packs it.
fn expert(checkpoint: &Checkpoint, request: &Request) -> std::result::Result<Mlp<PackedLinear>, Error> {
    let plan = ram_run::plan(checkpoint, request, &|_| ())?;
    let weights = ram_run::load(checkpoint, &plan, &|_| ())?;
    let linear = |part: &str| weights.linear(&format!("model.layers.3.mlp.experts.7.{part}_proj.weight"));
    Ok(Mlp { gate: linear("gate")?, up: linear("up")?, down: linear("down")? })
}

fn main() -> std::result::Result<(), Error> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-qwen3-moe");
    let checkpoint = Checkpoint::open(folder.as_ref())?;
    let x = Tensor::randn(0f32, 1f32, (5, checkpoint.description().hidden_size), &Device::Cpu)?;
    let dense = expert(&checkpoint, &Request { method: Method::Dense, ..Request::default() })?.forward(&x)?;
    let norm = dense.sqr()?.sum_all()?.to_scalar::<f32>()?;
    for bytes in [6_000_000, 9_000_000, 13_000_000] {
        let packed = expert(&checkpoint, &Request { limit: Limit::Weights(bytes), ..Request::default() })?;
        let error = (packed.forward(&x)? - &dense)?.sqr()?.sum_all()?.to_scalar::<f32>()? / norm;
        println!("{:>5} {bytes:>9} bytes of weights: squared relative error {error:.5}", packed.down.matrix().format());
    }
    Ok(())
}
