//! The Python face of the core: opaque handles, no logic, one error table (`errors.rs`).

mod endpoint;
mod errors;
mod model;
mod session;

use pyo3::prelude::*;

/// Every step makes and drops arrays of hundreds of kilobytes; the system's allocator returns them to the kernel each time and
/// takes them back page by page (docs/decisions/0011).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `cryptogen._core`
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    m.add("PARAMETERS", session::PARAMETERS)?;
    m.add_class::<model::Plan>()?;
    m.add_class::<model::ServerModel>()?;
    m.add_class::<model::ServerKey>()?;
    m.add_class::<session::Identity>()?;
    m.add_class::<session::Listener>()?;
    m.add_class::<session::ServerConnection>()?;
    m.add_class::<session::ClientConnection>()?;
    m.add_class::<endpoint::ServerTensor>()?;
    m.add_class::<endpoint::ClientTensor>()?;
    m.add_class::<endpoint::ServerEndpoint>()?;
    m.add_class::<endpoint::ClientEndpoint>()?;
    Ok(())
}
