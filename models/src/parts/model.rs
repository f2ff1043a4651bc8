//! A whole model: embedding, layers, norm, head.
use super::{At, List, Supply, mlp::Mlp, stream_norm};
use crate::{
    KvElement,
    backend::{Logits, Mixer, Needs, Norm, Pass, Tensors},
    description::{self, ByHead, Description, Fused, FusedMatrices, Stacked},
    forward_error::ForwardError,
    rope::Scaling,
    tensors::{Kind, TensorSpec},
};

/// Its tensors.
#[derive(Debug)]
pub struct Model<T: Tensors> {
    pub embedding: T::Matrix,
    layers: Vec<Layer<T>>,
    pub norm: Norm<T::Vector>,
    embedding_multiplier: f32,
    /// None where the embedding is the head.
    head: Option<T::Matrix>,
    /// What is made of its products.
    pub logits: Logits<T::Vector>,
}

#[derive(Debug)]
struct Layer<T: Tensors> {
    mixer: Mixer<T::Matrix, T::Vector>,
    mlp: Mlp<T>,
    /// What all of the stream is multiplied with behind it.
    scalar: Option<T::Vector>,
}

/// What MLX keeps of a matrix.
const MLX: &[(&str, &str)] = &[(".weight", ".weight"), (".scales", ".scales"), (".biases", ".biases")];

impl Description {
    /// Every tensor of the checkpoint, in order of computation.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = List::default();
        let Ok(_) = Model::build(self, &mut list);
        list.0
    }

    /// The module, of all experts of a layer, in which MLX keeps a tensor of one.
    pub fn stacked(&self, spec: &TensorSpec) -> Option<String> {
        let name = match spec.kind {
            Kind::Gate => "gate_proj",
            Kind::Up => "up_proj",
            Kind::Down => "down_proj",
            _ => return None,
        };
        let (layer, _) = spec.layer.zip(spec.expert)?;
        let module = self.mixture(layer)?.expert.names.module;
        let within = module.strip_suffix(".experts").map_or(format!("{module}.switch_glu"), |mlp| format!("{mlp}.switch_mlp"));
        Some(format!("{}.{}.{layer}.{within}.{name}", self.names.model, self.names.layers))
    }

    /// The tensors of all experts of a layer in which one of an expert may lie: as MLX has them, and as the family's files do.
    pub fn stacks(&self, spec: &TensorSpec) -> Vec<Stacked> {
        let Some((module, layer)) = self.stacked(spec).zip(spec.layer) else { return Vec::new() };
        let mut all = vec![Stacked { name: module, part: [0, 1], turns: false, ends: MLX, turned: None, flat: false }];
        if let Some(Fused { matrices, ends, turned }) = self.mixture(layer).and_then(|m| m.fused) {
            let at = |name: &str| format!("{}.{}.{layer}.{name}", self.names.model, self.names.layers);
            all.push(match (matrices, spec.kind) {
                (FusedMatrices::Two { gate_up, turns, .. }, Kind::Gate) => {
                    Stacked { name: at(gate_up), part: [0, 2], turns, ends, turned, flat: false }
                }
                (FusedMatrices::Two { gate_up, turns, .. }, Kind::Up) => {
                    Stacked { name: at(gate_up), part: [1, 2], turns, ends, turned, flat: false }
                }
                (FusedMatrices::Two { down, turns, .. }, _) => Stacked { name: at(down), part: [0, 1], turns, ends, turned, flat: false },
                (FusedMatrices::Flat([gate, up, down]), kind) => {
                    let (name, turned) = match kind {
                        Kind::Gate => (gate, None),
                        Kind::Up => (up, None),
                        _ => (down, turned),
                    };
                    let ends = if turned.is_some() { &[] } else { ends };
                    Stacked { name: at(name), part: [0, 1], turns: false, ends, turned, flat: true }
                }
            });
        }
        all
    }

    /// Where a matrix lies that files have with another as one, head by head.
    pub fn by_head(&self, spec: &TensorSpec) -> Option<ByHead> {
        match &self.layers.get(spec.layer?)?.mixer {
            description::Mixer::Latent(latent) => latent.by_head(spec),
            description::Mixer::Attention(attention) => attention.by_head(spec),
            description::Mixer::DeltaNet(_) => None,
        }
    }

    /// The part of its tokens that a tensor is multiplied with: below 1 for those of routed experts.
    pub fn active(&self, spec: &TensorSpec) -> f64 {
        let mixture = spec.expert.and(spec.layer).and_then(|layer| self.mixture(layer));
        mixture.map_or(1.0, |m| m.router.num_experts_per_tok as f64 / m.num_experts as f64)
    }

    /// Bytes of what a sequence of `capacity` tokens leaves, keys and values or states; `usize::MAX` where they are more than that counts.
    pub fn state_bytes(&self, capacity: usize, element: KvElement) -> usize {
        self.layers.iter().map(|l| l.mixer.state_bytes(capacity, element)).fold(0, usize::saturating_add)
    }

    /// Of those, the bytes that do not grow with the sequence once it is long.
    pub fn bounded_state_bytes(&self, capacity: usize, element: KvElement) -> usize {
        let bounded = self.layers.iter().map(|l| &l.mixer).filter(|mixer| mixer.is_bounded());
        bounded.map(|mixer| mixer.state_bytes(capacity, element)).fold(0, usize::saturating_add)
    }

    /// The same where layers hold all tokens whatever is looked at.
    pub(crate) fn with_all_held(&self) -> Description {
        let mut all = self.clone();
        all.layers.iter_mut().filter_map(|l| l.mixer.attention_mut()).for_each(|a| (a.window, a.chunk) = (None, None));
        all
    }

    /// The same for texts of up to so many tokens, where positions turn those of longer ones otherwise.
    pub fn reaching(&self, tokens: usize) -> Description {
        let mut own = self.clone();
        own.layers.iter_mut().filter_map(|l| l.mixer.attention_mut()).for_each(|a| a.rope.reach(tokens));
        own
    }

    /// Whether positions are turned as those of longer texts are.
    pub fn reaches_longer(&self) -> bool {
        self.layers.iter().filter_map(|l| l.mixer.rope()).any(|rope| matches!(rope.scaling, Scaling::Long { longer: true, .. }))
    }

    pub(crate) fn needs(&self) -> Needs {
        let of = |l: &description::Layer| l.mixer.needs(self.hidden_size).most(l.mlp.needs(self.hidden_size));
        self.layers
            .iter()
            .map(of)
            .fold(Needs { inputs: self.hidden_size, results: usize::from(self.names.after.is_some()), ..Needs::default() }, Needs::most)
    }
}

