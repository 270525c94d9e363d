//! Ciphertexts between the parties: both directions of the conversion between shares and slots.
//!
//! Functionality: shares of `x` → `Enc(x)` with the server; `Enc(x)` with the server → shares of
//! `x`. Both are exact in the share field.
//! Source: CryptoGen (arXiv 2602.08798), which goes from shares to ciphertexts and back between
//! layers.
//! Inputs: client and server shares of `n` ciphertexts' slots, `[n][8192]`, over `F_p` at any
//! scale; the client its secret key.
//! Cost: 1 message each: C→S, or S→C; 205 KB per ciphertext.
//! Material: none.
//! Leaks: nothing. The server sees ciphertexts, the client values minus masks, whose noise is
//! flooded.
//!
//! To ciphertexts: the client encrypts its share, the server adds its own as a plaintext. To
//! shares: the server subtracts a uniform mask in every slot and floods; the client's share is what
//! it decrypts, the server's is the mask.

use cryptogen_he::evaluate::{
    Ciphertext, Context, Evaluator, MaskedCiphertext, SecretKey, SeededCiphertext, N,
};
use cryptogen_he::HeError;
use cryptogen_party::Channel;
use cryptogen_protocols::Result;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// One party's share of the slots of a ciphertext, wiped on drop.
pub(crate) type SlotShare = Zeroizing<Vec<Fp>>;

/// Client: encrypts its shares `slots(i)`, `i < n`, and sends them in one message.
pub(crate) fn encrypt(
    ch: &mut dyn Channel,
    key: &SecretKey,
    rng: &mut Prg,
    n: usize,
    slots: impl Fn(usize) -> SlotShare + Sync,
) -> Result<()> {
    let seed = Seed::random(rng);
    let one = |i: usize| {
        let mut rng = Prg::new(&seed.derive("encrypt", i as u64));
        Ok(key.encrypt(&slots(i), &mut rng)?.to_bytes())
    };
    let all = (0..n).into_par_iter().map(one).collect::<std::result::Result<Vec<_>, HeError>>()?;
    Ok(ch.send(&all.concat())?)
}

/// Server: receives `n` ciphertexts and adds its shares `slots(i)`.
pub(crate) fn receive(
    ch: &mut dyn Channel,
    n: usize,
    slots: impl Fn(usize) -> SlotShare + Sync,
) -> Result<Vec<Ciphertext>> {
    let context = Context::get();
    let bytes = ch.recv(n * SeededCiphertext::BYTES)?;
    let one = |(i, bytes): (usize, &[u8])| {
        let mut ct = SeededCiphertext::from_bytes(context, bytes)?.expand(context);
        ct.add_plain(context, &slots(i))?;
        Ok(ct)
    };
    Ok(bytes
        .par_chunks_exact(SeededCiphertext::BYTES)
        .enumerate()
        .map(one)
        .collect::<std::result::Result<_, HeError>>()?)
}

/// Server: sends ciphertexts minus fresh masks in one message; returns the masks, its shares.
pub(crate) fn mask(
    ch: &mut dyn Channel,
    evaluator: &Evaluator<'_>,
    rng: &mut Prg,
    ciphertexts: &[&Ciphertext],
) -> Result<Vec<SlotShare>> {
    let seed = Seed::random(rng);
    let one = |(i, ct): (usize, &&Ciphertext)| {
        let mut rng = Prg::new(&seed.derive("mask", i as u64));
        let masks = Zeroizing::new(rng.fp_vec(N));
        Ok((evaluator.mask(ct, &masks, &mut rng)?.to_bytes(), masks))
    };
    let all =
        ciphertexts.par_iter().enumerate().map(one).collect::<std::result::Result<Vec<_>, HeError>>()?;
    let (bytes, masks): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    ch.send(&bytes.concat())?;
    Ok(masks)
}

/// Client: receives `n` masked ciphertexts; returns what they hold, its shares.
pub(crate) fn decrypt(ch: &mut dyn Channel, key: &SecretKey, n: usize) -> Result<Vec<SlotShare>> {
    let bytes = ch.recv(n * MaskedCiphertext::BYTES)?;
    let one = |b: &[u8]| Ok(key.decrypt(&MaskedCiphertext::from_bytes(Context::get(), b)?));
    Ok(bytes
        .par_chunks_exact(MaskedCiphertext::BYTES)
        .map(one)
        .collect::<std::result::Result<_, HeError>>()?)
}
