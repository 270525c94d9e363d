//! The key owner's side: encrypted inputs, and its shares of the results.

use core::ops::Range;

use cryptogen_ring::{Fp, Prg, Seed, Wiped};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::packing::{transposed, Packing};
use super::{Params, INPUT_BYTES, LIMBS, N, OUTPUT_BYTES};
use crate::codec::pack;
use crate::encode::Scaled;
use crate::error::{check_length, HeError};
use crate::sample;
use crate::shares::{field, owner_share, ClientWork, Nonces, PublicKey};

/// The ternary secret. Shares that it opens must not be encrypted under it: values that depend on
/// it belong under another key. Wiped on drop; deliberately neither `Debug` nor `Clone`, without
/// codec.
pub struct SecretKey {
    /// `−s` in the full domain, `[LIMBS][N]`.
    negated: Wiped<u32>,
}

impl SecretKey {
    /// A uniform ternary secret.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> SecretKey {
        SecretKey { negated: Params::get().ring().negated(&sample::ternary(rng, N)) }
    }

    /// The public key for results as shares.
    pub fn public_key(&self, nonces: &Nonces, rng: &mut (impl RngCore + CryptoRng)) -> PublicKey {
        PublicKey::generate(Params::get().ring(), &self.negated, nonces, rng)
    }

    /// `−s`, `[LIMBS][N]`.
    pub(crate) fn negated(&self) -> &[u32] {
        &self.negated
    }

    /// Encrypts the input groups `groups`, [`INPUT_BYTES`] each, from the inputs `x`
    /// `[tokens][columns]` that they hold ([`Packing::columns`]). Errors: a length, a range that is
    /// not within the groups.
    pub fn encrypt(
        &self,
        packing: &Packing,
        groups: Range<usize>,
        x: &[Fp],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<u8>, HeError> {
        let columns = packing.columns(&groups)?;
        check_length("inputs", packing.tokens() * columns.len(), x.len())?;
        let ring = Params::get().ring();
        let (seed, f_in, t) = (Seed::random(rng), packing.f_in(), packing.padded());
        let encrypt = |k: usize| {
            let mut message = Zeroizing::new(vec![Fp::ZERO; N]);
            let features = k * f_in - columns.start..((k + 1) * f_in).min(columns.end) - columns.start;
            for (tau, x) in x.chunks_exact(columns.len()).enumerate() {
                x[features.clone()].iter().enumerate().for_each(|(i, &x)| message[i * t + tau] = x);
            }
            let scaled = Scaled::of(message, ring.q_mod_p);
            let mut prg = Prg::new(&seed.derive("encrypt", k as u64));
            let (seed, b) = ring.encrypt(&self.negated, &scaled, packing.levels(), &mut prg);
            let mut bytes = Vec::with_capacity(INPUT_BYTES);
            bytes.extend_from_slice(&seed);
            pack(&b, &mut bytes);
            bytes
        };
        Ok(groups.into_par_iter().flat_map_iter(encrypt).collect())
    }

    /// The shares `[tokens][rows]` of the rows of the output groups `outputs`, from their results,
    /// [`OUTPUT_BYTES`] each; any bytes are some shares. Errors: a length, a range that is not
    /// within the groups.
    pub fn shares(
        &self,
        packing: &Packing,
        outputs: Range<usize>,
        results: &[u8],
    ) -> Result<Vec<Fp>, HeError> {
        let rows = packing.rows(&outputs)?.len();
        check_length("results", outputs.len() * OUTPUT_BYTES, results.len())?;
        let ring = Params::get().ring();
        let (tokens, f_out) = (packing.tokens(), packing.f_out());
        let mut by_row = Wiped::new(vec![Fp::ZERO; outputs.len() * f_out * tokens]);
        let each = results.par_chunks_exact(OUTPUT_BYTES).zip(by_row.par_chunks_exact_mut(f_out * tokens));
        let room = || (ClientWork::new(ring), Wiped::zeros(N));
        each.try_for_each_init(room, |(work, all), (result, by_row)| {
            owner_share(ring, &self.negated, result, work, |i, y| all[i] = field(y))?;
            for (j, row) in by_row.chunks_exact_mut(tokens).enumerate() {
                let start = packing.coefficient(j);
                row.copy_from_slice(&all[start..start + tokens]);
            }
            Ok(())
        })?;
        Ok(transposed(&by_row, tokens, rows))
    }
}

const _: () = assert!(INPUT_BYTES == 32 + crate::codec::packed_bytes(LIMBS * N));
