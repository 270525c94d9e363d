//! Lazy noise refresh: cached ciphertexts are encrypted afresh when their noise would not survive
//! the next product.
//!
//! Functionality: `Enc(x)` with the server → a fresh `Enc(x)` with the server.
//! Source: CryptoGen (arXiv 2602.08798), lazy refresh by masked re-encryption.
//! Inputs: server `n` ciphertexts, client its secret key; `[n][8192]` numbers over `F_p` at any
//! scale.
//! Cost: 2 messages for all ciphertexts that are due in a layer (S→C, C→S), 205 KB per ciphertext
//! each. None where none is due: noise is a function of public counts, so both parties know
//! ([`super::cache::CacheShape::append`]) and no message asks for it.
//! Material: none.
//! Leaks: nothing. The client sees values minus uniform masks, the server ciphertexts.
//!
//! 1. S→C `Enc(x − m)`, `m` fresh and uniform.
//! 2. C→S `Enc'(x − m)`, fresh. The server adds `m`.

use cryptogen_he::evaluate::{Ciphertext, Evaluator, SecretKey};
use cryptogen_party::Channel;
use cryptogen_protocols::Result;
use cryptogen_ring::Prg;

use super::exchange;

/// The client's side, for `n` ciphertexts.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn client(ch: &mut dyn Channel, key: &SecretKey, rng: &mut Prg, n: usize) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let slots = exchange::decrypt(ch, key, n)?;
    exchange::encrypt(ch, key, rng, n, |i| slots[i].clone())
}

/// The server's side: replaces the ciphertexts by fresh ones of the same content.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn server(
    ch: &mut dyn Channel,
    evaluator: &Evaluator<'_>,
    rng: &mut Prg,
    ciphertexts: Vec<&mut Ciphertext>,
) -> Result<()> {
    if ciphertexts.is_empty() {
        return Ok(());
    }
    let masks = exchange::mask(ch, evaluator, rng, &ciphertexts.iter().map(|ct| &**ct).collect::<Vec<_>>())?;
    let fresh = exchange::receive(ch, masks.len(), |i| masks[i].clone())?;
    ciphertexts.into_iter().zip(fresh).for_each(|(old, new)| *old = new);
    Ok(())
}
