//! A conversation that goes on later: the server saves the encrypted cache, the client what it must
//! know about it. After CryptoGen's persistent cache (arXiv 2602.08798).
//!
//! Functionality: a saved cache → both parties hold a session of as many rows as it has.
//! Inputs: server the file, its ciphertexts `[layers][blocks]`; client its secret key, and the
//! tokens that it keeps itself.
//! Cost: saving no message; loading 1 message (S→C), a few bytes per layer.
//! Material: none.
//! Leaks: nothing. The numbers follow from what was done before.
//!
//! 1. S→C the cache's public numbers: rows, and the noise of its ciphertexts.

use std::path::Path;

use cryptogen_mpc::Connection;
use cryptogen_party::{Client, Server};
use cryptogen_protocols::endpoint::Endpoint;
use cryptogen_protocols::{ProtocolError, Result};
use sha2::{Digest, Sha256};

use super::cache::Binding;
use super::Handle;

/// Public numbers of a cache, at most: a term per token and layer.
const LARGEST: usize = 1 << 24;

impl Handle<Server> {
    /// Writes the encrypted cache. `model`: names model and plan.
    ///
    /// # Errors
    /// `File`.
    pub fn save_cache(&self, path: &Path, model: &str) -> Result<()> {
        let mut state = self.state();
        let binding = binding(model, &state.key_id());
        state.cache.encrypted_mut()?.save(path, &binding)
    }

    /// Starts a new session of `endpoint` with the rows of a saved cache; returns their number. The
    /// client calls [`Handle::resume_cache`] after it.
    ///
    /// # Errors
    /// `Corrupt` if the file is of another model, key, layout or version, or damaged, `File` if it
    /// cannot be read: nothing was sent, and the session is empty.
    pub fn load_cache(&self, endpoint: &mut Endpoint<Server>, path: &Path, model: &str) -> Result<usize> {
        endpoint.reset();
        let mut state = self.state();
        let binding = binding(model, &state.key_id());
        let cache = state.cache.encrypted_mut()?;
        cache.load(path, &binding, self.plan.model.context)?;
        Ok(cache.len())
    }

    /// Tells the client the public numbers of the cache.
    ///
    /// # Errors
    /// Connection failures.
    pub fn send_shape(&self, conn: &mut Connection<Server>) -> Result<()> {
        let bytes = self.state().cache_shape().to_bytes();
        conn.send_bytes(&(bytes.len() as u64).to_le_bytes())?;
        Ok(conn.send_bytes(&bytes)?)
    }
}

impl Handle<Client> {
    /// Starts a new session of `endpoint` with the rows that the server has loaded; returns their
    /// number.
    ///
    /// # Errors
    /// Connection failures, numbers that no cache of this model has.
    pub fn resume_cache(&self, endpoint: &mut Endpoint<Client>) -> Result<usize> {
        endpoint.reset();
        let conn = endpoint.connection();
        let mut length = [0; 8];
        length.copy_from_slice(&conn.recv_bytes(8)?);
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(ProtocolError::peer("saved cache", format!("up to {LARGEST} bytes"), length));
        }
        let bytes = conn.recv_bytes(length)?;
        let mut state = self.state();
        let shape = state.cache.shape_mut()?;
        shape.resume(&bytes, self.plan.model.context)?;
        Ok(shape.len())
    }
}

/// What a file must belong to.
fn binding(model: &str, key: &[u8]) -> Binding {
    Binding { model: Sha256::digest(model.as_bytes()).into(), key: Sha256::digest(key).into() }
}
