//! A conversation that goes on later: the server saves the encrypted cache, the client what it must know about it.
//!
//! Saving: no message. Loading: 1. S→C the cache's public numbers. Both then hold a session of as many rows. Leaks: nothing, they follow from what was done.

use std::path::Path;

use cryptogen_party::{Client, Party, Server};
use sha2::{Digest, Sha256};

use super::Endpoint;
use crate::error::{ProtocolError, Result};
use crate::hybrid::cache::Binding;
use crate::hybrid::Hybrid;

/// Public numbers of a cache, at most: a term per token and layer.
const LARGEST: usize = 1 << 24;

impl<P: Party> Endpoint<P> {
    fn hybrid(&mut self) -> Result<&mut Hybrid<P>> {
        let name = self.protocol.name();
        let other =
            || ProtocolError::caller("protocol of a saved cache", "one with an encrypted cache", name);
        self.online.hybrid.as_mut().ok_or_else(other)
    }
}

impl Endpoint<Server> {
    /// Writes the encrypted cache. `model`: names model and plan.
    ///
    /// # Errors
    /// `File`; `Caller` for a protocol without such a cache.
    pub fn save_cache(&mut self, path: &Path, model: &str) -> Result<()> {
        let hybrid = self.hybrid()?;
        let binding = binding(model, &hybrid.key_id());
        hybrid.cache.encrypted_mut()?.save(path, &binding)
    }

    /// Starts a new session with the rows of a saved cache; returns their number. The client calls [`Endpoint::resume_cache`] after it.
    ///
    /// # Errors
    /// `File`; `Corrupt` if the file is of another model, key, layout or version, or damaged. Nothing
    /// was sent, and the session is empty.
    pub fn load_cache(&mut self, path: &Path, model: &str) -> Result<usize> {
        self.reset();
        let context = self.plan.model.context;
        let hybrid = self.hybrid()?;
        let binding = binding(model, &hybrid.key_id());
        let cache = hybrid.cache.encrypted_mut()?;
        cache.load(path, &binding, context)?;
        Ok(cache.len())
    }

    /// Tells the client the public numbers of the cache.
    ///
    /// # Errors
    /// Connection failures.
    pub fn send_shape(&mut self) -> Result<()> {
        let bytes = self.hybrid()?.cache_shape().to_bytes();
        self.conn.send_bytes(&(bytes.len() as u64).to_le_bytes())?;
        Ok(self.conn.send_bytes(&bytes)?)
    }
}

impl Endpoint<Client> {
    /// Starts a new session with the rows that the server has loaded; returns their number.
    ///
    /// # Errors
    /// Connection failures, numbers that no cache of this model has.
    pub fn resume_cache(&mut self) -> Result<usize> {
        self.reset();
        let mut length = [0; 8];
        length.copy_from_slice(&self.conn.recv_bytes(8)?);
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(ProtocolError::peer("saved cache", format!("up to {LARGEST} bytes"), length));
        }
        let bytes = self.conn.recv_bytes(length)?;
        let context = self.plan.model.context;
        let shape = self.hybrid()?.cache.shape_mut()?;
        shape.resume(&bytes, context)?;
        Ok(shape.len())
    }
}

/// What a file must belong to.
fn binding(model: &str, key: &[u8]) -> Binding {
    Binding { model: Sha256::digest(model.as_bytes()).into(), key: Sha256::digest(key).into() }
}
