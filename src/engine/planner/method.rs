//! What a plan is chosen by.
use super::target::Target;
use ram_kernels::Format;
use std::fmt;

/// How formats are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Trellis formats; least expected KL divergence, sum of [`Entry::loss`](super::Entry::loss).
    Kl,
    /// The published RAM method: affine formats, un-squared errors, fixed priors, one item per layer and projection.
    Ram,
    /// The same with every expert's tensor an item of its own.
    RamExperts,
    /// One format for all matrices but routers, which stay as they are.
    Uniform(Format),
    /// The formats that another engine has; least expected KL divergence.
    For(Target),
    /// Everything as the checkpoint has it.
    Dense,
}

impl Method {
    /// Whether a survey makes a difference: RAM's method stays as it was published, and what is dense has no error to make less.
    pub fn asks_survey(self) -> bool {
        matches!(self, Method::Kl | Method::Uniform(_) | Method::For(_))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Method::Kl => f.write_str("kl"),
            Method::Ram => f.write_str("ram"),
            Method::RamExperts => f.write_str("ram-experts"),
            Method::Uniform(format) => write!(f, "uniform {format}"),
            Method::For(target) => write!(f, "kl for {target}"),
            Method::Dense => f.write_str("dense"),
        }
    }
}
