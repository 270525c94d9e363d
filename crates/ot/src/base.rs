//! Base oblivious transfers over Ristretto, both directions at once.
//!
//! Functionality: 128 times, one party gets `(k_0, k_1)`, the other `(c, k_c)`; keys are 128-bit.
//! Source: Chou–Orlandi, "The Simplest Protocol for Oblivious Transfer", LATINCRYPT 2015, figure 1,
//! with the session, the index and both messages in the key derivation. Under CDH (the gap variant
//! against parties that deviate) and with SHA-256 as a random oracle.
//! Cost: 2 rounds, 32 + 128·32 bytes from each party; about 512 scalar multiplications each.
//! Leaks: nothing. Errors: [`OtError::Malformed`] for bytes that are no curve point, or its
//! identity.
//!
//! 1. The sender draws `a` and sends `A = a·G`.
//! 2. The receiver draws `b_i` and sends `B_i = b_i·G + c_i·A`; its key is `H(i, A, B_i, b_i·A)`.
//! 3. The sender's keys are `H(i, A, B_i, a·B_i)` and `H(i, A, B_i, a·(B_i − A))`.

use cryptogen_party::{Channel, Role};
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::error::OtError;

/// Base transfers in each direction: the security parameter κ.
pub const BASE_OTS: usize = 128;

const POINT: usize = 32;

/// The outcome of both directions.
pub(crate) struct BaseOts {
    /// A hash of both parties' fresh points: equal on both sides, chosen by neither.
    pub(crate) session: [u8; 32],
    /// As sender: both keys of each transfer.
    pub(crate) pairs: Zeroizing<Vec<[[u8; 16]; 2]>>,
    /// As receiver: the chosen key of each transfer.
    pub(crate) chosen: Zeroizing<Vec<[u8; 16]>>,
}

/// Runs 128 base transfers in each direction; as receiver with these choices, bit `i` for transfer
/// `i`.
pub(crate) fn run(
    role: Role,
    channel: &mut (impl Channel + ?Sized),
    choices: u128,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<BaseOts, OtError> {
    // Step 1.
    let a = random_scalar(rng);
    let own = RistrettoPoint::mul_base(&a);
    let own_bytes = own.compress().to_bytes();
    let peer_bytes = channel.exchange(role.turn(), &own_bytes, POINT)?;
    let peer = parse_point(&peer_bytes, 0)?;

    // Both points are fresh, so they name the session; the sender's role names the direction.
    let peer_bytes: [u8; POINT] = peer.compress().to_bytes();
    let (client, server) = match role {
        Role::Client => (&own_bytes, &peer_bytes),
        Role::Server => (&peer_bytes, &own_bytes),
    };
    let session: [u8; 32] = Sha256::new()
        .chain_update(b"cryptogen base ot")
        .chain_update(client)
        .chain_update(server)
        .finalize()
        .into();

    // Step 2.
    let mut chosen = Zeroizing::new(vec![[0; 16]; BASE_OTS]);
    let mut message = Vec::with_capacity(BASE_OTS * POINT);
    for (i, key) in chosen.iter_mut().enumerate() {
        let b = random_scalar(rng);
        // A multiplication by 0 or 1 instead of a selection: constant time without further
        // machinery.
        let c = Zeroizing::new(Scalar::from((choices >> i) as u8 & 1));
        let point = (RistrettoPoint::mul_base(&b) + peer * *c).compress().to_bytes();
        *key = derive_key(&session, role.other(), i, &point, Zeroizing::new(peer * *b));
        message.extend_from_slice(&point);
    }
    let received = channel.exchange(role.turn(), &message, BASE_OTS * POINT)?;

    // Step 3.
    let mut pairs = Zeroizing::new(vec![[[0; 16]; 2]; BASE_OTS]);
    let a_own = Zeroizing::new(own * *a);
    for (i, (keys, bytes)) in pairs.iter_mut().zip(received.chunks_exact(POINT)).enumerate() {
        let point = parse_point(bytes, i)?;
        let bytes = point.compress().to_bytes();
        let shared = Zeroizing::new(point * *a);
        let shifted = Zeroizing::new(*shared - *a_own);
        *keys =
            [derive_key(&session, role, i, &bytes, shared), derive_key(&session, role, i, &bytes, shifted)];
    }
    Ok(BaseOts { session, pairs, chosen })
}

fn random_scalar(rng: &mut (impl RngCore + CryptoRng)) -> Zeroizing<Scalar> {
    let mut wide = Zeroizing::new([0; 64]);
    rng.fill_bytes(wide.as_mut_slice());
    Zeroizing::new(Scalar::from_bytes_mod_order_wide(&wide))
}

fn parse_point(bytes: &[u8], index: usize) -> Result<RistrettoPoint, OtError> {
    let malformed = OtError::Malformed { what: "curve point", index };
    let point =
        CompressedRistretto::from_slice(bytes).ok().and_then(|c| c.decompress()).ok_or(malformed.clone())?;
    if point.is_identity() {
        return Err(malformed);
    }
    Ok(point)
}

/// `H(session, sender, i, B_i, shared)`, 128 bits. The session already binds `A`.
fn derive_key(
    session: &[u8; 32],
    sender: Role,
    i: usize,
    point: &[u8; POINT],
    shared: Zeroizing<RistrettoPoint>,
) -> [u8; 16] {
    let shared = Zeroizing::new(shared.compress().to_bytes());
    let mut digest = Sha256::new()
        .chain_update(b"cryptogen base ot key")
        .chain_update(session)
        .chain_update([sender.index() as u8, i as u8])
        .chain_update(point)
        .chain_update(shared.as_slice())
        .finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    digest.as_mut_slice().zeroize();
    key
}
