//! Keys: the client's secret, and what the server needs to compute — a public key for encryptions
//! of zero, a relinearisation key and exactly the Galois keys of a plan.

use std::collections::{BTreeMap, BTreeSet};

use cryptogen_ring::{kernels, Prg, Seed};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::context::{Context, EXTENDED, LIMBS, RESIDUE_BITS};
use super::sample::uniform;
use crate::codec::{pack_bits, packed_bits, unpack_bits};
use crate::encode::Terms;
use crate::error::{check_length, HeError};
use crate::params::{LOG_N, N};
use crate::sample::{self, ERROR_OFFSET, TERNARY_OFFSET};

/// The ternary secret `s`. Wiped on drop; deliberately neither `Debug` nor `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey {
    #[zeroize(skip)]
    context: &'static Context,
    /// Coefficients plus 1, `[N]`.
    coefficients: Vec<u32>,
    /// `−s` in the transform domain, `[EXTENDED][N]`.
    negated: Vec<u32>,
}

impl SecretKey {
    /// Length of [`SecretKey::to_bytes`].
    pub const BYTES: usize = N / 4;

    /// A uniform ternary secret.
    pub fn generate(context: &'static Context, rng: &mut (impl RngCore + CryptoRng)) -> SecretKey {
        SecretKey::from_coefficients(context, sample::ternary(rng, N))
    }

    /// Two bits per coefficient: the coefficient plus 1.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        crate::keys::pack_ternary(&self.coefficients)
    }

    /// The inverse of [`SecretKey::to_bytes`].
    pub fn from_bytes(context: &'static Context, bytes: &[u8]) -> Result<SecretKey, HeError> {
        check_length("secret key", SecretKey::BYTES, bytes.len())?;
        Ok(SecretKey::from_coefficients(context, crate::keys::unpack_ternary(bytes)?))
    }

    /// Keys for relinearisation and for rotations by `steps`.
    pub fn evaluation_keys(
        &self,
        steps: &BTreeSet<usize>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> EvaluationKeys {
        let root = Seed::random(rng);
        let public = self.zero_key(&mut Prg::new(&root.derive("public key", 0)));
        let mut square = vec![0; LIMBS * N];
        for (limb, out) in square.chunks_exact_mut(N).enumerate() {
            let s = self.negated(limb);
            kernels::multiply(self.context.modulus(limb), s, s, out);
        }
        let relinearisation =
            self.switch_key(&square, None, &mut Prg::new(&root.derive("relinearisation key", 0)));
        // σ(s) → s, stored with σ^{−1} applied: see `Evaluator::hoist`.
        let plain: Vec<u32> = (0..LIMBS).flat_map(|limb| self.positive(limb)).collect();
        let galois = steps
            .par_iter()
            .map(|&step| {
                let mut prg = Prg::new(&root.derive("galois key", step as u64));
                (step, self.switch_key(&plain, Some(step), &mut prg))
            })
            .collect();
        EvaluationKeys { public, relinearisation, galois }
    }

    pub(super) fn context(&self) -> &'static Context {
        self.context
    }

    /// `−s` modulo one prime, transform domain.
    pub(super) fn negated(&self, limb: usize) -> &[u32] {
        &self.negated[limb * N..(limb + 1) * N]
    }

    fn positive(&self, limb: usize) -> Vec<u32> {
        let q = self.context.modulus(limb);
        self.negated(limb).iter().map(|&x| q.neg(x)).collect()
    }

    /// `(−a·s + e, a)`.
    fn zero_key(&self, rng: &mut Prg) -> PublicKey {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let (a, error) = (uniform(self.context, LIMBS, &seed), sample::error(rng, N));
        let mut b = vec![0; LIMBS * N];
        for (limb, out) in b.chunks_exact_mut(N).enumerate() {
            let q = self.context.modulus(limb);
            Terms::new(q).add_offset(&error, ERROR_OFFSET).add_to(out);
            self.context.ntt(limb).forward(out, 0..LOG_N);
            kernels::multiply_add(q, &a[limb * N..(limb + 1) * N], self.negated(limb), out);
        }
        PublicKey { seed, b, a }
    }

    /// For each prime `q_i` of `q` (a digit): `(−a_i·s' + e_i + P·g_i·from, a_i)` modulo `q·P`,
    /// where `g_i` is 1 modulo `q_i` and 0 modulo the others, and `s' = σ^{−1}(s)` for a rotation
    /// by `step`, `s' = s` without. `from`: `[LIMBS][N]`, transform domain.
    fn switch_key(&self, from: &[u32], step: Option<usize>, rng: &mut Prg) -> SwitchKey {
        let context = self.context;
        let inverse = step.map(|step| context.permutation(super::ROW - step % super::ROW));
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let a = expand_digits(context, &seed);
        let mut b = vec![0; LIMBS * EXTENDED * N];
        for (digit, b) in b.chunks_exact_mut(EXTENDED * N).enumerate() {
            let error = sample::error(rng, N);
            for (limb, out) in b.chunks_exact_mut(N).enumerate() {
                let q = context.modulus(limb);
                Terms::new(q).add_offset(&error, ERROR_OFFSET).add_to(out);
                context.ntt(limb).forward(out, 0..LOG_N);
                let s = self.negated(limb);
                let a = &a[(digit * EXTENDED + limb) * N..][..N];
                match &inverse {
                    None => kernels::multiply_add(q, a, s, out),
                    Some(from) => {
                        let s: Zeroizing<Vec<u32>> =
                            Zeroizing::new(from.iter().map(|&i| s[i as usize]).collect());
                        kernels::multiply_add(q, a, &s, out);
                    }
                }
                if limb == digit {
                    Terms::new(q).add(context.special[limb], &from[limb * N..(limb + 1) * N]).add_to(out);
                }
            }
        }
        SwitchKey { seed, b, a, permutation: step.map(|step| context.permutation(step)) }
    }

    fn from_coefficients(context: &'static Context, coefficients: Zeroizing<Vec<u32>>) -> SecretKey {
        let mut negated = vec![0; EXTENDED * N];
        for (limb, out) in negated.chunks_exact_mut(N).enumerate() {
            let q = context.modulus(limb);
            Terms::new(q).add(q.neg(1), &coefficients).constant(TERNARY_OFFSET).add_to(out);
            context.ntt(limb).forward(out, 0..LOG_N);
        }
        SecretKey { context, coefficients: coefficients.to_vec(), negated }
    }
}

