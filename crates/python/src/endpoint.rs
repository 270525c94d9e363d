//! The two endpoints: one method per protocol step, GIL released while it runs.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use cryptogen_mpc::{Home, SessionError};
use cryptogen_party::{Client, Server};
use cryptogen_protocols::endpoint::{Endpoint, Stock};
use cryptogen_protocols::model::ServerModel as Weights;
use cryptogen_protocols::share::Tensor;
use cryptogen_protocols::Result;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::encrypted::Kept;
use crate::errors;
use crate::model::{Prefix, ServerModel};
use crate::shared::{self, lock, parse};

/// A Python progress callback as a Rust one; its exception stops the work and is raised afterwards.
struct Reporter {
    callback: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Reporter {
    fn run<T>(
        py: Python<'_>,
        callback: Option<Py<PyAny>>,
        f: impl FnOnce(&mut dyn FnMut(&str, u64, u64) -> bool) -> Result<T> + Send,
    ) -> PyResult<T>
    where
        T: Send,
    {
        let mut reporter = Reporter { callback, raised: None };
        let result = py.detach(|| f(&mut |phase, done, total| reporter.call(phase, done, total)));
        match (reporter.raised, result) {
            (Some(e), _) => Err(e),
            (None, r) => r.map_err(errors::protocol),
        }
    }

    fn call(&mut self, phase: &str, done: u64, total: u64) -> bool {
        Python::attach(|py| {
            let outcome = match &self.callback {
                Some(f) => f.call1(py, (phase, done, total)).map(|_| ()),
                None => py.check_signals(),
            };
            match outcome {
                Ok(()) => true,
                Err(e) => {
                    self.raised = Some(e);
                    false
                }
            }
        })
    }
}

/// Logits `[rows, vocab]` and the range events of each row.
type Logits<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray1<u64>>);

