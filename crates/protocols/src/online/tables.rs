//! Secret table look-ups: `index = d + α` with `d` opened and `α` shared inside a DPF key.
//!
//! A key of payloads `(1, β_1, …)` yields shares of `T[index]` and `β_i·T[index]`; with `Δ = x − β` opened,
//! `T[index]·x = Δ·T[index] + β·T[index]` needs no further message (piecewise-linear functions, A3). All of it modulo `2^64`; shares over `F_p`
//! come in by [`lift`] and leave by [`trunc_word`] (A6).

use cryptogen_mpc::party::Party;
use cryptogen_ot::{DotScratch, Role, TableKey};
use cryptogen_ring::trunc::{index_client, index_server, trunc_client, trunc_server};
use cryptogen_ring::word::{lift_client, lift_server, word_trunc_client, word_trunc_server};
use cryptogen_ring::{Fp, Word};
use rayon::prelude::*;

use crate::error::Result;

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

/// Subtracts a public constant from a shared value: the server's share carries it.
pub fn sub_public<P: Party>(x: Fp, c: i64) -> Fp {
    match P::ROLE {
        Role::Client => x,
        Role::Server => x - Fp::from_i64(c),
    }
}

/// This party's rotation share `index − α mod 2^k`.
pub fn rotation(index: u32, key: &TableKey, k: u32) -> u32 {
    index.wrapping_sub(key.alpha()) & ((1 << k) - 1)
}

/// Adds both parties' rotation shares.
pub fn join(mine: u32, theirs: u32, k: u32) -> u32 {
    mine.wrapping_add(theirs) & ((1 << k) - 1)
}

/// One look-up: a key, its opened rotation, and the tables wanted.
pub struct Lookup<'a, const T: usize> {
    pub key: TableKey,
    pub rotation: u32,
    pub tables: [&'a [i64]; T],
}

/// Shares of every table's entry times every payload: `value[table][payload]`.
pub type Sums<const T: usize> = [[Word; MAX_PAYLOADS]; T];

/// Most payloads of a key used here, the constant one included.
const MAX_PAYLOADS: usize = 3;

/// Expands every key once and returns the inner products, in order. Parallel over look-ups.
pub fn look_up<P: Party, const T: usize>(lookups: Vec<Lookup<'_, T>>) -> Result<Vec<Sums<T>>> {
    lookups
        .into_par_iter()
        .map_init(DotScratch::new, |scratch, l| {
            let m = l.key.shape().m();
            let mut flat = [Word::default(); 4 * MAX_PAYLOADS];
            l.key.dot_into(P::ROLE, l.rotation, &l.tables, scratch, &mut flat[..T * m])?;
            let mut sums = [[Word::default(); MAX_PAYLOADS]; T];
            sums.iter_mut().zip(flat.chunks(m)).for_each(|(sums, flat)| sums[..m].copy_from_slice(flat));
            Ok(sums)
        })
        .collect()
}

/// `PWL(x)` (A3) from the sums of the tables `A` and `B` and the opened `Δ = x − β`, `β` the first secret payload.
pub fn line<const T: usize>(delta: Word, sums: &Sums<T>) -> Word {
    let (a, b) = (&sums[0], &sums[1]);
    delta * a[0] + a[1] + b[0]
}