impl<T: Tensors> Model<T> {
    /// Asks `from` for every tensor, each once.
    pub fn build<S: Supply<Tensors = T>>(d: &Description, from: &mut S) -> Result<Model<T>, S::Error> {
        let named = |name: String, shape, kind| TensorSpec { name, shape, kind, layer: None, expert: None };
        let spec = |name: &str, shape: Vec<usize>, kind| named(format!("{name}.weight"), shape, kind);
        let table = vec![d.vocab_size, d.hidden_size];
        let embedding = from.matrix(spec(&format!("{}.{}", d.names.model, d.names.embedding), table.clone(), Kind::Embedding))?;
        let layer = |(layer, l): (usize, &description::Layer)| {
            let at = At { names: d.names, layer, hidden_size: d.hidden_size, eps: d.rms_norm_eps, norm: d.norm };
            let (mixer, mlp) = (l.mixer.build(at, from)?, Mlp::build(&l.mlp, at, from)?);
            let scalar = d.layer_scalar.map(|name| from.vector(at.spec(name, vec![1], Kind::Bias))).transpose()?;
            Ok(Layer { mixer, mlp, scalar })
        };
        let layers = d.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?;
        let of_norm = |end: &str, kind| named(format!("{}.{}.{end}", d.names.model, d.names.norm), vec![d.hidden_size], kind);
        let norm = Norm { times: 1.0 / d.logits_scaling as f32, ..stream_norm(d.norm, d.rms_norm_eps, of_norm, from)? };
        let head = if d.tie_word_embeddings { None } else { Some(from.matrix(spec(d.names.head, table, Kind::Head))?) };
        let bias = named(format!("{}.bias", d.names.head), vec![d.vocab_size], Kind::Bias);
        let bias = if d.head_bias { Some(from.vector(bias)?) } else { None };
        Ok(Model {
            embedding,
            layers,
            norm,
            embedding_multiplier: d.embedding_multiplier as f32,
            head,
            logits: Logits { bias, cap: d.logits_cap.map(|cap| cap as f32) },
        })
    }

    /// Hidden state to logits.
    pub fn head(&self) -> &T::Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The residual stream after all layers, of tokens that join those in `states`: of each sequence, those of the layers. Before each
    /// layer it is asked whether to go on.
    pub fn stream<P: Pass<Tensors = T>>(
        &self,
        pass: &mut P,
        tokens: &[u32],
        states: &mut [&mut [P::State]],
        cancelled: impl Fn() -> bool,
    ) -> Result<(), ForwardError> {
        pass.embed(&self.embedding, tokens, self.embedding_multiplier).map_err(|fault| fault.within(None))?;
        for (l, layer) in self.layers.iter().enumerate() {
            if cancelled() {
                return Err(ForwardError::Cancelled);
            }
            let mut states: Vec<&mut P::State> = states.iter_mut().map(|own| &mut own[l]).collect();
            let done = pass.mix(&layer.mixer, &mut states).and_then(|()| layer.mlp.forward(pass));
            let done = done.and_then(|()| layer.scalar.as_ref().map_or(Ok(()), |scalar| pass.scale(scalar)));
            done.map_err(|fault| fault.within(Some(l)))?;
        }
        Ok(())
    }
}
