//! Secret table look-ups: `index = ρ + α` with `ρ` opened and `α` shared inside a key.
//!
//! Functionality: a key of payloads `(1, β_1, …)` → shares of `T[index]` and `β_i·T[index]` for
//! each public table `T`. With `Δ = x − β` opened, `T[index]·x = Δ·T[index] + β·T[index]` needs no
//! further message (piecewise-linear functions, A3).
//! Source: `docs/protocols/preprocessed.md` §4.
//! Inputs: both the rotation `ρ`, modulo `2^k`, and public tables of `2^k` integers below `2^46`.
//! All results are modulo `2^64`; shares over `F_p` come in by [`lift`](crate::share::local::lift)
//! and leave by [`trunc_word`](crate::share::local::trunc_word) (A6).
//! Cost: no message of its own. In the caller's, from each party 2 bytes for its rotation and 8 for
//! an argument.
//! Material: a key per look-up, which consumes it.
//! Leaks: nothing. `ρ` and `Δ` are padded by `α` and `β`.

use cryptogen_ot::{DotScratch, Table, TableKey};
use cryptogen_party::Party;
use cryptogen_ring::Word;
use rayon::prelude::*;

use crate::error::{ProtocolError, Result};
use crate::material::TableKeys;

/// Look-ups in one parallel task.
const TASK: usize = 32;

/// One look-up of a few: a key, its opened rotation, and the tables wanted.
pub struct Lookup<'a, const N: usize> {
    /// consumed by the look-up
    pub key: TableKey,
    /// `ρ`, both parties' together
    pub rotation: u32,
    /// public, of `2^k` entries
    pub tables: [&'a Table; N],
}

/// Expands every key once and returns the inner products `[tables][m]`, in order. Parallel over
/// look-ups.
pub fn look_up<P: Party, const N: usize>(lookups: Vec<Lookup<'_, N>>) -> Result<Vec<Vec<Word>>> {
    lookups
        .into_par_iter()
        .map_init(DotScratch::new, |scratch, l| {
            let mut out = vec![Word::default(); N * l.key.shape().m()];
            l.key.dot_into(P::ROLE, l.rotation, &l.tables, scratch, &mut out)?;
            Ok(out)
        })
        .collect()
}

/// Expands all keys of `keys`, with their opened `rotations`, and returns the inner products
/// `[keys][tables][m]`. The `n`-th key of all looks up in `sets[of(n)]`; all sets have one size.
/// Keys are parsed here, in parallel, and wiped when all are done.
pub fn look_up_all<P: Party>(
    keys: Vec<TableKeys>,
    rotations: &[u32],
    sets: &[Vec<&Table>],
    of: impl Fn(usize) -> usize + Sync,
) -> Result<Vec<Word>> {
    let width = sets.first().map_or(0, Vec::len) * keys.first().map_or(0, |keys| keys.shape().m());
    let mut out = vec![Word::default(); rotations.len() * width];
    let (mut first, mut rest, mut tasks) = (0, &mut out[..], vec![]);
    for keys in &keys {
        for records in keys.bytes().chunks(TASK * keys.stride()) {
            let n = records.len() / keys.stride();
            let rotations = rotations.get(first..first + n).ok_or_else(too_few)?;
            let (sums, others) = std::mem::take(&mut rest).split_at_mut(n * width);
            tasks.push((keys, records, first, rotations, sums));
            (first, rest) = (first + n, others);
        }
    }
    tasks.into_par_iter().try_for_each_init(
        DotScratch::new,
        |scratch, (keys, records, first, rotations, sums)| {
            let records = records.chunks_exact(keys.stride());
            for (i, ((record, d), out)) in records.zip(rotations).zip(sums.chunks_mut(width)).enumerate() {
                let (key, tables) = (keys.parse(record)?, &sets[of(first + i)]);
                key.dot_into(P::ROLE, *d, tables, scratch, out)?;
            }
            Ok::<_, ProtocolError>(())
        },
    )?;
    Ok(out)
}

/// `PWL(x)` (A3) from a key's sums `[tables A, B, …][m]` and the opened `Δ = x − β`, `β` the first
/// secret payload.
pub fn line(delta: Word, sums: &[Word], m: usize) -> Word {
    let (a, b) = (&sums[..m], &sums[m..]);
    delta * a[0] + a[1] + b[0]
}

fn too_few() -> ProtocolError {
    ProtocolError::bug("rotations", "one per table key", "fewer")
}
