//! What the offline phase leaves for the online phase: labels of masks, rows' material, table keys;
//! and the connection's lattice keys.
//!
//! It stands on [`crate::share`] and [`crate::model`]. The two phases meet here and nowhere else:
//! [`crate::offline`] makes material, [`crate::online`] spends it, and neither knows the other.

mod deferred;
mod exponentials;
mod lattice;
mod linears;
mod masks;
mod row_material;
mod rows;
mod table_keys;

pub use deferred::Deferred;
pub use exponentials::{exponential_record_bytes, Exponentials, HeadFactors, Run};
pub use lattice::LatticeKeys;
pub(crate) use lattice::{client_shares, hide, slots, Held};
pub use linears::Linears;
#[cfg(test)]
pub(crate) use masks::{embed_mask, removed};
pub(crate) use masks::{
    embed_masks, hi_masks, masks, masks_words, ScalarLabels, EMBED_COLUMNS, HI_MASKS, NORM_LABELS,
    SIGMA_LABELS,
};
pub use masks::{expand_mask, mask_words, MaskLabel};
pub use row_material::{
    activation_shape, hi_shape, lo_shape, net_shape, RowLayout, RowMaterial, ScalarPlaces, FACTOR, PRODUCT,
    SEED_BYTES,
};
pub use rows::{LogitsMaterial, Row, RowAttention};
pub use table_keys::TableKeys;
pub(crate) use table_keys::{record_alpha, record_share};
