//! The offline phase: lattice encryption and oblivious transfer, done ahead on random masks.
//!
//! The client encrypts, under keys of the connection, and the server computes: `linear` makes
//! shares of `W·r'`; `cross` makes shares of products of masks, `exponentials` of factors of
//! exponentials; `tables` makes secret look-up tables; `attention` makes what a row at a known
//! position needs; `prepare` runs all of it, layer by layer, into the store.

pub mod attention;
pub mod cross;
pub mod exponentials;
pub mod linear;
mod pipeline;
pub mod prepare;
pub mod tables;

/// Called with (phase, done, total); returning `false` stops the work with `Interrupted`.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64) -> bool;

pub(crate) fn report(progress: Progress<'_>, phase: &str, done: u64, total: u64) -> crate::error::Result<()> {
    if progress(phase, done, total) {
        Ok(())
    } else {
        Err(crate::error::ProtocolError::Interrupted)
    }
}
