//! `Linear(W)`: shares of `W·r'` of many matrices for many rows at once.
//!
//! Functionality: `r'` of each matrix → `y_c + y_s = W·r' + ε`, `[T, d_out]`; `|ε|` is a few units
//! ([`cryptogen_he::linear`]).
//! Source: `docs/protocols/preprocessed.md` §3.2; input–output packing as in Cheetah (USENIX
//! Security 2022, §4).
//! Inputs: client `r'`, `[T, d_in]` of each matrix, over `F_p` at the input's scale F, and its
//! lattice key; server `W`. Results at scale F + `f_w`.
//! Cost: for each matrix a message C→S for every `COLUMNS_AT_ONCE` columns and one S→C for about
//! `RESULTS_AT_ONCE` bytes of results; their bytes follow from its packing.
//! Material: spends none; makes the shares of `W·r'` of layers, heads and embeddings.
//! Leaks: nothing. The client alone has a key; results are hidden from it by full-width masks.
//!
//! 1. C→S `Enc(r')`, packed, some columns at a time. The server multiplies and forgets them.
//! 2. S→C `W·Enc(r')`, hidden, some rows at a time. What hides it gives `y_s`; the client finds
//!    `y_c`.
//!
//! The first columns of the next matrix travel before the results of the last one, so that both
//! parties work at the same time. Neither holds more of a matrix than a message, and the server the
//! columns that it multiplies.

use std::ops::Range;

use cryptogen_he::linear::{self, Inputs, Packing, INPUT_BYTES, OUTPUT_BYTES};
use cryptogen_he::shares::PublicKey;
use cryptogen_party::Channel;
use cryptogen_ring::{Fp, Prg};

use crate::error::Result;
use crate::material::EMBED_COLUMNS;
use crate::model::{Matrix, Plan, ServerModel};
use crate::share::Cost;

/// Columns of a matrix in a message: the inputs of 1024 rows are 96 MB on the server. Masks of an
/// embedding are expanded by as many.
const COLUMNS_AT_ONCE: usize = EMBED_COLUMNS;
/// Bytes of results in a message, or one result's.
const RESULTS_AT_ONCE: usize = 1 << 24;

/// What is multiplied at once.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// gives the shapes
    pub plan: &'a Plan,
    /// in this order
    pub matrices: &'a [Matrix],
    /// `T`
    pub rows: usize,
}

impl Batch<'_> {
    fn packing(&self, matrix: Matrix) -> Result<Packing> {
        packing(self.plan, matrix, self.rows)
    }

    /// All messages C→S, in order: a matrix and groups of its inputs.
    fn inputs(&self) -> Result<Vec<(Matrix, Range<usize>)>> {
        let mut messages = vec![];
        for &matrix in self.matrices {
            messages.extend(input_messages(&self.packing(matrix)?).map(|groups| (matrix, groups)));
        }
        Ok(messages)
    }
}

/// Groups of inputs that travel together. No group has inputs of two messages: both sizes are
/// powers of two.
fn input_messages(packing: &Packing) -> impl Iterator<Item = Range<usize>> {
    pieces(packing.inputs(), COLUMNS_AT_ONCE / packing.f_in())
}

/// Groups of results that travel together.
fn output_messages(packing: &Packing) -> impl Iterator<Item = Range<usize>> {
    pieces(packing.outputs(), RESULTS_AT_ONCE / OUTPUT_BYTES)
}

fn pieces(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size).map(move |start| start..(start + size).min(n))
}

fn packing(plan: &Plan, matrix: Matrix, rows: usize) -> Result<Packing> {
    let (d_out, d_in) = matrix.shape(plan);
    Ok(Packing::choose(rows, d_in, d_out)?)
}

/// Messages and bytes of `rows` rows.
///
/// # Errors
/// More rows or a larger matrix than can be packed.
pub fn cost(plan: &Plan, matrices: &[Matrix], rows: usize) -> Result<Cost> {
    let of_one = |matrix: &Matrix| {
        let packing = packing(plan, *matrix, rows)?;
        let messages = input_messages(&packing).count() + output_messages(&packing).count();
        let (client_bytes, server_bytes) = (packing.input_bytes(), packing.output_bytes());
        Ok(Cost { messages, client_bytes, server_bytes })
    };
    matrices.iter().map(of_one).sum()
}

/// Where shares go: those of some rows of a matrix, `[T, rows]`.
pub type Put<'a> = &'a mut dyn FnMut(Matrix, Range<usize>, &[Fp]) -> Result<()>;

/// Client. `input` makes `[T, columns]` of some columns of a matrix; `put` takes `y_c`; `done` is
/// told the number of matrices so far.
///
/// # Errors
/// Connection failures, malformed results, what `put` and `done` return.
pub fn client(
    ch: &mut dyn Channel,
    key: &linear::SecretKey,
    batch: Batch<'_>,
    input: impl Fn(Matrix, Range<usize>) -> Vec<Fp>,
    rng: &mut Prg,
    put: Put<'_>,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut sent = 0;
    let inputs = batch.inputs()?;
    let mut send = |ch: &mut dyn Channel, upto: usize| -> Result<()> {
        for (matrix, groups) in inputs.iter().take(upto).skip(sent) {
            let packing = batch.packing(*matrix)?;
            let x = input(*matrix, packing.columns(groups)?);
            ch.send(&key.encrypt(&packing, groups.clone(), &x, rng)?)?;
        }
        sent = sent.max(upto);
        Ok(())
    };
    let mut needed = 0;
    for (i, &matrix) in batch.matrices.iter().enumerate() {
        let packing = batch.packing(matrix)?;
        needed += input_messages(&packing).count();
        send(ch, needed + 1)?;
        for outputs in output_messages(&packing) {
            let results = ch.recv(outputs.len() * OUTPUT_BYTES)?;
            let rows = packing.rows(&outputs)?;
            put(matrix, rows, &key.shares(&packing, outputs, &results)?)?;
        }
        done(i as u64 + 1)?;
    }
    Ok(())
}

/// Server. `put` takes `y_s`; `done` is told the number of matrices so far.
///
/// # Errors
/// Connection failures, malformed ciphertexts, what `put` and `done` return.
pub fn server(
    ch: &mut dyn Channel,
    client_key: &PublicKey,
    batch: Batch<'_>,
    model: &ServerModel,
    rng: &mut Prg,
    put: Put<'_>,
    mut done: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut messages = batch.inputs()?.into_iter();
    let mut receive = |ch: &mut dyn Channel| -> Result<Option<Vec<u8>>> {
        messages.next().map(|(_, groups)| Ok(ch.recv(groups.len() * INPUT_BYTES)?)).transpose()
    };
    let mut waiting = receive(ch)?;
    for (i, &matrix) in batch.matrices.iter().enumerate() {
        let packing = batch.packing(matrix)?;
        let weights = |row: usize, out: &mut [i32]| model.row(matrix, row, out);
        let mut inputs = Inputs::new(packing);
        for at in 0..input_messages(&packing).count() {
            if at > 0 {
                inputs.absorb(weights);
            }
            if let Some(bytes) = waiting.take() {
                inputs.add(&bytes)?;
            }
            // The client sends the next inputs before it takes results.
            waiting = receive(ch)?;
        }
        for outputs in output_messages(&packing) {
            let rows = packing.rows(&outputs)?;
            let (results, shares) = linear::evaluate(&inputs, outputs, weights, client_key, rng)?;
            ch.send(&results)?;
            put(matrix, rows, &shares)?;
        }
        done(i as u64 + 1)?;
    }
    Ok(())
}
