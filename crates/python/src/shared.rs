//! What connections, endpoints and models share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptogen_protocols::model::Site;
use cryptogen_protocols::ProtocolError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors;

/// A lock whose holder panicked is still a lock: the connection inside reports its own state.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Text to JSON.
pub fn parse(json: &str) -> PyResult<serde_json::Value> {
    serde_json::from_str(json).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// A linear layer by its name.
pub fn site(name: &str) -> PyResult<Site> {
    let unknown = || ProtocolError::caller("site", "layers.N.qkv|o|up|down or head", name);
    Site::parse(name).ok_or_else(|| errors::protocol(unknown()))
}
