//! `Linear(W)`: shares of `W·r'` of many matrices for many rows at once.
//!
//! Functionality: `r'` of each matrix → `y_c + y_s = W·r'`, `[T, width]`, the outputs of all
//! matrices side by side, `y_c` uniform.
//! Source: `docs/protocols/preprocessed.md` §3.2.
//! Inputs: client `r'`, `[T, d_in]` of each matrix, over `F_p` at the input's scale F, and the
//! encrypted model; server its lattice key. Results at scale F + `f_w`.
//! Cost: C→S a message per group ([`crate::material::packing`]) and 64 rows; 149 504 bytes per row
//! and group.
//! Material: spends none, the encrypted model stays; makes the shares of `W·r'` of slots and heads.
//! Leaks: nothing. Combinations are masked, re-randomised and flooded.
//!
//! 1. Client: `ct = Σ_k r'_k ⊙ Enc(W)_k − mask` for every group, re-randomised, flooded,
//!    modulus-switched.
//! 2. Server: decrypts; both add up the slots of every block: `y_c[o] = Σ_copies mask[copy][o]`.

use std::collections::BTreeMap;

use cryptogen_he::{Combiner, MaskedCiphertext, Params, PublicKey, SecretKey, N};
use cryptogen_party::Channel;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::pipeline::pipeline;
use crate::error::Result;
use crate::material::packing::{Group, Packed};
use crate::material::{decrypt_all, EncryptedModel};
use crate::model::Site;
use crate::share::Cost;

/// Ciphertexts expanded at a time (0.46 MB each).
const EXPANDED: usize = 64;
/// Rows of a message (0.46 MB of sums each). All rows of a call are combined in one pass over the
/// model.
const ROWS: usize = 64;

/// Messages and bytes of `rows` rows.
pub fn cost(packed: &Packed, rows: usize) -> Cost {
    let groups = packed.groups.len();
    let messages = groups * rows.div_ceil(ROWS);
    Cost { messages, client_bytes: groups * rows * MaskedCiphertext::BYTES, server_bytes: 0 }
}

/// What the client brings to every call: the server's public key and its copy of the model.
pub struct ClientSide<'a> {
    /// parameters of the key
    pub params: &'static Params,
    /// the key that hides what is sent
    pub server_key: &'a PublicKey,
    /// its copy of the encrypted model
    pub model: &'a EncryptedModel,
}

