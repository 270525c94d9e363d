//! The encrypted model: the server's integer weights under its own key, sent to a client once per
//! model.
//!
//! Functionality: weights with the server → the client holds `Enc(W)` of every matrix and of the
//! embedding, and can compute `Enc(W·r' − mask)` for its own masks, any number of rows at a time,
//! without rotations or key switching.
//! Source: `docs/protocols/preprocessed.md` §3.1; `docs/decisions/0002-encrypted-model.md`.
//! Inputs: server `W`, integers below `2^15` at scale `f_w`, the embedding at scale F +
//! `embed.shift`, and its lattice key, which lives as long as the model; client nothing.
//! Cost: S→C a message per 32 ciphertexts of 200 736 bytes, 24.5 bytes per number. Where everything
//! lies: [`ModelLayout`].
//! Material: spends none; makes the client's file, which is used again for every slot and token.
//! Leaks: nothing but the size, which the shapes imply.

use std::io::{BufWriter, Write};
use std::path::Path;

use cryptogen_he::{SecretKey, SeededCiphertext};
use cryptogen_mpc::durable::{self, NotReplaced};
use cryptogen_party::Channel;
use cryptogen_ring::{Prg, Seed};
use rayon::prelude::*;

use super::{report, Progress};
use crate::error::{ProtocolError, Result};
use crate::material::{ModelLayout, Part};
use crate::model::{Plan, ServerModel};
use crate::share::Cost;

/// Ciphertexts per message: about 6 MB.
const BATCH: usize = 32;

/// Messages and bytes of the model.
pub fn cost(plan: &Plan, part: Part) -> Cost {
    let layout = ModelLayout::of(plan, part);
    Cost { messages: layout.count().div_ceil(BATCH), client_bytes: 0, server_bytes: layout.bytes() as usize }
}

/// Server: encrypts and sends the model, in bounded memory.
///
/// # Errors
/// Connection failures; interruption.
pub fn send(
    ch: &mut dyn Channel,
    key: &SecretKey,
    plan: &Plan,
    part: Part,
    model: &ServerModel,
    rng: &mut Prg,
    progress: Progress<'_>,
) -> Result<()> {
    let layout = ModelLayout::of(plan, part);
    let (first, end) = (layout.first, layout.end());
    for start in (first..end).step_by(BATCH) {
        let seed = Seed::random(rng);
        let batch: Result<Vec<Vec<u8>>> = (start..end.min(start + BATCH))
            .into_par_iter()
            .map(|index| {
                let mut rng = Prg::new(&seed.derive("encrypted model", index as u64));
                Ok(key.encrypt(&layout.message(index, model), layout.layout(index), &mut rng)?.to_bytes())
            })
            .collect();
        let batch = batch?;
        ch.send(&batch.concat())?;
        let done = start + batch.len() - first;
        report(progress, "encrypting the model", done as u64, layout.count() as u64)?;
    }
    Ok(())
}

/// Client: receives the encrypted model into `path`, which appears only when it is whole.
///
/// # Errors
/// Connection failures, a full disk (nothing is left behind), interruption.
pub fn receive(
    ch: &mut dyn Channel,
    plan: &Plan,
    part: Part,
    path: &Path,
    progress: Progress<'_>,
) -> Result<()> {
    let layout = ModelLayout::of(plan, part);
    let total = layout.count();
    let draft = path.with_extension("new");
    let file_error = |e: std::io::Error| ProtocolError::file(&draft, e);
    let received = durable::replace(path, &draft, |file| -> Result<()> {
        let mut out = BufWriter::new(file);
        for start in (0..total).step_by(BATCH) {
            let n = total.min(start + BATCH) - start;
            out.write_all(&ch.recv(n * SeededCiphertext::BYTES)?).map_err(file_error)?;
            report(progress, "receiving the encrypted model", (start + n) as u64, total as u64)?;
        }
        out.flush().map_err(file_error)
    });
    received.map_err(|e| match e {
        NotReplaced::Content(e) => e,
        NotReplaced::Draft(e) | NotReplaced::Rename(e) => file_error(e),
    })
}
