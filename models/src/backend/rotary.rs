//! Rotary positions, ready to be used: every kind that a model has, once.
use crate::{description::Description, rope::Rope};

/// The frequencies of one kind of rotary positions.
#[derive(Debug)]
pub struct Rotary {
    rope: Rope,
    frequencies: Vec<f32>,
    longer: f32,
}

impl Rotary {
    /// One for every kind that a model has.
    pub fn of(description: &Description) -> Vec<Rotary> {
        let mut all: Vec<Rotary> = Vec::new();
        for rope in description.layers.iter().filter_map(|l| l.mixer.rope()) {
            if !all.iter().any(|r| r.is(rope)) {
                let (frequencies, longer) = rope.frequencies();
                all.push(Rotary { rope: rope.clone(), frequencies, longer });
            }
        }
        all
    }

    /// Whether it is of these.
    pub fn is(&self, rope: &Rope) -> bool {
        self.rope == *rope
    }

    /// Numbers of a head that are turned.
    pub fn dim(&self) -> usize {
        self.rope.dim
    }

    /// Cosines, then sines, of a position's angles.
    pub fn angles(&self, position: usize, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.frequencies.len());
        for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            let angle = f64::from(position as f32 * f);
            (*cos, *sin) = (angle.cos() as f32 * self.longer, angle.sin() as f32 * self.longer);
        }
    }
}
