//! Additively shared values: `x = x_client + x_server mod p`.
//!
//! A [`Share`] can be computed on but not sent. What leaves a party is a [`Masked`] share (`share − mask`, the mask
//! uniform and used once, so the bytes say nothing) or, for an output, a [`Revealed`] share addressed to the party
//! that may learn the value.
//!
//! Adding the client's share to the server's does not compile:
//! ```compile_fail,E0308
//! use cryptogen_mpc::{Client, Server, Share};
//! fn sum(a: Share<Client>, b: Share<Server>) -> Share<Client> { a.add(&b).unwrap() }
//! ```
//! A mask cannot be kept for a second use, neither by cloning nor by moving it twice:
//! ```compile_fail,E0599
//! use cryptogen_mpc::{Client, Mask};
//! fn twice(m: Mask<Client>) -> (Mask<Client>, Mask<Client>) { (m.clone(), m) }
//! ```
//! ```compile_fail,E0382
//! use cryptogen_mpc::{Client, Mask, Share};
//! fn twice(x: Share<Client>, y: Share<Client>, m: Mask<Client>) { x.mask(m).unwrap(); y.mask(m).unwrap(); }
//! ```
//! A share that is not masked cannot be opened or serialised:
//! ```compile_fail,E0599
//! use cryptogen_mpc::{Client, Share};
//! fn leak(x: Share<Client>) -> Vec<u8> { x.into_bytes() }
//! ```
//! ```compile_fail,E0599
//! use cryptogen_mpc::{Client, Masked, Server, Share};
//! fn leak(x: Share<Client>, y: Masked<Server>) { x.open(y).unwrap(); }
//! ```
//! ```compile_fail,E0277
//! use cryptogen_mpc::{Client, Share};
//! fn leak(x: Share<Client>) { println!("{x:?}"); }
//! ```

use std::marker::PhantomData;

use cryptogen_ring::{fp_from_bytes, fp_to_bytes, Fp};
use thiserror::Error;
use zeroize::Zeroize;

use crate::party::{Party, Server};

/// Why shares do not fit together or bytes are not a share.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ShareError {
    /// Two operands have different shapes.
    #[error("shape {got:?} where {expected:?} is needed")]
    Shape {
        /// Shape of the left operand.
        expected: Vec<usize>,
        /// Shape of the right operand.
        got: Vec<usize>,
    },
    /// The number of values (or bytes) is not that of the shape.
    #[error("{got} {unit} for a shape that needs {expected}")]
    Count {
        /// `"values"` or `"bytes"`.
        unit: &'static str,
        /// What the shape needs.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// A peer sent a number that is not below `p`.
    #[error("a received field element is not reduced mod p")]
    NotReduced,
}

/// A vector of field elements with a shape: the common body of the types below. Wiped on drop.
struct Tensor {
    values: Vec<Fp>,
    shape: Vec<usize>,
}

impl Tensor {
    fn new(values: Vec<Fp>, shape: &[usize]) -> Result<Tensor, ShareError> {
        // Built first, so that the values are wiped on the error path as well.
        let tensor = Tensor { values, shape: shape.to_vec() };
        let (expected, got) = (size(shape), tensor.values.len());
        if expected != got {
            return Err(ShareError::Count { unit: "values", expected, got });
        }
        Ok(tensor)
    }

    fn from_bytes(bytes: &[u8], shape: &[usize]) -> Result<Tensor, ShareError> {
        let expected = size(shape).saturating_mul(8);
        if bytes.len() != expected {
            return Err(ShareError::Count { unit: "bytes", expected, got: bytes.len() });
        }
        Tensor::new(fp_from_bytes(bytes).ok_or(ShareError::NotReduced)?, shape)
    }

    fn zip(mut self, other: &Tensor, op: impl Fn(Fp, Fp) -> Fp) -> Result<Tensor, ShareError> {
        if self.shape != other.shape {
            return Err(ShareError::Shape { expected: self.shape.clone(), got: other.shape.clone() });
        }
        for (a, b) in self.values.iter_mut().zip(&other.values) {
            *a = op(*a, *b);
        }
        Ok(self)
    }

    fn take_values(mut self) -> Vec<Fp> {
        std::mem::take(&mut self.values)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.values.zeroize();
    }
}

/// Number of elements of a shape; saturates, so an absurd shape just fits no vector.
fn size(shape: &[usize]) -> usize {
    shape.iter().fold(1usize, |n, &d| n.saturating_mul(d))
}

/// Party `P`'s additive share of a tensor. No Clone, Debug or codec; wiped on drop.
pub struct Share<P: Party> {
    tensor: Tensor,
    party: PhantomData<P>,
}

impl<P: Party> Share<P> {
    /// Takes ownership of `values` (row-major, `shape`). Protocol code only.
    ///
    /// # Errors
    /// [`ShareError::Count`] if the number of values is not that of the shape.
    pub fn new(values: Vec<Fp>, shape: &[usize]) -> Result<Self, ShareError> {
        Ok(Tensor::new(values, shape)?.into())
    }

    /// The share's values, row-major. Protocol code only: nothing computed from them may be sent unmasked.
    pub fn values(&self) -> &[Fp] {
        &self.tensor.values
    }

    /// Gives up the values, which the caller then has to wipe. Protocol code only.
    pub fn into_values(self) -> Vec<Fp> {
        self.tensor.take_values()
    }

