//! The one forward pass: embedding, layers, final norm, head.
//!
//! The residual stream is one buffer that layers add to; what a layer needs in between is in [`Scratch`], which the cache of a
//! sequence keeps, so that decoding allocates next to nothing. Candle's tensors are what goes in and out.
use crate::{Config, ForwardError, KvCache, KvElement, TensorSpec, ops::Linear, router::route, spec::LayerSpecs};
use candle_core::{Device, Tensor};
use ram_kernels::{
    Attention, Experts, Heads, Inputs, Matrix, Mixture, NotFinite, PANEL_BYTES, Product, Products, Routed, Same, Team, Turn, Watch, add_tiles,
    attend, embed, finite, isa::Level, norm_rows, normed, team,
};

/// Where a model's tensors come from.
pub trait Weights {
    /// What can go wrong.
    type Error;

    /// The matrix of a spec whose kind is one.
    ///
    /// # Errors
    /// Where it cannot be had.
    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, Self::Error>;

    /// The values of a norm or bias.
    ///
    /// # Errors
    /// Where they cannot be had.
    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;
}

/// A model that is ready to run.
#[derive(Debug)]
pub struct Transformer {
    config: Config,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The embedding again where they are tied.
    head: Linear,
    /// Of the rotary positions, per pair.
    frequencies: Vec<f32>,
}

/// Names as in [`LayerSpecs`].
#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    qkv: [Matrix; 3],
    qkv_bias: Option<[Vec<f32>; 3]>,
    qk_norm: Option<[Vec<f32>; 2]>,
    output: Matrix,
    output_bias: Option<Vec<f32>>,
    post_norm: Vec<f32>,
    mlp: Mlp,
}

#[derive(Debug)]
enum Mlp {
    /// One expert that every token takes.
    Dense(Experts),
    Sparse {
        /// That of the experts, and that of the shared one where there is one.
        routers: Vec<Matrix>,
        experts: Experts,
        shared: Option<Experts>,
    },
}

/// What a forward pass works in.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// 0, 1, 2, ...
    tokens: Vec<u32>,
    /// The residual stream, (tokens, hidden_size).
    hidden: Vec<f32>,
    /// Cosines and sines, (tokens, 2, head_dim / 2).
    angles: Vec<f32>,
    inputs: Inputs,
    products: Products,
    /// (tokens, q and k and v).
    qkv: Vec<f32>,
    by_head: Vec<f32>,
    /// (tokens, heads, head_dim).
    attended: Vec<f32>,
    /// (tokens, num_experts), and the shared expert's.
    logits: Vec<f32>,
    routes: Vec<(u32, f32)>,
    shared_routes: Vec<(u32, f32)>,
    mixture: Mixture,
}