macro_rules! endpoint {
    ($class:ident, $tensor:ident, $party:ty) => {
        /// This party's share of activations; opaque.
        #[pyclass(frozen, module = "cryptogen._core")]
        pub struct $tensor(Tensor<$party>);

        #[pymethods]
        impl $tensor {
            /// Number of rows.
            #[getter]
            fn rows(&self) -> usize {
                self.0.rows()
            }
        }

        /// A party with an open connection; see `_core.pyi`.
        #[pyclass(frozen, module = "cryptogen._core")]
        pub struct $class {
            home: Home,
            endpoint: Mutex<Endpoint<$party>>,
            kept: Kept<$party>,
        }

        impl $class {
            pub fn new((endpoint, kept): (Endpoint<$party>, Kept<$party>)) -> $class {
                $class { home: Home::here(), endpoint: Mutex::new(endpoint), kept }
            }

            /// The endpoint, while no step is in progress.
            ///
            /// # Errors
            /// `Forked`, before anything is done: in a child the lock may be held, and threads be
            /// waited for, that exist in the parent alone.
            fn endpoint(&self) -> Result<MutexGuard<'_, Endpoint<$party>>> {
                if !self.home.is_here() {
                    return Err(SessionError::Forked.into());
                }
                Ok(lock(&self.endpoint))
            }

            /// What it says of itself.
            fn read<T>(&self, f: impl FnOnce(&mut Endpoint<$party>) -> T) -> PyResult<T> {
                self.endpoint().map(|mut e| f(&mut e)).map_err(errors::protocol)
            }

            /// What is kept of its protocol.
            pub fn kept(&self) -> &Kept<$party> {
                &self.kept
            }

            /// One step, while no other is in progress.
            pub fn step<T: Send>(
                &self,
                py: Python<'_>,
                f: impl FnOnce(&mut Endpoint<$party>) -> Result<T> + Send,
            ) -> PyResult<T> {
                self.attempt(py, f).map_err(errors::protocol)
            }

            /// The same, with its own error: the caller knows what a failure of this step means.
            pub fn attempt<T: Send>(
                &self,
                py: Python<'_>,
                f: impl FnOnce(&mut Endpoint<$party>) -> Result<T> + Send,
            ) -> Result<T> {
                py.detach(|| f(&mut *self.endpoint()?))
            }

            /// Makes material; the server brings its weights.
            fn make(
                &self,
                py: Python<'_>,
                want: Stock,
                weights: Option<&Weights>,
                progress: Option<Py<PyAny>>,
            ) -> PyResult<()> {
                Reporter::run(py, progress, |p| self.endpoint()?.prepare(want, weights, p))
            }

            fn tensor(
                &self,
                py: Python<'_>,
                f: impl FnOnce(&mut Endpoint<$party>) -> Result<Tensor<$party>> + Send,
            ) -> PyResult<$tensor> {
                self.step(py, f).map($tensor)
            }
        }

        #[pymethods]
        impl $class {
            fn send_control(&self, py: Python<'_>, json: &str) -> PyResult<()> {
                let value = parse(json)?;
                self.step(py, |e| Ok(e.connection().send_control(&value)?))
            }
            fn recv_control(&self, py: Python<'_>) -> PyResult<String> {
                self.step(py, |e| Ok(e.connection().recv_control()?.to_string()))
            }
            fn send_failure(&self, py: Python<'_>, kind: &str, text: &str) -> PyResult<()> {
                self.step(py, |e| Ok(e.connection().send_failure(kind, text)?))
            }
            fn set_idle_timeout(&self, seconds: f64) -> PyResult<()> {
                let limit = Duration::from_secs_f64(seconds.clamp(0.1, 1e6));
                self.read(|e| e.connection().set_idle_timeout(limit))
            }
            fn stats(&self) -> PyResult<String> {
                let stats = self.read(|e| e.connection().stats())?;
                serde_json::to_string(&stats)
                    .map_err(|e| pyo3::exceptions::PyValueError::new_err(e.to_string()))
            }
            fn stock<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
                let stock = self.read(|e| e.stock())?;
                let d = PyDict::new(py);
                d.set_item("linears", stock.linears)?;
                d.set_item("rows", stock.rows)?;
                d.set_item("logits", stock.logits)?;
                d.set_item("exponentials", stock.exponentials)?;
                Ok(d)
            }
            fn extend(&self, py: Python<'_>, rows: usize) -> PyResult<()> {
                self.step(py, |e| e.extend(rows))
            }
            fn take_logits(&self, py: Python<'_>, n: usize) -> PyResult<()> {
                self.step(py, |e| e.take_logits(n))
            }
            fn crop(&self, py: Python<'_>, rows: usize) -> PyResult<()> {
                self.step(py, |e| e.crop(rows))
            }
            fn reset(&self) -> PyResult<()> {
                self.read(|e| e.reset())
            }
            #[getter]
            fn length(&self) -> PyResult<usize> {
                self.read(|e| e.state().length())
            }
            #[getter]
            fn ready_rows(&self) -> PyResult<usize> {
                self.read(|e| e.state().ready_rows())
            }
            #[getter]
            fn ready_logits(&self) -> PyResult<usize> {
                self.read(|e| e.state().ready_logits())
            }
            fn norm(&self, py: Python<'_>, h: &$tensor, into: &str) -> PyResult<$tensor> {
                let into = shared::site(into)?;
                self.tensor(py, |e| {
                    let (online, ch) = e.online();
                    online.norm(ch, &h.0, into)
                })
            }
            fn attention(&self, py: Python<'_>, qkv: &$tensor, layer: usize) -> PyResult<$tensor> {
                self.tensor(py, |e| {
                    let (online, ch) = e.online();
                    online.attention(ch, &qkv.0, layer)
                })
            }
            fn activation(&self, py: Python<'_>, u: &$tensor, layer: usize) -> PyResult<$tensor> {
                self.tensor(py, |e| {
                    let (online, ch) = e.online();
                    online.activation(ch, &u.0, layer)
                })
            }
            fn add(&self, h: &$tensor, y: &$tensor) -> PyResult<$tensor> {
                h.0.add(&y.0).map($tensor).map_err(errors::protocol)
            }
            fn last(&self, h: &$tensor) -> $tensor {
                $tensor(h.0.last())
            }
            #[cfg(feature = "insecure-trace")]
            fn insecure_trace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
                Ok(PyArray1::from_vec(py, self.read(|e| e.insecure_trace())?))
            }
            fn __copy__(&self) -> PyResult<()> {
                Err(pyo3::exceptions::PyTypeError::new_err("an endpoint cannot be copied"))
            }
            fn __reduce__(&self) -> PyResult<()> {
                Err(pyo3::exceptions::PyTypeError::new_err("an endpoint cannot be pickled"))
            }
        }
    };
}
/// Records of each pool, from anything that has these attributes.
#[derive(FromPyObject)]
struct Need {
    linears: u64,
    rows: u64,
    logits: u64,
    exponentials: u64,
}

