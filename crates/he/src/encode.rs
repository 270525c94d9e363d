//! Messages and multipliers as polynomials.

use cryptogen_ring::{kernels, Fp, Modulus, Wiped, P};
use zeroize::Zeroizing;

use crate::params::{Layout, Params, LIMBS};

/// A message modulo `t` on its way into ciphertexts: the numbers `r = [q·m]_t` of its coefficients
/// `m`, from which `round(q·m/t) ≡ −r·t^{−1}` modulo every prime (`q·m = t·round(q·m/t) + r` with
/// `|r| ≤ t/2`, and `q ≡ 0`). Exact, no rounding of its own.
pub(crate) struct Scaled {
    t: u64,
    r: Wiped<u64>,
}

impl Scaled {
    /// Of a message `[F][C]` modulo `p`.
    pub(crate) fn new(params: &Params, layout: Layout, message: &[Fp]) -> Scaled {
        let mut m = Zeroizing::new(message.to_vec());
        params.fp.inverse(&mut m, layout.log_f());
        Scaled::of(m, params.ring().q_mod_p)
    }

    /// From the message's coefficients modulo `p`, for any `q`.
    pub(crate) fn of(coefficients: Zeroizing<Vec<Fp>>, q_mod_p: Fp) -> Scaled {
        let r = coefficients.iter().map(|&x| (x * q_mod_p).value());
        Scaled::modulo(P, Wiped::new(r.collect()))
    }

    /// From `q·m`, canonical modulo `t`.
    pub(crate) fn modulo(t: u64, r: Wiped<u64>) -> Scaled {
        Scaled { t, r }
    }

    /// `r mod q_i`, which times [`Scaled::weight`] is the scaled message.
    pub(crate) fn residues(&self, q: &Modulus) -> Zeroizing<Vec<u32>> {
        let mut out = Zeroizing::new(vec![0; self.r.len()]);
        kernels::centred_residues(q, self.t, &self.r, &mut out);
        out
    }

    /// `−t^{−1} mod q_i`.
    pub(crate) fn weight(&self, q: &Modulus) -> u32 {
        q.neg(q.inv(q.reduce(self.t)))
    }
}

/// `out += Σ_j weight_j·values_j + constant` modulo one prime.
pub(crate) struct Terms<'a> {
    q: &'a Modulus,
    weights: Vec<u32>,
    values: Vec<&'a [u32]>,
    constant: u32,
}

impl<'a> Terms<'a> {
    pub(crate) fn new(q: &'a Modulus) -> Terms<'a> {
        Terms { q, weights: Vec::with_capacity(8), values: Vec::with_capacity(8), constant: 0 }
    }

    /// Adds `weight·values`; `weight` canonical, `values` any 32-bit numbers (15 terms at most).
    pub(crate) fn add(mut self, weight: u32, values: &'a [u32]) -> Self {
        self.weights.push(weight);
        self.values.push(values);
        self
    }

    /// Adds numbers that carry a positive offset, without it.
    pub(crate) fn add_offset(self, values: &'a [u32], offset: u32) -> Self {
        let minus = self.q.neg(self.q.reduce(offset as u64));
        self.add(1, values).constant(minus)
    }

    /// Adds the same residue everywhere.
    pub(crate) fn constant(mut self, value: u32) -> Self {
        self.constant = self.q.add(self.constant, value);
        self
    }

    pub(crate) fn add_to(self, out: &mut [u32]) {
        kernels::weighted_sum(self.q, &self.weights, &self.values, self.constant, out);
    }
}

/// Multipliers `[batch][F]` as residues of their polynomials in `Y = X^C`, in the slot domain
/// modulo each prime: `[LIMBS]` arrays `[F][batch]`. The polynomial modulo `p` is lifted to
/// `(−p/2, p/2)`: its size is what noise grows by.
pub(crate) struct Multipliers {
    pub(crate) limbs: Vec<Zeroizing<Vec<u32>>>,
}

impl Multipliers {
    pub(crate) fn new<'a>(
        params: &Params,
        layout: Layout,
        weights: impl ExactSizeIterator<Item = &'a [Fp]>,
    ) -> Multipliers {
        use rayon::prelude::*;
        let (f, batch) = (layout.slots(), weights.len());
        let mut transposed = Zeroizing::new(vec![Fp::ZERO; f * batch]);
        for (b, w) in weights.enumerate() {
            w.iter().enumerate().for_each(|(kappa, &x)| transposed[kappa * batch + b] = x);
        }
        params.fp.inverse(&mut transposed, layout.log_f());
        let limb = |i: usize| {
            let mut out = Zeroizing::new(vec![0; f * batch]);
            kernels::centred_residues(params.modulus(i), P, kernels::integers(&transposed), &mut out);
            params.ntt(i).forward(&mut out, 0..layout.log_f());
            out
        };
        Multipliers { limbs: (0..LIMBS).into_par_iter().map(limb).collect() }
    }
}
