//! Slots as a cyclic dimension times lanes, so that one rotation moves every lane's vector by the
//! same amount.

use super::ROW;
use crate::error::HeError;

/// `n` positions times `8192/n` lanes; `n` a power of two up to 4096. A lane's vector lies
/// interleaved with the others': position `i` of lane `λ` is slot `i·h + λ mod h` of row `λ div h`,
/// with `h = 4096/n` lanes in a row.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lanes {
    n: usize,
}

impl Lanes {
    /// Lanes of length `n`. Errors: not a power of two up to 4096.
    pub fn new(n: usize) -> Result<Lanes, HeError> {
        if !n.is_power_of_two() || n > ROW {
            return Err(HeError::Lanes { expected: ROW, actual: n });
        }
        Ok(Lanes { n })
    }

    /// Length of a lane.
    pub const fn n(self) -> usize {
        self.n
    }

    /// Number of lanes.
    pub const fn count(self) -> usize {
        2 * ROW / self.n
    }

    /// The slot of position `i` of a lane.
    pub const fn slot(self, i: usize, lane: usize) -> usize {
        let half = ROW / self.n;
        lane / half * ROW + i * half + lane % half
    }

    /// The rotation after which position `i` of every lane holds what position `i + d mod n` held.
    pub const fn step(self, d: usize) -> usize {
        d % self.n * (ROW / self.n)
    }
}
