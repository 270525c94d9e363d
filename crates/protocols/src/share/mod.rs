//! One party's numbers: tensors of shares, what is done with them without a message, the messages
//! they go into, what those cost.
//!
//! It stands on [`crate::model`] alone. Where the shares' masks come from is not known here.

mod cost;
pub mod local;
pub mod qkv;
mod tensor;
mod trace;
mod wire;

use cryptogen_ring::Word;
use zeroize::Zeroizing;

pub use cost::Cost;
pub use tensor::{Kind, Tensor};
pub use trace::Trace;
pub use wire::{Opened, Opening};

/// A party's share of a number of range events (A7), modulo `2^64`. Wiped on drop; no Debug or
/// codec.
pub(crate) type Events = Zeroizing<Word>;
