//! What `Linear` made for some rows, on its way into their records.

use std::path::Path;

use super::deferred::Deferred;
use super::row_material::RowLayout;
use crate::error::{ProtocolError, Result};

/// Records of `linears` that the store has released. Each of their pieces is read when the step
/// comes that needs it, and leaves once. Neither printable nor copyable.
pub struct Linears {
    records: Vec<Vec<Deferred>>,
}

impl Linears {
    /// Takes ownership of records in pieces of the lengths [`RowLayout::linears_pieces`].
    ///
    /// # Errors
    /// `Bug` if there are no whole records.
    pub fn from_pieces(layout: &RowLayout, pieces: Vec<Deferred>) -> Result<Linears> {
        let (each, n) = (layout.linears_pieces().len(), pieces.len());
        if n % each != 0 {
            return Err(ProtocolError::bug(
                "pieces of records of linears",
                format!("a multiple of {each}"),
                n,
            ));
        }
        let mut pieces = pieces.into_iter();
        let records = (0..n / each).map(|_| pieces.by_ref().take(each).collect()).collect();
        Ok(Linears { records })
    }

    /// Calls `f` with a piece of every record, in order, and the file that it is from.
    ///
    /// # Errors
    /// Those of the store and of `f`; `Spent` for a second use.
    pub(crate) fn take(
        &mut self,
        piece: usize,
        mut f: impl FnMut(usize, &[u8], &Path) -> Result<()>,
    ) -> Result<()> {
        self.records.iter_mut().enumerate().try_for_each(|(i, record)| {
            let (bytes, file) = record[piece].take("record of linears")?;
            f(i, &bytes, &file)
        })
    }
}
