//! Secret table look-ups: `index = d + α` with `d` opened and `α` shared inside a DPF key.
//!
//! A key of payloads `(1, β_1, …)` yields shares of `T[index]` and `β_i·T[index]`; with `Δ = x − β` opened,
//! `T[index]·x = Δ·T[index] + β·T[index]` needs no further message (piecewise-linear functions, A3).

use cryptogen_mpc::party::Party;
use cryptogen_ot::{DotScratch, Role, TableKey};
use cryptogen_ring::trunc::{index_client, index_server, trunc_client, trunc_server};
use cryptogen_ring::Fp;
use rayon::prelude::*;

use crate::error::Result;

/// A1 on this party's share.
pub fn trunc<P: Party>(x: Fp, k: u32) -> Fp {
    match P::ROLE {
        Role::Client => trunc_client(x, k),
        Role::Server => trunc_server(x, k),
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

/// One look-up: a key, its opened rotation, and the terms `(payload, table)` wanted.
pub struct Lookup<'a> {
    pub key: TableKey,
    pub rotation: u32,
    pub terms: Vec<(usize, &'a [i64])>,
}

/// Expands every key once and returns the inner products, in order. Parallel over look-ups.
pub fn look_up<P: Party>(lookups: Vec<Lookup<'_>>) -> Result<Vec<Vec<Fp>>> {
    lookups
        .into_par_iter()
        .map_init(DotScratch::new, |scratch, l| {
            let mut out = vec![Fp::ZERO; l.terms.len()];
            l.key.dot_into(P::ROLE, l.rotation, &l.terms, scratch, &mut out)?;
            Ok(out)
        })
        .collect()
}