/// An encryption of zero, to make others from.
pub(super) struct PublicKey {
    seed: [u8; 32],
    /// `[LIMBS][N]` each.
    pub(super) b: Vec<u32>,
    pub(super) a: Vec<u32>,
}

/// Takes a polynomial times `from` to a ciphertext under `s`; `[digit][EXTENDED][N]` each.
pub(super) struct SwitchKey {
    seed: [u8; 32],
    pub(super) b: Vec<u32>,
    pub(super) a: Vec<u32>,
    /// For a Galois key: the automorphism in the transform domain.
    pub(super) permutation: Option<Vec<u32>>,
}

/// Everything the server computes with; public apart from being about the client's key.
pub struct EvaluationKeys {
    pub(super) public: PublicKey,
    pub(super) relinearisation: SwitchKey,
    pub(super) galois: BTreeMap<usize, SwitchKey>,
}

const PUBLIC_BYTES: usize = 32 + packed_bits::<RESIDUE_BITS>(LIMBS * N);
const SWITCH_BYTES: usize = 32 + packed_bits::<RESIDUE_BITS>(LIMBS * EXTENDED * N);

impl EvaluationKeys {
    /// Length of [`EvaluationKeys::to_bytes`] with keys for `steps` rotations.
    pub const fn bytes(steps: usize) -> usize {
        PUBLIC_BYTES + (1 + steps) * SWITCH_BYTES
    }

    /// The rotations there are keys for.
    pub fn steps(&self) -> BTreeSet<usize> {
        self.galois.keys().copied().collect()
    }

    /// Public key, relinearisation key, Galois keys by increasing step; seeds instead of their
    /// uniform halves. The steps are not included: both parties know them from the plan.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(EvaluationKeys::bytes(self.galois.len()));
        out.extend_from_slice(&self.public.seed);
        pack_bits::<RESIDUE_BITS>(&self.public.b, &mut out);
        for key in [&self.relinearisation].into_iter().chain(self.galois.values()) {
            out.extend_from_slice(&key.seed);
            pack_bits::<RESIDUE_BITS>(&key.b, &mut out);
        }
        out
    }

    /// The inverse, checked.
    pub fn from_bytes(
        context: &Context,
        steps: &BTreeSet<usize>,
        bytes: &[u8],
    ) -> Result<EvaluationKeys, HeError> {
        check_length("evaluation keys", EvaluationKeys::bytes(steps.len()), bytes.len())?;
        let (public, switches) = bytes.split_at(PUBLIC_BYTES);
        let (relinearisation, galois) = switches.split_at(SWITCH_BYTES);
        let (seed, b) = public.split_at(32);
        let seed: [u8; 32] = seed.try_into().expect("split at 32");
        let moduli: [u32; LIMBS] = core::array::from_fn(|i| context.modulus(i).value());
        let b = unpack_bits::<RESIDUE_BITS>(&moduli, N, "public key", b)?;
        let steps: Vec<usize> = steps.iter().copied().collect();
        let galois = galois
            .par_chunks_exact(SWITCH_BYTES)
            .zip(steps)
            .map(|(bytes, step)| Ok((step, SwitchKey::from_bytes(context, bytes, Some(step))?)));
        Ok(EvaluationKeys {
            public: PublicKey { seed, b, a: uniform(context, LIMBS, &seed) },
            relinearisation: SwitchKey::from_bytes(context, relinearisation, None)?,
            galois: galois.collect::<Result<_, HeError>>()?,
        })
    }

    pub(super) fn galois_key(&self, step: usize) -> Result<&SwitchKey, HeError> {
        self.galois.get(&step).ok_or(HeError::MissingRotation { step, available: self.galois.len() })
    }
}

impl SwitchKey {
    fn from_bytes(context: &Context, bytes: &[u8], step: Option<usize>) -> Result<SwitchKey, HeError> {
        let (seed, b) = bytes.split_at(32);
        let seed: [u8; 32] = seed.try_into().expect("split at 32");
        let moduli: [u32; LIMBS * EXTENDED] = core::array::from_fn(|i| context.modulus(i % EXTENDED).value());
        let b = unpack_bits::<RESIDUE_BITS>(&moduli, N, "evaluation key", b)?;
        let permutation = step.map(|step| context.permutation(step));
        Ok(SwitchKey { seed, b, a: expand_digits(context, &seed), permutation })
    }
}

/// `[digit][EXTENDED][N]` uniform residues.
fn expand_digits(context: &Context, seed: &[u8; 32]) -> Vec<u32> {
    let root = Seed::from_bytes(*seed);
    (0..LIMBS)
        .flat_map(|digit| {
            let seed = root.derive("digit", digit as u64);
            uniform(context, EXTENDED, seed.expose())
        })
        .collect()
}