/// Client: returns `y_c` `[T, width]`. `input(site)` makes the `[T, d_in]` of a matrix, more than
/// once if it lies in several groups. Sends a message while it makes the next one; calls `done`
/// with the number of groups so far.
///
/// # Errors
/// Connection failures, unreadable encrypted model, what `done` returns.
pub fn client(
    ch: &mut dyn Channel,
    from: &ClientSide<'_>,
    packed: &Packed,
    rows: usize,
    mut input: impl FnMut(Site) -> Vec<Fp>,
    rng: &mut Prg,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Fp>> {
    let width = packed.width();
    let mut y = vec![Fp::ZERO; rows * width];
    for (i, group) in packed.groups.iter().enumerate() {
        let mut inputs: BTreeMap<Site, Vec<Fp>> = BTreeMap::new();
        for block in &group.blocks {
            inputs.entry(block.site).or_insert_with(|| input(block.site));
        }
        let of_blocks: Vec<&[Fp]> = group.blocks.iter().map(|block| &inputs[&block.site][..]).collect();
        let combiners = combine_group(from, group, &of_blocks, rows)?;
        let mut out = y.chunks_mut(ROWS * width);
        pipeline(
            combiners.into_iter().map(|combiner| Ok((combiner, Seed::random(rng)))),
            |(combiner, seed)| mask_and_flood(from.server_key, combiner, &seed),
            |(masks, bytes)| {
                ch.send(&bytes)?;
                add_slots(group, width, &masks, out.next().unwrap_or_default());
                Ok(())
            },
        )?;
        done(i as u64 + 1)?;
    }
    Ok(y)
}

/// `Σ_k r'_k ⊙ Enc(W)_k` of one group, [`ROWS`] rows in each combiner. `inputs`: `[T, d_in]` of
/// each block.
fn combine_group(
    from: &ClientSide<'_>,
    group: &Group,
    inputs: &[&[Fp]],
    rows: usize,
) -> Result<Vec<Combiner>> {
    let (f, d_in) = (group.slots(), group.d_in());
    let firsts = || (0..rows).step_by(ROWS);
    let combiner = |first: usize| Combiner::new(from.params, group.layout(), ROWS.min(rows - first));
    let mut combiners: Vec<Combiner> = firsts().map(combiner).collect();
    for k in (0..group.count()).step_by(EXPANDED) {
        let range = k..group.count().min(k + EXPANDED);
        let (start, end) = (group.start + range.start, group.start + range.end);
        let cts = from.model.read(from.params, group.layout(), start..end)?;
        for (combiner, first) in combiners.iter_mut().zip(firsts()) {
            let mut w = vec![Fp::ZERO; combiner.results() * range.len() * f];
            w.par_chunks_mut(range.len() * f).enumerate().for_each(|(i, w)| {
                group.multipliers(range.clone(), |block| &inputs[block][(first + i) * d_in..], w);
            });
            combiner.add_block(&cts, &w)?;
        }
    }
    Ok(combiners)
}

/// Server: returns `y_s` `[T, width]`. Decrypts a message while it receives the next one; calls
/// `done` with the number of groups so far.
///
/// # Errors
/// Connection failures, malformed ciphertexts, what `done` returns.
pub fn server(
    ch: &mut dyn Channel,
    params: &'static Params,
    key: &SecretKey,
    packed: &Packed,
    rows: usize,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Fp>> {
    let width = packed.width();
    let mut y = vec![Fp::ZERO; rows * width];
    let firsts = (0..rows).step_by(ROWS);
    let places =
        packed.groups.iter().enumerate().flat_map(|group| firsts.clone().map(move |first| (group, first)));
    pipeline(
        places.map(|(group, first)| {
            Ok((group, first, ch.recv(ROWS.min(rows - first) * MaskedCiphertext::BYTES)?))
        }),
        |(group, first, bytes)| Ok((group, first, decrypt_all(params, key, group.1.layout(), &bytes)?)),
        |((i, group), first, values)| {
            let n = values.len() / N;
            add_slots(group, width, &values, &mut y[first * width..][..n * width]);
            if first + n == rows {
                done(i as u64 + 1)?;
            }
            Ok(())
        },
    )?;
    Ok(y)
}

/// Subtracts fresh uniform masks from combinations and hides what they are made of; returns the
/// masks `[n][N]` and the message.
pub(crate) fn mask_and_flood(key: &PublicKey, combiner: Combiner, seed: &Seed) -> Result<(Vec<Fp>, Vec<u8>)> {
    let mut masks = vec![Fp::ZERO; combiner.results() * N];
    masks
        .par_chunks_mut(N)
        .enumerate()
        .for_each(|(i, mask)| Prg::new(&seed.derive("mask", i as u64)).fill_fp(mask));
    let params = combiner.params();
    let out = combiner.finish(key, &masks, &mut Prg::new(&seed.derive("combiner", 0)))?;
    let mut bytes = vec![0; out.len() * MaskedCiphertext::BYTES];
    bytes
        .par_chunks_mut(MaskedCiphertext::BYTES)
        .zip(&out)
        .for_each(|(bytes, ct)| bytes.copy_from_slice(&ct.to_bytes(params)));
    Ok((masks, bytes))
}

/// Adds decrypted results `[rows][N]` of a group to rows of `width` outputs.
fn add_slots(group: &Group, width: usize, values: &[Fp], y: &mut [Fp]) {
    values.par_chunks(N).zip(y.par_chunks_mut(width)).for_each(|(values, y)| group.add(values, y));
}
