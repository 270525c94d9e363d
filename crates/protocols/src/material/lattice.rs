//! The two parties' lattice keys of a connection, and what is decrypted with them.
//!
//! The server's key is the model's (it encrypted the weights); the client makes a fresh one per
//! connection.

use cryptogen_he::{Combiner, Hidden, Layout, MaskedCiphertext, Params, PublicKey, SecretKey, N};
use cryptogen_party::{Channel, Party};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use crate::error::{ProtocolError, Result};

/// This party's secret key and the peer's public key.
pub struct PartyKeys<P: Party> {
    /// parameters of both keys
    pub params: &'static Params,
    /// this party's secret key
    pub mine: SecretKey,
    /// the peer's public key
    pub peer: PublicKey,
    _party: std::marker::PhantomData<P>,
}

impl<P: Party> PartyKeys<P> {
    /// Exchanges public keys.
    ///
    /// # Errors
    /// Connection failures, a malformed key.
    pub fn exchange(
        ch: &mut dyn Channel,
        params: &'static Params,
        mine: SecretKey,
        rng: &mut Prg,
    ) -> Result<PartyKeys<P>> {
        let public = PublicKey::generate(&mine, rng).to_bytes();
        let theirs = ch.exchange(P::ROLE.turn(), &public, public.len())?;
        let peer = PublicKey::from_bytes(params, &theirs)?;
        Ok(PartyKeys { params, mine, peer, _party: std::marker::PhantomData })
    }
}

/// The messages of masked ciphertexts, `[n][N]`.
pub(crate) fn decrypt_all(
    params: &'static Params,
    key: &SecretKey,
    layout: Layout,
    bytes: &[u8],
) -> Result<Vec<Fp>> {
    let mut values = vec![Fp::ZERO; bytes.len() / MaskedCiphertext::BYTES * N];
    bytes.par_chunks(MaskedCiphertext::BYTES).zip(values.par_chunks_mut(N)).try_for_each(|(b, values)| {
        values.copy_from_slice(&key.decrypt(&MaskedCiphertext::from_bytes(params, b)?, layout));
        Ok::<_, ProtocolError>(())
    })?;
    Ok(values)
}

/// Server: its shares `[n][N]` of combinations of the client's ciphertexts, and the message from
/// which the client makes its own.
pub(crate) fn hide(key: &PublicKey, combiner: Combiner, seed: &Seed) -> (Vec<Fp>, Vec<u8>) {
    let (shares, hidden) = combiner.hide(key, seed);
    let mut bytes = vec![0; hidden.len() * Hidden::BYTES];
    bytes
        .par_chunks_mut(Hidden::BYTES)
        .zip(&hidden)
        .for_each(|(bytes, hidden)| bytes.copy_from_slice(&hidden.to_bytes()));
    (shares, bytes)
}

/// Client: its shares `[n][N]` of what the server has hidden.
pub(crate) fn client_shares(key: &SecretKey, layout: Layout, bytes: &[u8]) -> Result<Vec<Fp>> {
    let mut shares = vec![Fp::ZERO; bytes.len() / Hidden::BYTES * N];
    bytes.par_chunks(Hidden::BYTES).zip(shares.par_chunks_mut(N)).try_for_each(|(bytes, share)| {
        share.copy_from_slice(&key.share(&Hidden::from_bytes(key.params(), bytes)?, layout));
        Ok::<_, ProtocolError>(())
    })?;
    Ok(shares)
}
