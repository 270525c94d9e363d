//! What a party does with its own share, without a message: truncation, lifting, indices of
//! look-ups, leading bits (A1, A2, A6, A8).

use cryptogen_party::{Client, Party, Role};
use cryptogen_ring::trunc::{
    index_client, index_server, leading_client, leading_server, trunc_client, trunc_server,
};
use cryptogen_ring::word::{lift_client, lift_server, word_trunc_client, word_trunc_server};
use cryptogen_ring::{Fp, Word};

use crate::model::Plan;

/// A1 on this party's share.
pub fn trunc<P: Party>(x: Fp, k: u32) -> Fp {
    match P::ROLE {
        Role::Client => trunc_client(x, k),
        Role::Server => trunc_server(x, k),
    }
}

/// A6 on this party's share: from `F_p` to `Z_{2^64}`.
pub fn lift<P: Party>(x: Fp) -> Word {
    match P::ROLE {
        Role::Client => lift_client(x),
        Role::Server => lift_server(x),
    }
}

/// A6 on this party's share: from `Z_{2^64}` to `F_p`, truncated.
pub fn trunc_word<P: Party>(x: Word, k: u32) -> Fp {
    match P::ROLE {
        Role::Client => word_trunc_client(x, k),
        Role::Server => word_trunc_server(x, k),
    }
}

/// A2 on this party's share.
pub fn index<P: Party>(x: Fp, h: u32, k: u32) -> u32 {
    match P::ROLE {
        Role::Client => index_client(x, h, k),
        Role::Server => index_server(x, h, k),
    }
}

/// A8 on this party's share.
pub fn leading<P: Party>(x: Fp) -> u32 {
    match P::ROLE {
        Role::Client => leading_client(x),
        Role::Server => leading_server(x),
    }
}

/// Subtracts a public constant from a shared value: the server's share carries it.
pub fn sub_public<P: Party>(x: Fp, c: i64) -> Fp {
    match P::ROLE {
        Role::Client => x,
        Role::Server => x - Fp::from_i64(c),
    }
}

/// This party's rotation share `index − α mod 2^k`.
pub fn rotation(index: u32, alpha: u32, k: u32) -> u32 {
    index.wrapping_sub(alpha) & ((1 << k) - 1)
}

/// Adds both parties' rotation shares.
pub fn join(mine: u32, theirs: u32, k: u32) -> u32 {
    mine.wrapping_add(theirs) & ((1 << k) - 1)
}

/// The client's index share of a neuron's activation input; offline its rotation is sent ahead.
pub(crate) fn client_index(plan: &Plan, layer: usize, neuron: usize, x: Fp) -> u32 {
    let a = &plan.activations[layer];
    index::<Client>(x, a.segments(neuron).0, a.k)
}
