//! The one forward pass: embedding, layers, final norm, head.
use crate::{Config, KvCache, KvElement, TensorSpec, ops, ops::Linear, router::route, spec::LayerSpecs};
use candle_core::{Device, Result, Tensor, bail};
use candle_nn::{ops::rms_norm, rotary_emb::rope_thd};
use ram_kernels::{Attention, Experts, Matrix};

/// Where a model's tensors come from.
pub trait Weights {
    /// What can go wrong.
    type Error;

    /// The matrix of a spec whose kind is one.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn matrix(&self, spec: &TensorSpec) -> std::result::Result<Matrix, Self::Error>;

    /// The values of a norm or bias.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn vector(&self, spec: &TensorSpec) -> std::result::Result<Vec<f32>, Self::Error>;
}

/// A model that is ready to run.
#[derive(Debug)]
pub struct Transformer {
    config: Config,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The embedding again where they are tied.
    head: Linear<1>,
}

/// Names as in [`LayerSpecs`].
#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    qkv: Linear<3>,
    qkv_bias: Option<[Tensor; 3]>,
    qk_norm: Option<[Tensor; 2]>,
    output: Linear<1>,
    output_bias: Option<Tensor>,
    post_norm: Tensor,
    mlp: Mlp,
}

#[derive(Debug)]
enum Mlp {
    /// One expert that every token takes.
    Dense(Experts),
    Sparse {
        router: Linear<1>,
        experts: Experts,
        shared: Option<(Linear<1>, Experts)>,
    },
}

impl Transformer {
    /// Asks `weights` for every tensor of [`Config::tensors`], each once.
    ///
    /// # Errors
    /// Those of `weights`, and candle's where a tensor does not have the shape of its spec.
    pub fn new<W: Weights>(config: Config, weights: &W) -> std::result::Result<Transformer, W::Error>
    where
        W::Error: From<candle_core::Error>,
    {
        let from = Source(weights);
        let ends = config.ends();
        let embedding = from.matrix(&ends.embedding)?;
        let layers = (0..config.num_hidden_layers).map(|l| from.layer(config.layer(l))).collect::<std::result::Result<_, _>>()?;
        let norm = from.vector(&ends.norm)?;
        let head = ends.head.map(|spec| from.matrix(&spec)).transpose()?.unwrap_or_else(|| embedding.clone());
        Ok(Transformer { config, embedding, layers, norm, head: Linear([head]) })
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An empty cache for `capacity` tokens.
    pub fn cache(&self, capacity: usize, element: KvElement) -> KvCache {
        KvCache::new(&self.config, capacity, element)
    }

    /// Hidden states after the final norm, (tokens, hidden_size) f32, of tokens that follow those in `cache`; appends them to it.
    ///
    /// # Errors
    /// Where there are no tokens, the cache has no room for them, or one is not in the vocabulary; the cache is as it was then.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let Config { vocab_size, rms_norm_eps, .. } = self.config;
        let start = cache.len();
        if tokens.is_empty() {
            bail!("a forward pass needs at least one token");
        }
        if tokens.len() > cache.capacity() - start {
            bail!("{} tokens after {start} do not fit a cache for {}", tokens.len(), cache.capacity());
        }
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocab_size) {
            bail!("token {token} is not in the vocabulary of {vocab_size}");
        }
        let rotary = rotary(&self.config, start, tokens.len())?;
        let mut hidden = ops::embed(&self.embedding, tokens)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            hidden = layer.attention(&self.config, hidden, &rotary, cache)?;
            hidden = layer.mlp(&self.config, hidden)?;
        }
        cache.advance(tokens.len());
        rms_norm(&hidden, &self.norm, rms_norm_eps as f32)
    }

    /// Logits (tokens, vocab_size) of hidden states (tokens, hidden_size).
    ///
    /// # Errors
    /// Where the shape is another.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let [logits] = self.head.forward(hidden)?;
        Ok(logits)
    }

    /// An upper bound of the bytes that one [`Transformer::forward`] of `tokens` tokens holds at its peak, besides weights and cache.
    /// Logits are not in it: n rows of them take `8 n vocab_size` bytes while they are computed, half of that after.
    pub fn scratch_bytes(config: &Config, tokens: usize) -> usize {
        // A product's inputs are copied twice at most (made ready, then laid out in a buffer that may be twice too long), and its
        // outputs are there twice (in tiles of 16 rows, then in order); all in f32 at most.
        const READY: usize = 12;
        const PRODUCT: usize = 8;
        let (hidden, q, kv) = (config.hidden_size, config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        // q, k, v as they come, with bias, normed and with positions: at most three of these at a time.
        let attention = 3 * 4 * (q + 2 * kv) + 4 * q + (READY + PRODUCT) * (hidden + q + 2 * kv);
        let mlp = |per_token: usize, width: usize| {
            let middle = (4 + 4 + READY) * width.next_multiple_of(16);
            per_token * (READY * hidden + middle) + (READY + PRODUCT) * hidden + PRODUCT * config.num_experts
        };
        let routed = mlp(config.num_experts_per_tok, config.moe_intermediate_size);
        let dense = mlp(1, config.intermediate_size.max(config.shared_expert_intermediate_size.unwrap_or(0)));
        // The residual stream before and after, its norm, and the rotary tables.
        let stream = 4 * 4 * hidden + 4 * config.head_dim;
        // A constant for the scratch of the threads, which does not grow with the tokens.
        tokens * (stream + attention.max(routed).max(dense)) + (1 << 20)
    }
}

