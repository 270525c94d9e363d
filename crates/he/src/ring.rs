//! `R_q = Z_q[X]/(X^n + 1)` in residue number system: what the parameter sets of preprocessing
//! share, whatever their dimension and primes.

use cryptogen_ring::{kernels, Fp, Modulus, Ntt, Wiped};
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::encode::{Scaled, Terms};
use crate::sample::{self, ERROR_OFFSET, TERNARY_OFFSET};
use crate::shares::Conversion;

/// A ring with the constants that follow from its dimension and primes.
pub struct Ring {
    name: &'static str,
    log_n: u32,
    ntts: Vec<Ntt>,
    /// `q mod p`.
    pub(crate) q_mod_p: Fp,
    pub(crate) conversion: Conversion,
}

impl Ring {
    /// `name` is the parameter set's; shares are made as `conversion` says.
    pub(crate) fn new(name: &'static str, log_n: u32, primes: &[u32], conversion: Conversion) -> Ring {
        let moduli: Vec<Modulus> = primes.iter().map(|&q| Modulus::new(q)).collect();
        Ring {
            name,
            log_n,
            q_mod_p: primes.iter().fold(Fp::ONE, |product, &q| product * Fp::new(q as u64)),
            ntts: moduli.into_iter().map(|q| Ntt::new(q, log_n)).collect(),
            conversion,
        }
    }

    /// The parameter set's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The dimension.
    pub fn n(&self) -> usize {
        1 << self.log_n
    }

    /// Primes of `q`.
    pub fn limbs(&self) -> usize {
        self.ntts.len()
    }

    pub(crate) fn log_n(&self) -> u32 {
        self.log_n
    }

    pub(crate) fn ntt(&self, limb: usize) -> &Ntt {
        &self.ntts[limb]
    }

    pub(crate) fn modulus(&self, limb: usize) -> &Modulus {
        self.ntts[limb].modulus()
    }

    pub(crate) fn moduli(&self) -> impl Iterator<Item = &Modulus> {
        self.ntts.iter().map(Ntt::modulus)
    }

    /// Residues `[limbs][n]`, uniform, from a public seed.
    pub(crate) fn uniform(&self, seed: &[u8; 32]) -> Vec<u32> {
        sample::uniform(self.moduli(), self.n(), seed)
    }

    /// `−s` in the full domain, `[limbs][n]`, from the secret's coefficients plus 1.
    pub(crate) fn negated(&self, secret: &[u32]) -> Wiped<u32> {
        let mut out = Wiped::zeros(self.limbs() * self.n());
        for (limb, out) in out.chunks_exact_mut(self.n()).enumerate() {
            let q = self.modulus(limb);
            Terms::new(q).add(q.neg(1), secret).constant(TERNARY_OFFSET).add_to(out);
            self.ntt(limb).forward(out, 0..self.log_n);
        }
        out
    }

    /// `b = −a·s + e` in the full domain.
    pub(crate) fn zero(&self, negated: &[u32], a: &[u32], rng: &mut (impl RngCore + CryptoRng)) -> Vec<u32> {
        let (n, e) = (self.n(), sample::error(rng, self.n()));
        let mut b = vec![0; self.limbs() * n];
        for (limb, out) in b.chunks_exact_mut(n).enumerate() {
            let (q, range) = (self.modulus(limb), limb * n..(limb + 1) * n);
            Terms::new(q).add_offset(&e, ERROR_OFFSET).add_to(out);
            self.ntt(limb).forward(out, 0..self.log_n);
            kernels::multiply_add(q, &a[range.clone()], &negated[range], out);
        }
        b
    }

    /// A fresh ciphertext in the partial domain of `levels` levels: the seed of `a`, and `b`.
    pub(crate) fn encrypt(
        &self,
        negated: &[u32],
        message: &Scaled,
        levels: u32,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> ([u8; 32], Vec<u32>) {
        let n = self.n();
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut a = self.uniform(&seed);
        let error = sample::error(rng, n);
        let mut b = vec![0; self.limbs() * n];
        let mut product = Zeroizing::new(vec![0; n]);
        for (limb, out) in b.chunks_exact_mut(n).enumerate() {
            let (q, ntt, range) = (self.modulus(limb), self.ntt(limb), limb * n..(limb + 1) * n);
            // e + round(q·m/t), coefficients → partial domain.
            let r = message.residues(q);
            Terms::new(q).add_offset(&error, ERROR_OFFSET).add(message.weight(q), &r).add_to(out);
            ntt.forward(out, 0..levels);
            // −a·s: a goes on to the full domain, the product comes back.
            let a = &mut a[range.clone()];
            ntt.forward(a, levels..self.log_n);
            kernels::multiply(q, a, &negated[range], &mut product);
            ntt.inverse(&mut product, levels..self.log_n);
            Terms::new(q).add(1, &product).add_to(out);
        }
        (seed, b)
    }
}
