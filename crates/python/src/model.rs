//! Public plan and server weights as opaque handles.

use std::collections::HashMap;
use std::sync::Arc;

use cryptogen_protocols::endpoint::{exponential_bytes, exponentials_needed};
use cryptogen_protocols::material::RowLayout;
use cryptogen_protocols::model;
use cryptogen_protocols::ProtocolError;
use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

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

    /// Exponentials that `rows` rows from position `first` on spend, in pairs of rows.
    #[staticmethod]
    fn exponentials_needed(first: usize, rows: usize) -> u64 {
        exponentials_needed(first, rows)
    }

    /// Bytes of the exponentials of a pair of rows: in the client's store, the larger one, and on
    /// the wire, both directions.
    #[getter]
    fn exponential_bytes(&self) -> (usize, f64) {
        exponential_bytes(&self.inner)
    }

    /// How a protocol lays the model out in ciphertexts for `rows` rows, and why: a text per linear
    /// layer, then the cache's. None for `preprocessed`.
    fn why(&self, protocol: &str, rows: usize) -> PyResult<Vec<String>> {
        Choice::named(protocol)?.why(&self.inner.model, rows).map_err(errors::protocol)
    }

    /// Size of the material of one row in either party's store.
    #[getter]
    fn row_bytes(&self) -> usize {
        RowLayout::new(&self.inner).record_bytes()
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
