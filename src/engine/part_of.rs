//! Parts of a checkpoint, for as many machines: tensors that follow each other in its files, so that each part reads few of them.
use crate::Checkpoint;
use ram_models::TensorSpec;
use std::{collections::HashSet, fmt, str::FromStr};

/// One of several parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartOf {
    number: usize,
    of: usize,
}

impl PartOf {
    /// Everything.
    pub const WHOLE: PartOf = PartOf { number: 1, of: 1 };

    /// Number `number` of `of`, from 1 on, if there is such a part.
    pub fn new(number: usize, of: usize) -> Option<PartOf> {
        (1..=of).contains(&number).then_some(PartOf { number, of })
    }

    /// Which one it is, from 1 on.
    pub fn number(self) -> usize {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// The names of its tensors. Each tensor is in one part, and all parts have about as much `work`.
    pub fn tensors<'a>(self, checkpoint: &'a Checkpoint, work: &dyn Fn(&TensorSpec) -> u64) -> HashSet<&'a str> {
        let mut order: Vec<&TensorSpec> = checkpoint.specs().iter().collect();
        order.sort_by_cached_key(|spec| checkpoint.place(&spec.name));
        let total = order.iter().map(|spec| u128::from(work(spec))).sum::<u128>().max(1);
        let mut before = 0;
        let own = order.into_iter().filter(|spec| {
            // By where the middle of its work lies.
            let part = (2 * before + u128::from(work(spec))) * self.of as u128 / (2 * total);
            before += u128::from(work(spec));
            part.min(self.of as u128 - 1) == self.number as u128 - 1
        });
        own.map(|spec| spec.name.as_str()).collect()
    }
}

impl FromStr for PartOf {
    type Err = String;
    fn from_str(s: &str) -> Result<PartOf, String> {
        let numbers = s.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        numbers.and_then(|(number, of)| PartOf::new(number, of)).ok_or_else(|| "write it as I/N, 1/4 to 4/4 for four parts".into())
    }
}

impl fmt::Display for PartOf {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_as_fractions() {
        assert_eq!("2/4".parse(), Ok(PartOf { number: 2, of: 4 }));
        for wrong in ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1/99999999999999999999999"] {
            assert!(wrong.parse::<PartOf>().is_err(), "{wrong}");
        }
    }
}
