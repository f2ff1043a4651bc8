//! Rotary positions, ready to be used: every kind that a model has, once.
use crate::{
    description::{Attention, Description},
    rope::Rope,
};

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
        for shape in description.layers.iter().filter_map(|l| l.mixer.attention()) {
            if !all.iter().any(|r| r.is(shape)) {
                let (frequencies, longer) = shape.rope.frequencies();
                all.push(Rotary { rope: shape.rope.clone(), frequencies, longer });
            }
        }
        all
    }

    /// Whether it is that of a layer's attention.
    pub fn is(&self, shape: &Attention) -> bool {
        self.rope == shape.rope
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
