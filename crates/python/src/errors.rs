//! The one table from Rust errors to the classes of `cryptogen.errors`.

use cryptogen_mpc::store::StoreError;
use cryptogen_mpc::SessionError;
use cryptogen_ot::OtError;
use cryptogen_party::ChannelError;
use cryptogen_protocols::ProtocolError;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// Raises `cryptogen.errors.<class>(text)`.
fn raise(class: &str, text: &str) -> PyErr {
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
    use SessionError as E;
    let class = match &e {
        E::Interrupted => return PyKeyboardInterrupt::new_err(e.to_string()),
        E::Closed => "ConnectionLost",
        E::Message(_) => "ProtocolViolation",
        E::Peer { .. } => "PeerFailed",
        E::Timeout { .. } => "PeerTimeout",
        E::AddressInUse { .. } => "AddressInUse",
        E::Fingerprint { .. } => "WrongFingerprint",
        E::Version { .. } | E::Protocol { .. } => "VersionMismatch",
        E::Token => "WrongToken",
        E::Mismatch { .. } => "AgreementMismatch",
        _ => "ConnectionFailed",
    };
    raise(class, &e.to_string())
}

/// Errors of a store.
pub fn store(e: StoreError) -> PyErr {
    use StoreError as E;
    let class = match &e {
        E::DiskFull { .. } => "DiskFull",
        E::Locked { .. } => "StoreLocked",
        E::Short { .. } => "MaterialShort",
        E::CursorMismatch { .. } | E::StoreId { .. } | E::Binding { .. } => "MaterialMismatch",
        _ => "StoreError",
    };
    raise(class, &e.to_string())
}

fn channel(e: ChannelError) -> PyErr {
    use ChannelError as E;
    let class = match &e {
        E::Interrupted => return PyKeyboardInterrupt::new_err(e.to_string()),
        E::Closed => "ConnectionLost",
        E::Peer(_) => "PeerFailed",
        E::Timeout => "PeerTimeout",
        E::Io(_) => "ConnectionFailed",
        _ => "ProtocolViolation",
    };
    raise(class, &e.to_string())
}

/// Errors of a protocol step.
pub fn protocol(e: ProtocolError) -> PyErr {
    use ProtocolError as E;
    match e {
        E::Channel(e) => channel(e),
        E::Ot(OtError::Channel(e)) => channel(e),
        E::Session(e) => session(e),
        E::Store(e) => store(e),
        E::Interrupted => PyKeyboardInterrupt::new_err("interrupted"),
        E::Plan(e) => raise("PlanRejected", &e.to_string()),
        E::Short { .. } => raise("MaterialShort", &e.to_string()),
        E::Shape { .. } | E::MissingWeights(_) => raise("InputError", &e.to_string()),
        E::File { ref reason, .. } if reason.contains("No space left") => raise("DiskFull", &e.to_string()),
        E::Cache { .. } => raise("CacheRejected", &e.to_string()),
        E::File { .. } => raise("StoreError", &e.to_string()),
        E::Malformed { .. } | E::He(_) | E::Ot(_) => raise("ProtocolViolation", &e.to_string()),
    }
}
