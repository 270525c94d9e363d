//! Rust errors as Python exceptions: the class is the table's, the text the error's.

mod table;

use cryptogen_mpc::store::StoreError;
use cryptogen_mpc::SessionError;
use cryptogen_protocols::ProtocolError;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// Raises `cryptogen.errors.<class>(text)`.
fn raise(class: &str, text: &str) -> PyErr {
    if class == table::INTERRUPTED {
        return PyKeyboardInterrupt::new_err(text.to_owned());
    }
    Python::attach(|py| {
        let make = || -> PyResult<PyErr> {
            let value = py.import("cryptogen.errors")?.getattr(class)?.call1((text,))?;
            Ok(PyErr::from_value(value))
        };
        make().unwrap_or_else(|e| e)
    })
}

/// Errors of a connection.
pub fn session(e: SessionError) -> PyErr {
    raise(table::session(&e), &e.to_string())
}

/// Errors of a store.
pub fn store(e: StoreError) -> PyErr {
    raise(table::store(&e), &e.to_string())
}

/// Errors of a protocol step.
pub fn protocol(e: ProtocolError) -> PyErr {
    raise(table::protocol(&e), &e.to_string())
}

/// The same where a saved cache is written or read.
pub fn saved_cache(e: ProtocolError) -> PyErr {
    raise(table::saved_cache(&e), &e.to_string())
}
