//! `Cross`: shares of element-wise products of the two parties' numbers.
//!
//! Functionality: `x_i` and `y_i` → `z_c + z_s = Σ_i x_i ⊙ y_i`.
//! Source: `docs/protocols/preprocessed.md` §3.3; BFV with one value per slot.
//! Inputs: client the `x_i`, server the `y_i`, `[terms][n]`, over `F_p`: masks, or shares at the
//! scale of `h'`, `h`, `g` or `up`. The products are exact.
//! Cost: 2 messages (C→S, S→C) per 32·8192 values. Bytes per 8192 values: 200 736 per term there,
//! [`RESULT_BYTES`] back.
//! Material: spends none; makes the products of a slot. The client's lattice key is the
//! connection's.
//! Leaks: nothing. The client alone has a key; results are hidden from it by full-width masks.
//!
//! 1. C→S `Enc(x_i)` under the client's key.
//! 2. S→C `Σ_i Enc(x_i)·y_i`, hidden. What hides it is `z_s`; the client finds `z_c`.

use cryptogen_he::shares::{PublicKey, RESULT_BYTES};
use cryptogen_he::{Combiner, Params, SecretKey, SeededCiphertext, N};
use cryptogen_party::Channel;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use crate::error::Result;
use crate::material::{client_shares, hide, slots};
use crate::share::Cost;

/// Outputs (of 8192 values) per exchange, which bounds memory.
const BATCH: usize = 32;

/// Messages and bytes of `n` values, each the sum of `terms` products.
pub fn cost(n: usize, terms: usize) -> Cost {
    let chunks = n.div_ceil(N);
    Cost {
        messages: 2 * chunks.div_ceil(BATCH),
        client_bytes: chunks * terms * SeededCiphertext::BYTES,
        server_bytes: chunks * RESULT_BYTES,
    }
}

fn padded(x: &[Fp], chunk: usize) -> Vec<Fp> {
    let mut v = x[chunk * N..x.len().min((chunk + 1) * N)].to_vec();
    v.resize(N, Fp::ZERO);
    v
}

/// Client: `x` holds one or more terms of equal length; returns `z_c`.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn client(ch: &mut dyn Channel, key: &SecretKey, x: &[Vec<Fp>], rng: &mut Prg) -> Result<Vec<Fp>> {
    let layout = slots(N);
    let n = x[0].len();
    let mut z = Vec::with_capacity(n);
    for first in (0..n.div_ceil(N)).step_by(BATCH) {
        let chunks: Vec<usize> = (first..n.div_ceil(N).min(first + BATCH)).collect();
        let seed = Seed::random(rng);
        let jobs: Vec<(usize, usize)> =
            chunks.iter().flat_map(|&c| (0..x.len()).map(move |i| (c, i))).collect();
        let bytes: Result<Vec<Vec<u8>>> = jobs
            .par_iter()
            .map(|&(c, i)| {
                let mut rng = Prg::new(&seed.derive("cross", (c * x.len() + i) as u64));
                Ok(key.encrypt(&padded(&x[i], c), layout, &mut rng)?.to_bytes())
            })
            .collect();
        ch.send(&bytes?.concat())?;
        let bytes = ch.recv(chunks.len() * RESULT_BYTES)?;
        z.extend(client_shares(key, layout, &bytes)?);
    }
    z.truncate(n);
    Ok(z)
}

/// Server: `y` has as many terms as the client's `x`; returns `z_s`.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn server(
    ch: &mut dyn Channel,
    params: &'static Params,
    client_key: &PublicKey,
    y: &[Vec<Fp>],
    rng: &mut Prg,
) -> Result<Vec<Fp>> {
    let layout = slots(N);
    let n = y[0].len();
    let mut z = Vec::with_capacity(n);
    for first in (0..n.div_ceil(N)).step_by(BATCH) {
        let chunks: Vec<usize> = (first..n.div_ceil(N).min(first + BATCH)).collect();
        let bytes = ch.recv(chunks.len() * y.len() * SeededCiphertext::BYTES)?;
        let seed = Seed::random(rng);
        let out: Vec<(Vec<Fp>, Vec<u8>)> = chunks
            .par_iter()
            .zip(bytes.par_chunks(y.len() * SeededCiphertext::BYTES))
            .map(|(&c, bytes)| {
                let mut combiner = Combiner::new(params, layout, 1);
                for (term, bytes) in y.iter().zip(bytes.chunks(SeededCiphertext::BYTES)) {
                    let ct = SeededCiphertext::from_bytes(params, layout, bytes)?.expand(params);
                    combiner.add_block(&[ct], &padded(term, c))?;
                }
                hide(client_key, combiner, &seed.derive("cross", c as u64))
            })
            .collect::<Result<_>>()?;
        let (shares, bytes): (Vec<_>, Vec<_>) = out.into_iter().unzip();
        ch.send(&bytes.concat())?;
        z.extend(shares.concat());
    }
    z.truncate(n);
    Ok(z)
}
