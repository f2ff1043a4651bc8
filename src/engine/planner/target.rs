//! Engines that a plan can be written for: the formats that each holds, and what has to share one.
use ram_kernels::{Format, Scheme};
use ram_models::{Kind, TensorSpec};
use std::fmt;

/// Whose files a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// mlx-lm's, mode affine: 2 to 6 and 8 bits, groups of 32, 64 and 128, of every module its own; the experts of a layer are one module for
    /// each projection.
    Mlx,
    /// compressed-tensors as vLLM and SGLang serve it (`pack-quantized`): symmetric, 4 and 8 bits, groups of 32, 64 and 128. What they fuse has
    /// one format: all of a layer's experts, queries with keys and values, gates with ups. Embedding, head and routers stay dense.
    Vllm {
        /// Processors that share every matrix: groups must not straddle them.
        ranks: usize,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Target::Mlx => "mlx",
            Target::Vllm { .. } => "vllm",
        })
    }
}

/// Matrices that share a format: those of a layer with the same number.
pub type Shared = (usize, usize);

impl Target {
    /// The formats that a dense matrix may get, `own` being what keeps it as it is; that one is the last.
    pub fn menu(self, spec: &TensorSpec, own: Format) -> Vec<Format> {
        let groups = || [32u16, 64, 128].into_iter().filter(|group| self.divides(spec, usize::from(*group)));
        let coded: Vec<Format> = match self {
            _ if spec.kind.steers() => Vec::new(),
            Target::Mlx => {
                let affine = if own == Format::F16 { Format::affine } else { Format::affine_bf16 };
                [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| groups().filter_map(move |group| affine(bits, group))).collect()
            }
            Target::Vllm { .. } if matches!(spec.kind, Kind::Embedding | Kind::Head) => Vec::new(),
            Target::Vllm { .. } => [4, 8].into_iter().flat_map(|bits| groups().filter_map(move |group| Format::symmetric(bits, group))).collect(),
        };
        coded.into_iter().chain([own]).collect()
    }

    /// Whether groups of inputs end where a matrix, or what a processor has of it, does.
    fn divides(self, spec: &TensorSpec, group: usize) -> bool {
        let ranks = match self {
            // What results are made of is shared by inputs, everything else by outputs.
            Target::Vllm { ranks } if matches!(spec.kind, Kind::Output | Kind::Down | Kind::SharedDown) => ranks,
            Target::Mlx | Target::Vllm { .. } => 1,
        };
        spec.shape[1].is_multiple_of(ranks) && (spec.shape[1] / ranks).is_multiple_of(group)
    }

    /// What a matrix shares its format with, if with anything.
    pub fn shared(self, spec: &TensorSpec) -> Option<Shared> {
        let number = match (self, spec.kind) {
            (Target::Mlx, _) => spec.expert.map(|_| spec.kind as usize)?,
            (Target::Vllm { .. }, _) if spec.expert.is_some() => 0,
            (Target::Vllm { .. }, Kind::Query | Kind::Key | Kind::Value) => 1,
            (Target::Vllm { .. }, Kind::Gate | Kind::Up) => 2,
            (Target::Vllm { .. }, Kind::SharedGate | Kind::SharedUp) => 3,
            (Target::Vllm { .. }, _) => return None,
        };
        Some((spec.layer?, number))
    }

    /// Whether the target holds a format at all, dense numbers apart; of codes that a checkpoint has already those that stay what they are.
    pub fn holds(self, format: Format) -> bool {
        let affine = matches!(format.scheme(), Scheme::Affine | Scheme::AffineBf16);
        match self {
            // Groups of any multiple of 32 are several with the same scale.
            Target::Mlx => affine || matches!(format.scheme(), Scheme::Gptq | Scheme::Symmetric),
            Target::Vllm { .. } => format.scheme() == Scheme::Symmetric,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: Kind, cols: usize, expert: Option<usize>) -> TensorSpec {
        TensorSpec { name: String::new(), shape: vec![64, cols], kind, layer: Some(3), expert }
    }

    #[test]
    fn groups_end_where_processors_do() {
        // 1,408 inputs of Qwen1.5-MoE's experts: 704, 352 and 176 each.
        let groups = |ranks, kind| {
            let menu = Target::Vllm { ranks }.menu(&spec(kind, 1408, Some(0)), Format::BF16);
            menu.iter().filter(|f| f.bits() == 4).map(|f| f.group()).collect::<Vec<_>>()
        };
        assert_eq!(groups(1, Kind::Down), [32, 64, 128]);
        assert_eq!(groups(2, Kind::Down), [32, 64]);
        assert_eq!(groups(4, Kind::Down), [32]);
        assert!(groups(8, Kind::Down).is_empty());
        assert_eq!(groups(8, Kind::Up), [32, 64, 128]);
    }

    #[test]
    fn what_an_engine_fuses_shares_a_format() {
        let vllm = Target::Vllm { ranks: 1 };
        let of = |target: Target, kind, expert| target.shared(&spec(kind, 64, expert));
        assert_eq!(of(vllm, Kind::Gate, Some(0)), of(vllm, Kind::Down, Some(7)));
        assert_eq!(of(vllm, Kind::Query, None), of(vllm, Kind::Value, None));
        assert_ne!(of(vllm, Kind::Gate, None), of(vllm, Kind::Down, None));
        assert_eq!(of(vllm, Kind::Output, None), None);
        assert_eq!(of(Target::Mlx, Kind::Gate, Some(0)), of(Target::Mlx, Kind::Gate, Some(7)));
        assert_ne!(of(Target::Mlx, Kind::Gate, Some(0)), of(Target::Mlx, Kind::Down, Some(0)));
        assert_eq!(of(Target::Mlx, Kind::Query, None), None);
    }

    #[test]
    fn what_steers_stays_dense() {
        for target in [Target::Mlx, Target::Vllm { ranks: 1 }] {
            assert_eq!(target.menu(&spec(Kind::Router, 64, None), Format::BF16), [Format::BF16]);
        }
        assert_eq!(Target::Vllm { ranks: 1 }.menu(&spec(Kind::Head, 64, None), Format::F16), [Format::F16]);
        assert!(Target::Mlx.menu(&spec(Kind::Head, 64, None), Format::F16).len() > 6);
    }
}
