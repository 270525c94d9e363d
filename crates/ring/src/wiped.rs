//! Long secret vectors, wiped on drop.

use core::ops::{Deref, DerefMut};

use zeroize::{DefaultIsZeroes, Zeroize};

/// A `Vec` that is wiped on drop. `Zeroizing<Vec<_>>` does the same one element at a time, which
/// takes milliseconds for the megabytes of a slot; slices are wiped at the speed of memory. No
/// Debug, Clone or codec.
#[derive(Default)]
pub struct Wiped<Z: DefaultIsZeroes>(Vec<Z>);

impl<Z: DefaultIsZeroes> Wiped<Z> {
    /// Takes a secret vector over.
    pub fn new(values: Vec<Z>) -> Wiped<Z> {
        Wiped(values)
    }

    /// `n` zeros, to be filled.
    pub fn zeros(n: usize) -> Wiped<Z> {
        Wiped(vec![Z::default(); n])
    }
}

impl<Z: DefaultIsZeroes> Deref for Wiped<Z> {
    type Target = Vec<Z>;
    fn deref(&self) -> &Vec<Z> {
        &self.0
    }
}

impl<Z: DefaultIsZeroes> DerefMut for Wiped<Z> {
    fn deref_mut(&mut self) -> &mut Vec<Z> {
        &mut self.0
    }
}

impl<Z: DefaultIsZeroes> Drop for Wiped<Z> {
    fn drop(&mut self) {
        // What was cut off before lies behind the end.
        self.0.spare_capacity_mut().zeroize();
        self.0.as_mut_slice().zeroize();
    }
}
