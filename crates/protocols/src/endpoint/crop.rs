//! Dropping the last rows of a session: drafted tokens that were not accepted.
//!
//! Functionality: of `L` rows the first `n` stay, as if the others had never been computed.
//! Source: `docs/protocols/preprocessed.md` §4.7; verification of drafted tokens, Leviathan et al.
//! 2023. Rows of `preprocessed` are immutable, so forgetting the last ones is exact.
//! Inputs: both `n`, the same between two passes (the session protocol names it), and their state
//! of the session.
//! Cost: no message.
//! Material: spends none. That of dropped rows has been spent and is gone with them; a row that
//! later stands at the same position takes fresh material: no mask and no table ever serves a
//! second row.
//! Leaks: `n`, to the server.
//!
//! 1. Rows `n…` leave the cache of every layer: both parties' shares and what was opened of them.
//! 2. The peer's encrypted masks of these rows leave the encrypted cache.
//! 3. Rows that have a position but no token are dropped too: their material holds products with
//!    the rows of 1.
//!
//! Range events of dropped rows that were not sampled still go to the next row that is (A7).

use super::Endpoint;
use crate::error::Result;
use crate::online::products::Side;

impl<P: Side> Endpoint<P> {
    /// Keeps the first `rows` rows of the session. If that is all of them, nothing changes.
    ///
    /// # Errors
    /// `Caller`, and nothing is dropped: more rows than there are, a pass in progress, a protocol
    /// whose cache cannot forget rows.
    pub fn crop(&mut self, rows: usize) -> Result<()> {
        if self.online.crop(rows)? {
            self.cache.crop(rows);
        }
        Ok(())
    }
}