impl Layer {
    /// `hidden` plus the attention of its norm.
    fn attention(&self, config: &Config, hidden: Tensor, rotary: &Rotary, cache: &mut Attention) -> Result<Tensor> {
        let (tokens, eps, head_dim) = (hidden.dim(0)?, config.rms_norm_eps as f32, config.head_dim);
        let mut qkv = self.qkv.forward(&rms_norm(&hidden, &self.input_norm, eps)?)?;
        if let Some(bias) = &self.qkv_bias {
            for (x, bias) in qkv.iter_mut().zip(bias) {
                *x = x.broadcast_add(bias)?;
            }
        }
        let [q, k, v] = qkv;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let mut q = q.reshape((tokens, heads, head_dim))?;
        let mut k = k.reshape((tokens, kv_heads, head_dim))?;
        let v = v.reshape((tokens, kv_heads, head_dim))?;
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            q = rms_norm(&q, q_norm, eps)?;
            k = rms_norm(&k, k_norm, eps)?;
        }
        let out = ops::attend(cache, &rotary.turn(&q)?, &rotary.turn(&k)?, &v)?;
        let [out] = self.output.forward(&out.reshape((tokens, heads * head_dim))?)?;
        let out = match &self.output_bias {
            Some(bias) => out.broadcast_add(bias)?,
            None => out,
        };
        hidden + out
    }

    /// `hidden` plus the MLP of its norm.
    fn mlp(&self, config: &Config, hidden: Tensor) -> Result<Tensor> {
        let x = rms_norm(&hidden, &self.post_norm, config.rms_norm_eps as f32)?;
        match &self.mlp {
            Mlp::Dense(mlp) => ops::add_experts(&hidden, &x, mlp, &vec![(0, 1.0); x.dim(0)?], 1),
            Mlp::Sparse { router, experts, shared } => {
                let per_token = config.num_experts_per_tok;
                let [logits] = router.forward(&x)?;
                let logits = logits.flatten_all()?.to_vec1::<f32>()?;
                let routes = route(&logits, config.num_experts, per_token, config.norm_topk_prob);
                let sum = ops::add_experts(&hidden, &x, experts, &routes, per_token)?;
                let Some((router, shared)) = shared else { return Ok(sum) };
                let [share] = router.forward(&x)?;
                let share = share.flatten_all()?.to_vec1::<f32>()?;
                let routes: Vec<(u32, f32)> = share.into_iter().map(|s| (0, 1.0 / (1.0 + (-s).exp()))).collect();
                ops::add_experts(&sum, &x, shared, &routes, 1)
            }
        }
    }
}