    /// The (public) shape.
    pub fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    /// `self + other`, both of the same party. Local.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ.
    // Not `std::ops::Add`: shapes can differ, which has to be an error and not a panic.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, other: &Share<P>) -> Result<Self, ShareError> {
        Ok(self.tensor.zip(&other.tensor, |a, b| a + b)?.into())
    }

    /// `self − other`, both of the same party. Local.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ.
    #[allow(clippy::should_implement_trait)]
    pub fn sub(self, other: &Share<P>) -> Result<Self, ShareError> {
        Ok(self.tensor.zip(&other.tensor, |a, b| a - b)?.into())
    }

    /// `self − fresh`, which may be sent: `fresh` is uniform and is spent here.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ; the mask is spent all the same.
    pub fn mask(self, fresh: Mask<P>) -> Result<Masked<P>, ShareError> {
        Ok(Masked { tensor: self.tensor.zip(&fresh.tensor, |a, b| a - b)?, party: PhantomData })
    }

    /// Gives this share of an *output* to the peer, who then learns the value. The one declassification there is.
    pub fn reveal_to(self, _to: P::Peer) -> Revealed<P> {
        Revealed { tensor: self.tensor, party: PhantomData }
    }

    /// Completes an output that the peer revealed to us: the value in the clear.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ.
    pub fn combine(self, theirs: Revealed<P::Peer>) -> Result<Vec<Fp>, ShareError> {
        Ok(self.tensor.zip(&theirs.tensor, |a, b| a + b)?.take_values())
    }
}

impl Share<Server> {
    /// Adds a public tensor. By convention the server does it, the client's share stays as it is.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ.
    pub fn add_public(self, public: &Public) -> Result<Self, ShareError> {
        Ok(self.tensor.zip(&public.tensor, |a, b| a + b)?.into())
    }
}

impl<P: Party> From<Tensor> for Share<P> {
    fn from(tensor: Tensor) -> Self {
        Share { tensor, party: PhantomData }
    }
}

/// A uniform mask of party `P`. Moves into the one [`Share::mask`] that uses it; no Clone, Copy, Debug or codec.
pub struct Mask<P: Party> {
    tensor: Tensor,
    party: PhantomData<P>,
}

impl<P: Party> Mask<P> {
    /// Takes ownership of values that are uniform in `F_p` and used nowhere else. Protocol code only: the caller
    /// got them from a record that was taken from the store, or fresh from a generator.
    ///
    /// # Errors
    /// [`ShareError::Count`] if the number of values is not that of the shape.
    pub fn from_material(values: Vec<Fp>, shape: &[usize]) -> Result<Self, ShareError> {
        Ok(Mask { tensor: Tensor::new(values, shape)?, party: PhantomData })
    }

    /// The (public) shape.
    pub fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
}

/// `share − mask` of party `P`: uniform in the eyes of the peer, so it may travel.
pub struct Masked<P: Party> {
    tensor: Tensor,
    party: PhantomData<P>,
}

impl<P: Party> Masked<P> {
    /// For the wire: 8 bytes little-endian per element, row-major.
    pub fn into_bytes(self) -> Vec<u8> {
        fp_to_bytes(&self.tensor.values)
    }

    /// What the peer sent.
    ///
    /// # Errors
    /// [`ShareError::Count`] for another number of bytes, [`ShareError::NotReduced`] for an element `≥ p`.
    pub fn from_bytes(bytes: &[u8], shape: &[usize]) -> Result<Self, ShareError> {
        Ok(Masked { tensor: Tensor::from_bytes(bytes, shape)?, party: PhantomData })
    }

    /// `x − r_client − r_server` from both masked shares.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ.
    pub fn open(self, theirs: Masked<P::Peer>) -> Result<Public, ShareError> {
        Ok(Public { tensor: self.tensor.zip(&theirs.tensor, |a, b| a + b)? })
    }

    /// `x − r` from our own bare share and the peer's masked one: known to us only, one-time padded by the
    /// peer's mask `r`.
    ///
    /// # Errors
    /// [`ShareError::Shape`] if the shapes differ.
    pub fn open_with(self, mine: Share<P::Peer>) -> Result<Public, ShareError> {
        Ok(Public { tensor: self.tensor.zip(&mine.tensor, |a, b| a + b)? })
    }
}

/// A value the holder may know: a constant, or a secret minus a mask.
pub struct Public {
    tensor: Tensor,
}

impl Public {
    /// A public tensor, row-major.
    ///
    /// # Errors
    /// [`ShareError::Count`] if the number of values is not that of the shape.
    pub fn new(values: Vec<Fp>, shape: &[usize]) -> Result<Public, ShareError> {
        Ok(Public { tensor: Tensor::new(values, shape)? })
    }

    /// The values, row-major.
    pub fn values(&self) -> &[Fp] {
        &self.tensor.values
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
}

/// A share of an output on its way from `P` to the other party, who may learn the value.
pub struct Revealed<P: Party> {
    tensor: Tensor,
    party: PhantomData<P>,
}

impl<P: Party> Revealed<P> {
    /// For the wire: 8 bytes little-endian per element, row-major.
    pub fn into_bytes(self) -> Vec<u8> {
        fp_to_bytes(&self.tensor.values)
    }

    /// What the peer sent.
    ///
    /// # Errors
    /// [`ShareError::Count`] for another number of bytes, [`ShareError::NotReduced`] for an element `≥ p`.
    pub fn from_bytes(bytes: &[u8], shape: &[usize]) -> Result<Self, ShareError> {
        Ok(Revealed { tensor: Tensor::from_bytes(bytes, shape)?, party: PhantomData })
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
