//! What only the paper's two protocols can do: methods of models and endpoints.

use std::path::{Path, PathBuf};

use cryptogen_he::evaluate::EvaluationKeys;
use pyo3::prelude::*;
use serde_json::json;

use crate::encrypted::handle;
use crate::endpoint::{ClientEndpoint, ServerEndpoint};
use crate::errors;
use crate::model::{CheckedPlan, ServerModel};

#[pymethods]
impl ServerModel {
    /// Encodes the layers for the paper's protocols, or reads them from files of `folder`:
    /// `(read, written, warnings)`.
    fn load_encoded(
        &self,
        py: Python<'_>,
        plan: &CheckedPlan,
        folder: PathBuf,
    ) -> PyResult<(usize, usize, Vec<String>)> {
        let loaded =
            py.detach(|| self.encoded.load(&plan.inner, &self.inner, &folder)).map_err(errors::protocol)?;
        Ok((loaded.read, loaded.written, loaded.warnings))
    }
}

#[pymethods]
impl ServerEndpoint {
    /// Writes the encrypted cache. `model`: names model and plan.
    fn save_cache(&self, py: Python<'_>, path: &str, model: &str) -> PyResult<()> {
        let save = |_: &mut _| handle(self.kept())?.save_cache(Path::new(path), model);
        self.attempt(py, save).map_err(errors::saved_cache)
    }
    /// Starts a new session with the rows of a saved cache; returns their number.
    fn load_cache(&self, py: Python<'_>, path: &str, model: &str) -> PyResult<usize> {
        let load = |e: &mut _| handle(self.kept())?.load_cache(e, Path::new(path), model);
        self.attempt(py, load).map_err(errors::saved_cache)
    }
    /// Tells the client what it must know about a cache that was loaded.
    fn send_shape(&self, py: Python<'_>) -> PyResult<()> {
        self.step(py, |e| handle(self.kept())?.send_shape(e.connection()))
    }
    /// What was computed on ciphertexts since the connection was opened, and what is held now.
    /// JSON.
    fn counters(&self, py: Python<'_>) -> PyResult<String> {
        // As a step, so that no other is in progress.
        self.step(py, |_| {
            let Some(handle) = self.kept() else { return Ok(json!({"counts": {}, "state": {}}).to_string()) };
            let state = handle.state();
            let (counts, base) = (state.counts(), EvaluationKeys::bytes(0));
            let o = counts.operations;
            Ok(json!({
                "counts": {
                    "ct_pt": o.ct_pt, "ct_ct": o.ct_ct, "rotations": o.rotations, "hoisted_rotations": o.hoisted_rotations,
                    "relinearisations": o.relinearisations, "masked": o.masked, "refreshes": counts.refreshes,
                    "refreshes_if_always": counts.refreshes_if_always,
                },
                "state": {
                    "cache_ciphertexts": state.cache_shape().ciphertexts(),
                    "galois_key_bytes": state.key_bytes().saturating_sub(base), "evaluation_key_bytes": state.key_bytes(),
                },
            })
            .to_string())
        })
    }
}

#[pymethods]
impl ClientEndpoint {
    /// Starts a new session with the rows that the server has loaded; returns their number.
    fn resume_cache(&self, py: Python<'_>) -> PyResult<usize> {
        self.step(py, |e| handle(self.kept())?.resume_cache(e))
    }
}
