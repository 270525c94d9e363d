//! The Python face of the core: opaque handles, no logic, one error table (`errors.rs`).

mod ciphertexts;
mod encrypted;
mod endpoint;
mod errors;
mod model;
mod session;
mod shared;

use cryptogen_ring::kernels::Isa;
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// Every step makes and drops arrays of hundreds of kilobytes; the system's allocator returns them
/// to the kernel each time and takes them back page by page (docs/decisions/0011).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names the widest kernels that may run: to measure the narrower ones, or to rule a kernel out as
/// the cause of an error.
const KERNELS: &str = "CRYPTOGEN_KERNELS";

fn limit_kernels() -> PyResult<()> {
    let Some(name) = std::env::var_os(KERNELS) else { return Ok(()) };
    Isa::limit(match name.to_str() {
        Some("portable") => Isa::Portable,
        Some("avx2") => Isa::Avx2,
        Some("avx512") => Isa::Avx512,
        _ => {
            let text = format!("{KERNELS} is {name:?}, expected portable, avx2 or avx512");
            return Err(PyImportError::new_err(text));
        }
    });
    Ok(())
}

/// `cryptogen._core`
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    limit_kernels()?;
    m.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    m.add("KERNELS", format!("{:?}", Isa::best()).to_lowercase())?;
    m.add("PARAMETERS", session::PARAMETERS)?;
    m.add("STORE_FORMAT", cryptogen_mpc::store::FORMAT)?;
    m.add_class::<model::CheckedPlan>()?;
    m.add_class::<model::Prefix>()?;
    m.add_class::<model::ServerModel>()?;
    m.add_class::<model::ServerModelBuilder>()?;
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
