//! `Linear(W)`: shares of `W·r'` of many matrices for many rows at once.
//!
//! Functionality: `r'` of each matrix → `y_c + y_s = W·r' + ε`, `[T, width]`, the outputs of all
//! matrices side by side; `|ε|` is a few units ([`cryptogen_he::linear`]).
//! Source: `docs/protocols/preprocessed.md` §3.2; input–output packing as in Cheetah (USENIX
//! Security 2022, §4).
//! Inputs: client `r'`, `[T, d_in]` of each matrix, over `F_p` at the input's scale F, and its
//! lattice key; server `W`. Results at scale F + `f_w`.
//! Cost: 2 messages for each matrix (C→S, S→C); their bytes follow from its packing.
//! Material: spends none; makes the shares of `W·r'` of layers, heads and embeddings.
//! Leaks: nothing. The client alone has a key; results are hidden from it by full-width masks.
//!
//! 1. C→S `Enc(r')`, packed.
//! 2. S→C `W·Enc(r')`, hidden. What hides it gives `y_s`; the client finds `y_c`.
//!
//! The inputs of the next matrix travel before the results of the last one, so that both parties
//! work at the same time.

use cryptogen_he::linear::{self, Inputs, Packing};
use cryptogen_he::shares::PublicKey;
use cryptogen_party::Channel;
use cryptogen_ring::{Fp, Prg};

use crate::error::Result;
use crate::model::{Matrices, Matrix, Plan, ServerModel};
use crate::share::Cost;

/// What is multiplied at once.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// gives the shapes
    pub plan: &'a Plan,
    /// in the order of their outputs
    pub matrices: &'a Matrices,
    /// `T`
    pub rows: usize,
}

impl Batch<'_> {
    fn packing(&self, matrix: Matrix) -> Result<Packing> {
        packing(self.plan, matrix, self.rows)
    }
}

fn packing(plan: &Plan, matrix: Matrix, rows: usize) -> Result<Packing> {
    let (d_out, d_in) = matrix.shape(plan);
    Ok(Packing::choose(rows, d_in, d_out)?)
}

/// Messages and bytes of `rows` rows.
///
/// # Errors
/// More rows or a larger matrix than can be packed.
pub fn cost(plan: &Plan, matrices: &Matrices, rows: usize) -> Result<Cost> {
    let of_one = |(matrix, _)| {
        let packing = packing(plan, matrix, rows)?;
        let (client_bytes, server_bytes) = (packing.input_bytes(), packing.output_bytes());
        Ok(Cost { messages: 2, client_bytes, server_bytes })
    };
    matrices.iter().map(of_one).sum()
}

/// Client: returns `y_c` `[T, width]`. `input` makes the `[T, d_in]` of a matrix; calls `done` with
/// the number of matrices so far.
///
/// # Errors
/// Connection failures, malformed results, what `done` returns.
pub fn client(
    ch: &mut dyn Channel,
    key: &linear::SecretKey,
    batch: Batch<'_>,
    mut input: impl FnMut(Matrix) -> Vec<Fp>,
    rng: &mut Prg,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Fp>> {
    let Batch { matrices, rows, .. } = batch;
    let width = matrices.width();
    let mut y = vec![Fp::ZERO; rows * width];
    let mut inputs = matrices.iter().map(|(matrix, _)| -> Result<Vec<u8>> {
        let packing = batch.packing(matrix)?;
        Ok(key.encrypt(&packing, 0..packing.inputs(), &input(matrix), rng)?)
    });
    if let Some(first) = inputs.next() {
        ch.send(&first?)?;
    }
    for (i, (matrix, place)) in matrices.iter().enumerate() {
        if let Some(next) = inputs.next() {
            ch.send(&next?)?;
        }
        let packing = batch.packing(matrix)?;
        let shares = key.shares(&packing, 0..packing.outputs(), &ch.recv(packing.output_bytes())?)?;
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
    client_key: &PublicKey,
    batch: Batch<'_>,
    model: &ServerModel,
    rng: &mut Prg,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Fp>> {
    let Batch { matrices, rows, .. } = batch;
    let width = matrices.width();
    let mut y = vec![Fp::ZERO; rows * width];
    let mut waiting = None;
    for (i, (matrix, place)) in matrices.iter().enumerate() {
        let inputs = match waiting.take() {
            Some(inputs) => inputs,
            None => receive(ch, batch.packing(matrix)?)?,
        };
        let outputs = 0..inputs.packing().outputs();
        let weights = |row: usize, out: &mut [i32]| model.row(matrix, row, out);
        let (results, shares) = linear::evaluate(&inputs, outputs, weights, client_key, rng)?;
        drop(inputs);
        // The client sends the next inputs before it takes these results.
        if let Some((next, _)) = matrices.iter().nth(i + 1) {
            waiting = Some(receive(ch, batch.packing(next)?)?);
        }
        ch.send(&results)?;
        put(&shares, place, &mut y, width);
        done(i as u64 + 1)?;
    }
    Ok(y)
}

/// Server: the encrypted inputs of one matrix.
fn receive(ch: &mut dyn Channel, packing: Packing) -> Result<Inputs> {
    let bytes = ch.recv(packing.input_bytes())?;
    let mut inputs = Inputs::new(packing);
    inputs.add(&bytes)?;
    Ok(inputs)
}

/// Puts one matrix's outputs `[T, d_out]` into their place in rows of all.
fn put(shares: &[Fp], place: std::ops::Range<usize>, y: &mut [Fp], width: usize) {
    for (y, share) in y.chunks_mut(width).zip(shares.chunks(place.len())) {
        y[place.clone()].copy_from_slice(share);
    }
}
