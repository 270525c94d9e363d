//! A session begins with rows that the server computed in the clear: a text that both parties know,
//! or the server alone.
//!
//! Functionality: an empty session gets `n` rows of keys and values, as if they had passed. The
//! server's shares of them are the numbers themselves, the client's are 0.
//! Source: `docs/protocols/preprocessed.md` §4.8; arithmetic on shares of which one is public zero.
//! Inputs: both `n`, the same on an empty session (the session protocol names it); server the keys,
//! rotated, and the values, over `F_p` at scale F.
//! Cost: no message. What later rows spend on these is less than on others: [`crate::offline`].
//! Material: spends none: no record, no table key, no exponential of a pair of two such rows.
//! Leaks: `n`, to both. Of the rows nothing is sent, now or later: products of the client's numbers
//! with theirs are made with the attention material of later rows, hidden like all results.
//!
//! 1. The cache of every layer begins with these rows. Where the server's masks of keys and values
//!    stand for other rows, their keys and values stand themselves: what would be opened is 0.
//! 2. So does the encrypted cache, without a ciphertext of the client's.

use cryptogen_party::{Client, Server};

use super::Endpoint;
use crate::error::{ProtocolError, Result};
use crate::model::{check_rows, Prefix};
use crate::online::products::Side;

impl<P: Side> Endpoint<P> {
    fn check_empty(&self) -> Result<()> {
        self.conn.check_home()?;
        self.online.between_passes("rows of a prefix")?;
        match self.online.positions() {
            0 => Ok(()),
            rows => Err(ProtocolError::caller("rows before a prefix", 0, rows)),
        }
    }
}

impl Endpoint<Client> {
    /// The session begins with `rows` rows of the server's.
    ///
    /// # Errors
    /// `Caller`, and nothing changes: a session that is not empty, a number of rows that no prefix
    /// has, a protocol that does not begin with known rows.
    pub fn put_prefix(&mut self, rows: usize) -> Result<()> {
        self.check_empty()?;
        check_rows(&self.plan, rows)?;
        self.online.put_prefix(rows)?;
        self.cache.put_prefix(rows, None);
        Ok(())
    }
}

impl Endpoint<Server> {
    /// The session begins with the rows of `prefix`.
    ///
    /// # Errors
    /// Those of the client's.
    pub fn put_prefix(&mut self, prefix: &Prefix) -> Result<()> {
        self.check_empty()?;
        self.online.put_prefix(prefix)?;
        self.cache.put_prefix(prefix.rows(), Some(prefix));
        Ok(())
    }
}
