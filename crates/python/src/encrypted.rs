//! The paper's two protocols: the one place that knows their crate beside `preprocessed`, and
//! what only they can do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryptogen_encrypted::encoded::Encoded;
use cryptogen_encrypted::planner::LinearPlan;
use cryptogen_encrypted::{cache_layout, Handle, Variant};
use cryptogen_he::evaluate::EvaluationKeys;
use cryptogen_mpc::store::Store;
use cryptogen_mpc::Connection;
use cryptogen_party::Party;
use cryptogen_protocols::endpoint::{Endpoint, Protocol};
use cryptogen_protocols::model::Site;
use cryptogen_protocols::online::products::Side;
use cryptogen_protocols::{model, ProtocolError, Result};
use pyo3::prelude::*;
use serde_json::json;

use crate::endpoint::{ClientEndpoint, ServerEndpoint};
use crate::errors;
use crate::model::{CheckedPlan, ServerModel};

/// A protocol by its name: one of the two, or the default.
#[derive(Clone, Copy)]
pub struct Choice(Option<Variant>);

/// What an endpoint keeps of one of the two, beside what its steps use.
pub type Kept<P> = Option<Handle<P>>;

/// A model's weights as the two need them, as far as they have been needed.
pub type Weights = Arc<Encoded>;

impl Choice {
    /// The protocol of that name.
    pub fn named(name: &str) -> PyResult<Choice> {
        if name == Protocol::PREPROCESSED.name {
            return Ok(Choice(None));
        }
        Variant::parse(name).map(|variant| Choice(Some(variant))).ok_or_else(|| {
            let names = [Protocol::PREPROCESSED.name].into_iter().chain(Variant::ALL.map(Variant::name));
            let (known, given) = (names.collect::<Vec<_>>().join(", "), name.chars().take(40));
            errors::protocol(ProtocolError::caller("protocol", known, given.collect::<String>()))
        })
    }

    /// What an endpoint must know of it.
    pub fn protocol(self) -> Protocol {
        self.0.map_or(Protocol::PREPROCESSED, Variant::protocol)
    }

    /// Opens an endpoint.
    pub fn open<P: Side>(
        self,
        conn: Connection<P>,
        plan: Arc<model::Plan>,
        store: Store,
        resync: bool,
    ) -> Result<(Endpoint<P>, Kept<P>)>
    where
        Box<P::Products>: From<Handle<P>>,
    {
        match self.0 {
            None => Endpoint::open(conn, plan, store, resync).map(|endpoint| (endpoint, None)),
            Some(variant) => {
                variant.open(conn, plan, store, resync).map(|(endpoint, handle)| (endpoint, Some(handle)))
            }
        }
    }

    /// How it lays a model out in ciphertexts for `rows` rows, and why: a text per linear layer,
    /// then the cache's.
    pub fn why(self, m: &model::ModelShape, rows: usize) -> Result<Vec<String>> {
        let Some(variant) = self.0 else { return Ok(vec![]) };
        let mut linear = LinearPlan::new(m)?;
        let (_, cache) = cache_layout(variant, m)?;
        Ok(Site::of_layer(0).into_iter().map(|site| linear.why(site, rows)).chain([cache]).collect())
    }
}

/// The handle of an endpoint whose protocol keeps an encrypted cache.
fn handle<P: Party>(kept: &Kept<P>) -> Result<&Handle<P>> {
    let (what, name) = ("protocol of a saved cache", Protocol::PREPROCESSED.name);
    kept.as_ref().ok_or_else(|| ProtocolError::caller(what, "one with an encrypted cache", name))
}

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