impl Transformer {
    /// Asks `weights` for every tensor of [`Config::tensors`], each once.
    ///
    /// # Errors
    /// Those of `weights`, and candle's where a tensor does not have the shape of its spec.
    pub fn new<W: Weights>(config: Config, weights: &W) -> Result<Transformer, W::Error>
    where
        W::Error: From<candle_core::Error>,
    {
        let from = Source(weights);
        let ends = config.ends();
        let embedding = from.matrix(&ends.embedding)?;
        let layers = (0..config.num_hidden_layers).map(|l| from.layer(config.layer(l))).collect::<Result<_, _>>()?;
        let norm = from.vector(&ends.norm)?;
        let head = ends.head.map(|spec| from.matrix(&spec)).transpose()?.unwrap_or_else(|| embedding.clone());
        let half = config.head_dim / 2;
        // Frequencies and angles are rounded to f32, because the models were trained with that: at position 2,048 it is 1e-4 of a turn.
        let frequencies = (0..half).map(|i| config.rope_theta.powf(-(i as f64) / half as f64) as f32).collect();
        Ok(Transformer { config, embedding, layers, norm, head: Linear(head), frequencies })
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
    /// Where there are no tokens, the cache has no room for them or is another model's, a token is not in the vocabulary, or a NaN or an
    /// infinity comes up; the cache is as it was then.
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<Tensor, ForwardError> {
        self.run(tokens, cache, |team, s| {
            let done = norm_rows(team, &mut s.hidden, &self.norm, self.config.rms_norm_eps as f32);
            done.map_err(|_| NotFinite(HEAD_INPUTS))
        })?;
        Ok(Tensor::from_slice(&cache.scratch.hidden, (tokens.len(), self.config.hidden_size), &Device::Cpu)?)
    }

    /// Logits (vocab_size) of what follows `tokens`, which follow those in `cache`; appends them to it. The same as
    /// [`Transformer::logits`] of the last row of [`Transformer::forward`], in memory that the cache keeps.
    ///
    /// # Errors
    /// As for [`Transformer::forward`].
    pub fn next_logits<'c>(&self, tokens: &[u32], cache: &'c mut KvCache) -> Result<&'c [f32], ForwardError> {
        let Config { hidden_size, vocab_size, rms_norm_eps, .. } = self.config;
        self.run(tokens, cache, |team, s| {
            let Scratch { tokens, hidden, inputs, products, .. } = s;
            let (last, only, level) = (&hidden[(tokens.len() - 1) * hidden_size..], &tokens[..1], team.level());
            let norm = |_| normed(level, last, &self.norm, rms_norm_eps as f32);
            inputs.fill(team, [(&self.head.0, only)].into_iter(), 1, hidden_size, norm).map_err(|_| NotFinite(HEAD_INPUTS))?;
            products.run(team, &[inputs.product(&self.head.0, only)]);
            if finite(level, &products.of(0).as_flattened()[..vocab_size]) { Ok(()) } else { Err(NotFinite(LOGITS)) }
        })?;
        Ok(&cache.scratch.products.of(0).as_flattened()[..vocab_size])
    }

    /// The residual stream, and what `then` makes of it, in the cache's scratch.
    fn run(&self, tokens: &[u32], cache: &mut KvCache, then: impl FnOnce(&Team, &mut Scratch) -> Result<(), NotFinite>) -> Result<(), ForwardError> {
        self.check(tokens, cache)?;
        let done = team(Level::active(), |team| {
            self.stream(team, tokens, cache)?;
            then(team, &mut cache.scratch).map_err(ForwardError::not_finite(None))
        });
        match done {
            Ok(()) => cache.advance(tokens),
            // Some layers have the tokens already.
            Err(_) => cache.truncate(cache.len()),
        }
        done
    }

    fn check(&self, tokens: &[u32], cache: &KvCache) -> Result<(), ForwardError> {
        let Config { num_hidden_layers, num_key_value_heads, head_dim, vocab_size, .. } = self.config;
        let (start, capacity, model) = (cache.len(), cache.capacity(), (num_hidden_layers, num_key_value_heads, head_dim));
        if cache.shape() != model {
            return Err(ForwardError::OtherModel { cache: cache.shape(), model });
        }
        if tokens.is_empty() {
            return Err(ForwardError::NoTokens);
        }
        if tokens.len() > capacity - start {
            return Err(ForwardError::Full { tokens: tokens.len(), start, capacity });
        }
        match tokens.iter().find(|t| **t as usize >= vocab_size) {
            Some(&token) => Err(ForwardError::Vocabulary { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// The residual stream after all layers, in the cache's scratch.
    fn stream(&self, team: &Team, tokens: &[u32], cache: &mut KvCache) -> Result<(), ForwardError> {
        let (start, n) = (cache.len(), tokens.len());
        let s = &mut cache.scratch;
        s.hidden.resize(n * self.config.hidden_size, 0.0);
        embed(team, &self.embedding, tokens, &mut s.hidden);
        s.tokens.clear();
        s.tokens.extend(0..n as u32);
        s.angles.resize(n * self.config.head_dim, 0.0);
        team.chunks(&mut s.angles, self.config.head_dim, |t, angles| angles_at(start + t, &self.frequencies, angles));
        for (l, (layer, cache)) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            let done = layer.attention(team, &self.config, s, cache).and_then(|()| layer.mlp(team, &self.config, s));
            done.map_err(ForwardError::not_finite(Some(l)))?;
        }
        Ok(())
    }

    /// Logits (tokens, vocab_size) of hidden states (tokens, hidden_size).
    ///
    /// # Errors
    /// Where the shape is another, or a logit is not finite.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ForwardError> {
        hidden.apply(&self.head).map_err(|e| match e {
            candle_core::Error::WrappedContext { wrapped, .. } if wrapped.is::<NotFinite>() => ForwardError::NotFinite { what: LOGITS, layer: None },
            e => e.into(),
        })
    }

    /// An upper bound of the bytes that one [`Transformer::forward`] of `tokens` tokens by `threads` threads holds at its peak, besides weights and cache.
    /// Logits are not in it: n rows of them take `8 n vocab_size` bytes while they are computed, half of that after.
    pub fn scratch_bytes(config: &Config, tokens: usize, threads: usize) -> usize {
        // Inputs in all three forms at most, once more where act-order wants them; f32 products, in tiles.
        const READY: usize = 10;
        const PRODUCT: usize = 4;
        let (hidden, q, kv) = (config.hidden_size, config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        // Shared by all steps, as large as the largest needs: q, k and v, the output, the routers.
        let inputs = READY * hidden.max(q);
        let products = PRODUCT * hidden.max(q + 2 * kv).max(config.num_experts + 1);
        // q, k and v in order, attention by head and in order.
        let attention = 4 * (q + 2 * kv) + 2 * 4 * q;
        // Experts of a token, gated, and results of some of them at a time; of a layer without experts.
        let sparse = [(config.num_experts_per_tok, config.moe_intermediate_size), (1, config.shared_expert_intermediate_size.unwrap_or(0))];
        let dense = [(1, config.intermediate_size)];
        let results = Mixture::result_bytes(tokens, hidden, &sparse).max(Mixture::result_bytes(tokens, hidden, &dense));
        let middle = |parts: &[(usize, usize)]| READY * parts.iter().map(|(per_token, width)| per_token * width.next_multiple_of(16)).sum::<usize>();
        let mixture = READY * hidden + middle(&sparse).max(middle(&dense)) + 4 * config.num_experts + 64 * (config.num_experts_per_tok + 1);
        // The residual stream, a copy of it, its norm, and the rotary angles.
        let stream = 3 * 4 * hidden + 4 * config.head_dim;
        // For many tokens or for a row of the embedding.
        let threads = threads * PANEL_BYTES.max(16 * hidden);
        // A constant for what does not grow with the tokens: buckets, tasks.
        tokens * (stream + inputs + products + attention + mixture) + results + threads + (1 << 20)
    }
}

const LOGITS: &str = "logits";
const HEAD_INPUTS: &str = "inputs of the head";

impl Layer {
    /// Adds the attention of its norm to the residual stream.
    fn attention(&self, team: &Team, config: &Config, s: &mut Scratch, cache: &mut Attention) -> Result<(), NotFinite> {
        let Scratch { tokens, hidden, angles, inputs, products, qkv, by_head, attended, .. } = s;
        let (tokens, n) = (tokens.as_slice(), tokens.len());
        let (eps, head_dim, hidden_size) = (config.rms_norm_eps as f32, config.head_dim, config.hidden_size);
        let level = team.level();
        let norm = |t: usize| normed(level, &hidden[t * hidden_size..][..hidden_size], &self.input_norm, eps);
        let filled = inputs.fill(team, self.qkv.iter().map(|m| (m, tokens)), n, hidden_size, norm);
        filled.map_err(|_| NotFinite("inputs of the attention"))?;
        products.run(team, &self.qkv.each_ref().map(|m| inputs.product(m, tokens)));

        let ends = [self.qkv[0].rows(), self.qkv[0].rows() + self.qkv[1].rows()];
        let stride = ends[1] + self.qkv[2].rows();
        qkv.resize(n * stride, 0.0);
        team.chunks(qkv, stride, |t, row| {
            let (q, rest) = row.split_at_mut(ends[0]);
            let (k, v) = rest.split_at_mut(ends[1] - ends[0]);
            let angles = angles[t * head_dim..][..head_dim].split_at(head_dim / 2);
            for (i, part) in [q, k, v].into_iter().enumerate() {
                products.token(i, t, n).copy_to(part);
                if let Some(bias) = &self.qkv_bias {
                    part.iter_mut().zip(&bias[i]).for_each(|(x, bias)| *x += bias);
                }
                if i < 2 {
                    let norm = self.qk_norm.as_ref().map(|norms| (norms[i].as_slice(), eps));
                    Turn { norm, angles: [angles.0, angles.1] }.apply(level, part, head_dim);
                }
            }
        });
        attended.resize(n * ends[0], 0.0);
        let heads = [0, ends[0], ends[1]].map(|start| Heads { data: &qkv[start..], stride });
        attend(team, cache, heads, config.num_attention_heads, by_head, attended)?;

        let filled = inputs.fill(team, [(&self.output, tokens)].into_iter(), n, ends[0], |t| Same(&attended[t * ends[0]..][..ends[0]]));
        filled.map_err(|_| NotFinite("results of the attention"))?;
        products.run(team, &[inputs.product(&self.output, tokens)]);
        add_tiles(team, products.of(0), n, hidden);
        if let Some(bias) = &self.output_bias {
            team.chunks(hidden, hidden_size, |_, row| row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
        }
        Ok(())
    }

    /// Adds the MLP of its norm to the residual stream.
    fn mlp(&self, team: &Team, config: &Config, s: &mut Scratch) -> Result<(), NotFinite> {
        let Scratch { tokens, hidden, inputs, products, logits, routes, shared_routes, mixture, .. } = s;
        let (tokens, n, level) = (tokens.as_slice(), tokens.len(), team.level());
        let (eps, hidden_size) = (config.rms_norm_eps as f32, config.hidden_size);
        let norm = |t: usize| normed(level, &hidden[t * hidden_size..][..hidden_size], &self.post_norm, eps);
        let parts: Vec<Routed> = match &self.mlp {
            Mlp::Dense(experts) => {
                routes.clear();
                routes.resize(n, (0, 1.0));
                vec![Routed { experts, routes, per_token: 1 }]
            }
            Mlp::Sparse { routers, experts, shared } => {
                let filled = inputs.fill(team, routers.iter().map(|m| (m, tokens)), n, hidden_size, norm);
                filled.map_err(|_| NotFinite("inputs of the router"))?;
                let each: Vec<Product> = routers.iter().map(|m| inputs.product(m, tokens)).collect();
                products.run(team, &each);
                let (all, per_token, watch) = (config.num_experts, config.num_experts_per_tok, Watch::default());
                logits.resize(n * all, 0.0);
                routes.resize(n * per_token, (0, 0.0));
                team.chunks2((logits, all), (routes, per_token), |t, logits, routes| {
                    products.token(0, t, n).copy_to(logits);
                    watch.see(finite(level, logits));
                    route(logits, config.norm_topk_prob, routes);
                });
                let mut parts = vec![Routed { experts, routes, per_token }];
                if let Some(experts) = shared {
                    watch.see(products.of(1).iter().all(|row| row[0].is_finite()));
                    shared_routes.clear();
                    shared_routes.extend(products.of(1).iter().map(|row| (0, 1.0 / (1.0 + (-row[0]).exp()))));
                    parts.push(Routed { experts, routes: shared_routes, per_token: 1 });
                }
                watch.result("logits of the router")?;
                parts
            }
        };
        mixture.gate(team, &parts, n, norm)?;
        mixture.add_to(team, &parts, hidden);
        Ok(())
    }
}

/// Cosines, then sines, of a position's angles.
fn angles_at(position: usize, frequencies: &[f32], out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(frequencies.len());
    for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(frequencies) {
        let angle = f64::from(position as f32 * f);
        (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
    }
}

/// Weights, asked for in the shapes of the forward pass.
struct Source<'a, W>(&'a W);

impl<W: Weights> Source<'_, W>
where
    W::Error: From<candle_core::Error>,
{
    fn layer(&self, specs: LayerSpecs) -> Result<Layer, W::Error> {
        Ok(Layer {
            input_norm: self.vector(&specs.input_norm)?,
            qkv: self.matrices(&specs.qkv)?,
            qkv_bias: specs.qkv_bias.map(|[q, k, v]| Ok::<_, W::Error>([self.vector(&q)?, self.vector(&k)?, self.vector(&v)?])).transpose()?,
            qk_norm: specs.qk_norm.map(|[q, k]| Ok::<_, W::Error>([self.vector(&q)?, self.vector(&k)?])).transpose()?,
            output: self.matrix(&specs.output)?,
            output_bias: specs.output_bias.map(|b| self.vector(&b)).transpose()?,
            post_norm: self.vector(&specs.post_norm)?,
            mlp: match specs.router {
                None => Mlp::Dense(self.experts(&specs.experts)?),
                Some(router) => {
                    let mut routers = vec![self.matrix(&router)?];
                    let experts = self.experts(&specs.experts)?;
                    let shared = specs.shared.map(|s| {
                        routers.push(self.matrix(&s.router)?);
                        self.experts(&[s.expert])
                    });
                    Mlp::Sparse { experts, shared: shared.transpose()?, routers }
                }
            },
        })
    }

    fn experts(&self, specs: &[[TensorSpec; 3]]) -> Result<Experts, W::Error> {
        let mut experts = Experts { gate: Vec::new(), up: Vec::new(), down: Vec::new() };
        for expert in specs {
            let [gate, up, down] = self.matrices(expert)?;
            experts.gate.push(gate);
            experts.up.push(up);
            experts.down.push(down);
        }
        Ok(experts)
    }

    fn matrices(&self, [a, b, c]: &[TensorSpec; 3]) -> Result<[Matrix; 3], W::Error> {
        Ok([self.matrix(a)?, self.matrix(b)?, self.matrix(c)?])
    }

    fn matrix(&self, spec: &TensorSpec) -> Result<Matrix, W::Error> {
        let m = self.0.matrix(spec)?;
        if spec.shape != [m.rows(), m.cols()] {
            return Err(candle_core::Error::Msg(format!("{} is {} x {}, but must be {:?}", spec.name, m.rows(), m.cols(), spec.shape)).into());
        }
        Ok(m)
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, W::Error> {
        let values = self.0.vector(spec)?;
        if spec.shape != [values.len()] {
            return Err(candle_core::Error::Msg(format!("{} has {} values, but must be {:?}", spec.name, values.len(), spec.shape)).into());
        }
        Ok(values)
    }
}
