//! Public plan and server weights as opaque handles.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptogen_protocols::endpoint::{exponential_bytes, exponentials_needed};
use cryptogen_protocols::material::RowLayout;
use cryptogen_protocols::model;
use cryptogen_protocols::ProtocolError;
use cryptogen_ring::Fp;
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::encrypted::{Choice, Weights};
use crate::{errors, shared};

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

/// Keys and values of the rows that a session begins with; the server's alone, opaque.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct Prefix {
    pub inner: model::Prefix,
}

#[pymethods]
impl Prefix {
    /// `keys`, rotated, and `values`: per layer `[rows, kv_dim]`.
    #[new]
    fn new(
        plan: &CheckedPlan,
        keys: Vec<PyReadonlyArray2<'_, i64>>,
        values: Vec<PyReadonlyArray2<'_, i64>>,
    ) -> PyResult<Prefix> {
        let (layers, width) = (plan.inner.model.layers, plan.inner.model.kv_dim());
        for (what, there) in
            [("layers of a prefix's keys", keys.len()), ("layers of its values", values.len())]
        {
            if there != layers {
                return Err(errors::protocol(ProtocolError::caller(what, layers, there)));
            }
        }
        let numbers = |rows: &PyReadonlyArray2<'_, i64>| -> PyResult<Vec<Fp>> {
            if rows.shape()[1] != width {
                let other = ProtocolError::caller("width of a prefix", width, rows.shape()[1]);
                return Err(errors::protocol(other));
            }
            Ok(rows.as_array().iter().map(|x| Fp::from_i64(*x)).collect())
        };
        let layers = keys.iter().zip(&values).map(|(k, v)| Ok([numbers(k)?, numbers(v)?]));
        let layers = layers.collect::<PyResult<_>>()?;
        let inner = model::Prefix::new(&plan.inner, layers).map_err(errors::protocol)?;
        Ok(Prefix { inner })
    }

    /// How many.
    #[getter]
    fn rows(&self) -> usize {
        self.inner.rows()
    }
}

/// The server's integer weights.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct ServerModel {
    pub inner: Arc<model::ServerModel>,
    /// The same, encoded for the paper's protocols as far as it has been needed.
    pub encoded: Weights,
}

/// Takes the server's integer weights some rows at a time.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct ServerModelBuilder {
    inner: Mutex<Option<model::ServerModelBuilder>>,
}

impl ServerModelBuilder {
    fn open(&self) -> MutexGuard<'_, Option<model::ServerModelBuilder>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(
        &self,
        put: impl FnOnce(&mut model::ServerModelBuilder) -> Result<(), ProtocolError>,
    ) -> PyResult<()> {
        self.open().as_mut().ok_or_else(finished).and_then(put).map_err(errors::protocol)
    }
}

#[pymethods]
impl ServerModelBuilder {
    #[new]
    fn new(plan: &CheckedPlan) -> ServerModelBuilder {
        let builder = model::ServerModelBuilder::new(plan.inner.clone());
        ServerModelBuilder { inner: Mutex::new(Some(builder)) }
    }

    fn table(&self, name: &str, rows: PyReadonlyArray2<'_, i32>) -> PyResult<()> {
        let (width, rows) = (rows.shape()[1], contiguous(rows.as_array().to_slice())?);
        self.with(|builder| match name {
            "embed" => builder.embed(width, rows),
            "pos" => builder.positions(width, rows),
            _ => Err(ProtocolError::caller("table", "embed or pos", name)),
        })
    }

    fn weight(&self, site: &str, rows: PyReadonlyArray2<'_, i16>) -> PyResult<()> {
        let (site, width) = (shared::site(site)?, rows.shape()[1]);
        let rows = contiguous(rows.as_array().to_slice())?;
        self.with(|builder| builder.weight(site, width, rows))
    }

    fn bias(&self, site: &str, bias: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let (site, bias) = (shared::site(site)?, contiguous(bias.as_array().to_slice())?);
        self.with(|builder| builder.bias(site, bias))
    }

    fn finish(&self) -> PyResult<ServerModel> {
        let builder = self.open().take().ok_or_else(finished);
        let inner = builder.and_then(model::ServerModelBuilder::finish).map_err(errors::protocol)?;
        Ok(ServerModel { inner: Arc::new(inner), encoded: Arc::default() })
    }
}

fn finished() -> ProtocolError {
    ProtocolError::caller("the server's weights", "not finished yet", "finished")
}

/// Rows one behind the other, as they lie in memory.
fn contiguous<T>(rows: Option<&[T]>) -> PyResult<&[T]> {
    let other = || ProtocolError::caller("rows of weights", "a C-contiguous array", "another order");
    rows.ok_or_else(|| errors::protocol(other()))
}
