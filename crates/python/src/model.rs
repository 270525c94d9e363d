//! Public plan, server weights and the server's lattice key as opaque handles.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use cryptogen_he::{HeError, Params, SecretKey};
use cryptogen_protocols::endpoint::{exponentials_needed, PARAMETERS};
use cryptogen_protocols::material::{ModelLayout, SlotLayout};
use cryptogen_protocols::model;
use cryptogen_protocols::ProtocolError;
use cryptogen_ring::{Prg, Seed};
use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use rand_core::RngCore;
use zeroize::Zeroizing;

use crate::encrypted::{Choice, Weights};
use crate::errors;

/// A checked plan with its tables.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct CheckedPlan {
    pub inner: Arc<model::Plan>,
}

#[pymethods]
impl CheckedPlan {
    #[new]
    fn new(json: &str, tables: Vec<PyReadonlyArray1<'_, i64>>) -> PyResult<CheckedPlan> {
        let tables = tables.iter().map(|t| t.as_array().to_vec()).collect();
        let inner = model::Plan::parse(json, tables).map_err(|e| errors::protocol(e.into()))?;
        Ok(CheckedPlan { inner: Arc::new(inner) })
    }

    /// Exponentials that `rows` rows from position `first` on consume.
    fn exponentials_needed(&self, first: usize, rows: usize) -> u64 {
        exponentials_needed(&self.inner, first, rows)
    }

    /// How a protocol lays the model out in ciphertexts for `rows` rows, and why: a text per linear
    /// layer, then the cache's. None for `preprocessed`.
    fn why(&self, protocol: &str, rows: usize) -> PyResult<Vec<String>> {
        Choice::named(protocol)?.why(&self.inner.model, rows).map_err(errors::protocol)
    }

    /// Size of what a client needs of the model encrypted under the server's key.
    fn encrypted_model_bytes(&self, protocol: &str) -> PyResult<u64> {
        let protocol = Choice::named(protocol)?.protocol();
        Ok(ModelLayout::of(&self.inner, protocol.part()).bytes())
    }

    /// Names the layout of the encrypted model.
    #[getter]
    fn encrypted_model_layout(&self) -> String {
        ModelLayout::new(&self.inner).id()
    }

    /// Size of the material of one row in either party's store.
    #[getter]
    fn row_bytes(&self) -> usize {
        SlotLayout::new(&self.inner).record_bytes()
    }
}

/// The server's integer weights.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct ServerModel {
    pub inner: Arc<model::ServerModel>,
    /// The same, encoded for the paper's protocols as far as it has been needed.
    pub encoded: Weights,
}

#[pymethods]
impl ServerModel {
    #[new]
    fn new(
        plan: &CheckedPlan,
        matrices: HashMap<String, PyReadonlyArray2<'_, i16>>,
        biases: HashMap<String, PyReadonlyArray1<'_, i64>>,
        embed: PyReadonlyArray2<'_, i64>,
        positions: Option<PyReadonlyArray2<'_, i64>>,
    ) -> PyResult<ServerModel> {
        let weights =
            matrices.iter().map(|(k, v)| (k.clone(), v.as_array().iter().copied().collect())).collect();
        let biases = biases.iter().map(|(k, v)| (k.clone(), v.as_array().to_vec())).collect();
        let embed = narrow(embed)?;
        let positions = positions.map(narrow).transpose()?;
        let inner = model::ServerModel::new(&plan.inner, weights, biases, embed, positions)
            .map_err(errors::protocol)?;
        Ok(ServerModel { inner: Arc::new(inner), encoded: Arc::default() })
    }
}

fn narrow(a: PyReadonlyArray2<'_, i64>) -> PyResult<Vec<i32>> {
    let wrong = |v: &i64| errors::protocol(ProtocolError::caller("embedding entry", "32 bits", v));
    // Collecting results would not know the length and take three times the memory.
    let mut out = Vec::with_capacity(a.as_array().len());
    for v in a.as_array() {
        out.push(i32::try_from(*v).map_err(|_| wrong(v))?);
    }
    Ok(out)
}

const ID_BYTES: usize = 16;

/// The model owner's lattice key: it encrypts the model once and for all clients.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct ServerKey {
    id: String,
    bytes: Zeroizing<Vec<u8>>,
}

impl ServerKey {
    /// The key itself, for one endpoint.
    pub fn secret(&self) -> PyResult<SecretKey> {
        self.parse().map_err(|e| errors::protocol(e.into()))
    }

    fn parse(&self) -> Result<SecretKey, HeError> {
        SecretKey::from_bytes(Params::get(PARAMETERS), &self.bytes)
    }
}

#[pymethods]
impl ServerKey {
    /// Reads the key file, or makes it (mode 0600) on first use.
    #[staticmethod]
    fn load_or_create(path: &str) -> PyResult<ServerKey> {
        let failed = |e: io::Error| errors::protocol(ProtocolError::file(Path::new(path), e));
        let corrupt = |reason: String| errors::protocol(ProtocolError::corrupt(Path::new(path), reason));
        let mut all = Zeroizing::new(Vec::new());
        match std::fs::File::open(path) {
            Ok(mut file) => {
                file.read_to_end(&mut all).map_err(failed)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut rng = Prg::new(&Seed::random(&mut rand_core::OsRng));
                let mut id = [0u8; ID_BYTES];
                rng.fill_bytes(&mut id);
                all.extend_from_slice(&id);
                all.extend_from_slice(&SecretKey::generate(Params::get(PARAMETERS), &mut rng).to_bytes());
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                file.and_then(|mut f| f.write_all(&all).and_then(|()| f.sync_all())).map_err(failed)?;
            }
            Err(e) => return Err(failed(e)),
        }
        if all.len() <= ID_BYTES {
            return Err(corrupt(format!("expected more than {ID_BYTES} bytes, got {}", all.len())));
        }
        let key = ServerKey {
            id: all[..ID_BYTES].iter().map(|b| format!("{b:02x}")).collect(),
            bytes: Zeroizing::new(all[ID_BYTES..].to_vec()),
        };
        key.parse().map_err(|e| corrupt(e.to_string()))?;
        Ok(key)
    }

    /// Public name of the key, hex.
    #[getter]
    fn key_id(&self) -> &str {
        &self.id
    }
}