/// Cosines and sines of the tokens' positions, (tokens, 1, head_dim / 2).
struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Turns the pairs (i, i + head_dim / 2) of `x` (tokens, heads, head_dim) by their position's angles.
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        // A token is a batch here: candle goes through batches in parallel.
        rope_thd(&x.unsqueeze(1)?, &self.cos, &self.sin)?.squeeze(1)
    }
}

fn rotary(config: &Config, start: usize, tokens: usize) -> Result<Rotary> {
    let half = config.head_dim / 2;
    // Frequencies and angles are rounded to f32, because the models were trained with that: at position 2,048 it is 1e-4 of a turn.
    let frequency: Vec<f32> = (0..half).map(|i| config.rope_theta.powf(-(i as f64) / half as f64) as f32).collect();
    let angles = (start..start + tokens).flat_map(|p| frequency.iter().map(move |f| f64::from(p as f32 * f)));
    let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
    let table = |values| Tensor::from_vec(values, (tokens, 1, half), &Device::Cpu);
    Ok(Rotary { cos: table(cos)?, sin: table(sin)? })
}

/// Weights, asked for in the shapes of the forward pass.
struct Source<'a, W>(&'a W);

impl<W: Weights> Source<'_, W>
where
    W::Error: From<candle_core::Error>,
{
    fn layer(&self, specs: LayerSpecs) -> std::result::Result<Layer, W::Error> {
        Ok(Layer {
            input_norm: self.vector(&specs.input_norm)?,
            qkv: Linear(self.matrices(&specs.qkv)?),
            qkv_bias: specs.qkv_bias.map(|[q, k, v]| Ok::<_, W::Error>([self.vector(&q)?, self.vector(&k)?, self.vector(&v)?])).transpose()?,
            qk_norm: specs.qk_norm.map(|[q, k]| Ok::<_, W::Error>([self.vector(&q)?, self.vector(&k)?])).transpose()?,
            output: Linear([self.matrix(&specs.output)?]),
            output_bias: specs.output_bias.map(|b| self.vector(&b)).transpose()?,
            post_norm: self.vector(&specs.post_norm)?,
            mlp: match specs.router {
                None => Mlp::Dense(self.experts(&specs.experts)?),
                Some(router) => Mlp::Sparse {
                    router: Linear([self.matrix(&router)?]),
                    experts: self.experts(&specs.experts)?,
                    shared: specs.shared.map(|s| Ok::<_, W::Error>((Linear([self.matrix(&s.router)?]), self.experts(&[s.expert])?))).transpose()?,
                },
            },
        })
    }

    fn experts(&self, specs: &[[TensorSpec; 3]]) -> std::result::Result<Experts, W::Error> {
        let mut experts = Experts { gate: Vec::new(), up: Vec::new(), down: Vec::new() };
        for expert in specs {
            let [gate, up, down] = self.matrices(expert)?;
            experts.gate.push(gate);
            experts.up.push(up);
            experts.down.push(down);
        }
        Ok(experts)
    }

    fn matrices(&self, [a, b, c]: &[TensorSpec; 3]) -> std::result::Result<[Matrix; 3], W::Error> {
        Ok([self.matrix(a)?, self.matrix(b)?, self.matrix(c)?])
    }

    fn matrix(&self, spec: &TensorSpec) -> std::result::Result<Matrix, W::Error> {
        let m = self.0.matrix(spec)?;
        if spec.shape != [m.rows(), m.cols()] {
            return Err(candle_core::Error::Msg(format!("{} is {} x {}, but must be {:?}", spec.name, m.rows(), m.cols(), spec.shape)).into());
        }
        Ok(m)
    }

    fn vector(&self, spec: &TensorSpec) -> std::result::Result<Tensor, W::Error> {
        let values = self.0.vector(spec)?;
        Ok(Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?)
    }
}
