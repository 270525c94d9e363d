//! What the offline phase leaves for the online phase: labels of masks, slots, rows, keys, and how
//! ciphertexts are packed.
//!
//! It stands on [`crate::share`] and [`crate::model`]. The two phases meet here and nowhere else:
//! [`crate::offline`] makes material, [`crate::online`] spends it, and neither knows the other.

mod deferred;
mod encrypted_model;
mod lattice;
mod masks;
pub mod packing;
mod rows;
mod slot;
mod table_keys;

pub use deferred::Deferred;
pub(crate) use encrypted_model::embed_slots;
pub use encrypted_model::{EmbedLayout, EncryptedModel, ModelLayout, Part};
pub(crate) use lattice::{client_shares, decrypt_all, hide};
pub use lattice::PartyKeys;
pub use masks::{expand_mask, mask_words, MaskLabel};
pub(crate) use masks::{hi_masks, masks, masks_words, HI_MASKS};
pub use rows::{HeadSlot, Row, RowAttention};
pub use slot::{activation_shape, exp_shape, hi_shape, lo_shape, Slot, SlotLayout, SEED_BYTES};
pub(crate) use table_keys::record_alpha;
pub use table_keys::TableKeys;