impl From<Need> for Stock {
    fn from(need: Need) -> Stock {
        let Need { linears, rows, logits, exponentials } = need;
        Stock { linears, rows, logits, exponentials }
    }
}

endpoint!(ServerEndpoint, ServerTensor, Server);
endpoint!(ClientEndpoint, ClientTensor, Client);

#[pymethods]
impl ServerEndpoint {
    #[pyo3(signature = (model, need, progress=None))]
    fn prepare(
        &self,
        py: Python<'_>,
        model: &ServerModel,
        need: Need,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        self.make(py, need.into(), Some(model.inner.as_ref()), progress)
    }
    fn put_prefix(&self, py: Python<'_>, prefix: &Prefix) -> PyResult<()> {
        self.step(py, |e| e.put_prefix(&prefix.inner))
    }
    fn embed(
        &self,
        py: Python<'_>,
        model: &ServerModel,
        rows: usize,
        sampled: usize,
    ) -> PyResult<ServerTensor> {
        self.tensor(py, |e| e.embed(&model.inner, rows, sampled))
    }
    fn linear(
        &self,
        py: Python<'_>,
        model: &ServerModel,
        x: &ServerTensor,
        site: &str,
    ) -> PyResult<ServerTensor> {
        let site = shared::site(site)?;
        self.tensor(py, |e| {
            if let Some(handle) = &self.kept {
                handle.share_encoded(&model.encoded);
            }
            let (online, ch) = e.online();
            online.linear(ch, &model.inner, &x.0, site)
        })
    }
    fn logits(&self, py: Python<'_>, model: &ServerModel, x: &ServerTensor) -> PyResult<()> {
        self.step(py, |e| {
            let (online, ch) = e.online();
            online.logits(ch, &model.inner, &x.0)
        })
    }
}

#[pymethods]
impl ClientEndpoint {
    #[pyo3(signature = (need, progress=None))]
    fn prepare(&self, py: Python<'_>, need: Need, progress: Option<Py<PyAny>>) -> PyResult<()> {
        self.make(py, need.into(), None, progress)
    }
    fn put_prefix(&self, py: Python<'_>, rows: usize) -> PyResult<()> {
        self.step(py, |e| e.put_prefix(rows))
    }
    fn embed(&self, py: Python<'_>, tokens: Vec<usize>, sampled: usize) -> PyResult<ClientTensor> {
        self.tensor(py, |e| e.embed(&tokens, sampled))
    }
    fn linear(&self, py: Python<'_>, x: &ClientTensor, site: &str) -> PyResult<ClientTensor> {
        let site = shared::site(site)?;
        self.tensor(py, |e| {
            let (online, ch) = e.online();
            online.linear(ch, &x.0, site)
        })
    }
    fn logits<'py>(&self, py: Python<'py>, x: &ClientTensor) -> PyResult<Logits<'py>> {
        let (y, events) = self.step(py, |e| {
            let (online, ch) = e.online();
            online.logits(ch, &x.0)
        })?;
        let rows = x.0.rows();
        let columns = y.len() / rows.max(1);
        Ok((PyArray1::from_vec(py, y).reshape([rows, columns])?, PyArray1::from_vec(py, events)))
    }
}
