//! Dropping the last rows of a session: drafted tokens that were not accepted.
//!
//! Functionality: of `L` rows the first `n` stay, as if the others had never been computed.
//! Source: `docs/protocols/preprocessed.md` §4.7; verification of drafted tokens, Leviathan et al.
//! 2023. Rows of `preprocessed` are immutable, so forgetting the last ones is exact.
//! Inputs: both `n`, the same between two passes (the session protocol names it), and their state
//! of the session.
//! Cost: no message.
//! Material: spends none. That of dropped rows has been spent and is gone with them; a row that
//! later stands at the same position takes a fresh slot: no mask and no table ever serves a second
//! row.
//! Leaks: `n`, to the server.
//!
//! 1. Rows `n…` leave the cache of every layer: both parties' shares and what was opened of them.
//! 2. The peer's encrypted masks of these rows leave the encrypted cache.
//! 3. Rows that have a position but no token are dropped too: their material holds products with
//!    the rows of 1.
//!
//! Range events of dropped rows that were not sampled still go to the next row that is (A7).

use cryptogen_party::Party;
use zeroize::Zeroize;

use super::Endpoint;
use crate::error::{ProtocolError, Result};
use crate::online::{LayerCache, Online};

impl<P: Party> Endpoint<P> {
    /// Keeps the first `rows` rows of the session. If that is all of them, nothing changes.
    ///
    /// # Errors
    /// `Caller`, and nothing is dropped: more rows than there are, a pass in progress, a protocol whose
    /// cache cannot forget rows.
    pub fn crop(&mut self, rows: usize) -> Result<()> {
        if self.protocol.is_hybrid() {
            let (what, actual) = ("protocol that drops rows", self.protocol.name());
            return Err(ProtocolError::caller(what, "preprocessed", actual));
        }
        if self.online.crop(rows)? {
            self.cache.crop(rows);
        }
        Ok(())
    }
}

impl<P: Party> Online<P> {
    /// Steps 1 and 3; whether there was anything to drop.
    fn crop(&mut self, rows: usize) -> Result<bool> {
        let (width, length) = (self.plan.model.kv_dim(), self.length());
        let whole = self.cache.iter().all(|c| c.k.len() == length * width);
        if rows > length || !whole {
            let expected = format!("up to {length}, between two passes");
            return Err(ProtocolError::caller("rows to keep", expected, rows));
        }
        if rows == length {
            return Ok(false);
        }
        for layer in &mut self.cache {
            layer.crop(rows * width);
        }
        self.ready.clear();
        self.settle_events();
        self.active.clear();
        Ok(true)
    }
}

impl LayerCache {
    /// Wipes what lies beyond `len` numbers. The server has no `open_k`.
    fn crop(&mut self, len: usize) {
        for v in [&mut self.k, &mut self.v, &mut self.open_k, &mut self.open_v] {
            if let Some(dropped) = v.get_mut(len..) {
                dropped.zeroize();
            }
            v.truncate(len);
        }
    }
}
