//! The two parties' lattice keys of a connection.
//!
//! The server's key is the model's (it encrypted the weights); the client makes a fresh one per connection.

use cryptogen_he::{Params, PublicKey, SecretKey};
use cryptogen_party::{Channel, Party};
use cryptogen_ring::Prg;

use crate::error::Result;

/// This party's secret key and the peer's public key.
pub struct PartyKeys<P: Party> {
    pub params: &'static Params,
    pub mine: SecretKey,
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
