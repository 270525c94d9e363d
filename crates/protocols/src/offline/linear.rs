//! `Linear(W)`: shares of `W·r'` of many matrices for many rows at once.
//!
//! Functionality: `r'` of each matrix → `y_c + y_s = W·r' + ε`, `[T, width]`, the outputs of all
//! matrices side by side; `|ε|` is a few units ([`cryptogen_he::linear`]).
//! Source: `docs/protocols/preprocessed.md` §3.2; input–output packing as in Cheetah (USENIX
//! Security 2022, §4).
//! Inputs: client `r'`, `[T, d_in]` of each matrix, over `F_p` at the input's scale F, and its
//! lattice key; server `W`. Results at scale F + `f_w`.
//! Cost: 2 messages for each matrix (C→S, S→C); their bytes follow from its packing.
//! Material: spends none; makes the shares of `W·r'` of slots, heads and embeddings.
//! Leaks: nothing. The client alone has a key; results are hidden from it by full-width masks.
//!
//! 1. C→S `Enc(r')`, packed.
//! 2. S→C `W·Enc(r')`, hidden. What hides it gives `y_s`; the client finds `y_c`.
//!
//! The inputs of the next matrix travel before the results of the last one, so that both parties
//! work at the same time.

use cryptogen_he::linear::{self, Packing};
use cryptogen_party::Channel;
use cryptogen_ring::{Fp, Prg, Seed};

use crate::error::Result;
use crate::model::{Matrices, Matrix, Plan, ServerModel};
use crate::share::Cost;

fn packing(plan: &Plan, matrix: Matrix, rows: usize) -> Packing {
    let (d_out, d_in) = matrix.shape(plan);
    Packing::cheapest(rows, d_in, d_out)
}

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, matrices: &Matrices, rows: usize) -> Cost {
    let packings = || matrices.iter().map(|(matrix, _)| packing(plan, matrix, rows));
    Cost {
        messages: 2 * matrices.len(),
        client_bytes: packings().map(|packing| packing.input_bytes()).sum(),
        server_bytes: packings().map(|packing| packing.result_bytes()).sum(),
    }
}

/// Client: returns `y_c` `[T, width]`. `input` makes the `[T, d_in]` of a matrix; calls `done` with
/// the number of matrices so far.
///
/// # Errors
/// Connection failures, malformed results, what `done` returns.
pub fn client(
    ch: &mut dyn Channel,
    key: &linear::SecretKey,
    plan: &Plan,
    matrices: &Matrices,
    rows: usize,
    mut input: impl FnMut(Matrix) -> Vec<Fp>,
    rng: &mut Prg,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Fp>> {
    let width = matrices.width();
    let mut y = vec![Fp::ZERO; rows * width];
    let mut inputs = matrices.iter().map(|(matrix, _)| {
        key.encrypt(&packing(plan, matrix, rows), &input(matrix), &Seed::random(rng))
    });
    if let Some(first) = inputs.next() {
        ch.send(&first)?;
    }
    for (i, (matrix, place)) in matrices.iter().enumerate() {
        if let Some(next) = inputs.next() {
            ch.send(&next)?;
        }
        let packing = packing(plan, matrix, rows);
        let shares = key.shares(&packing, &ch.recv(packing.result_bytes())?)?;
        put(&shares, place, &mut y, width);
        done(i as u64 + 1)?;
    }
    Ok(y)
}

/// Server: returns `y_s` `[T, width]`; calls `done` with the number of matrices so far.
///
/// # Errors
/// Connection failures, malformed ciphertexts, what `done` returns.
pub fn server(
    ch: &mut dyn Channel,
    client_key: &linear::PublicKey,
    plan: &Plan,
    model: &ServerModel,
    matrices: &Matrices,
    rows: usize,
    rng: &mut Prg,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Fp>> {
    let width = matrices.width();
    let mut y = vec![Fp::ZERO; rows * width];
    let mut packings = matrices.iter().map(|(matrix, _)| packing(plan, matrix, rows));
    let mut next = packings.next().map(|packing| ch.recv(packing.input_bytes())).transpose()?;
    for (i, (matrix, place)) in matrices.iter().enumerate() {
        let inputs = next.take().unwrap_or_default();
        let packing = packing(plan, matrix, rows);
        let weights = model.entries(plan, matrix);
        let (shares, bytes) = client_key.evaluate(&packing, &weights, &inputs, &Seed::random(rng))?;
        // Taken before the results leave: the client sends it first.
        next = packings.next().map(|packing| ch.recv(packing.input_bytes())).transpose()?;
        ch.send(&bytes)?;
        put(&shares, place, &mut y, width);
        done(i as u64 + 1)?;
    }
    Ok(y)
}

/// Puts one matrix's outputs `[T, d_out]` into their place in rows of all.
fn put(shares: &[Fp], place: std::ops::Range<usize>, y: &mut [Fp], width: usize) {
    for (y, share) in y.chunks_mut(width).zip(shares.chunks(place.len())) {
        y[place.clone()].copy_from_slice(share);
    }
}
