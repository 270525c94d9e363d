//! The server's workbench: keys, and a count of what was done with them.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptogen_ring::kernels;

use super::ciphertext::{Ciphertext, Domain};
use super::context::{Context, LIMBS};
use super::encode::Plaintext;
use super::keys::EvaluationKeys;
use super::noise::Noise;
use crate::error::{check_length, HeError};
use crate::params::N;

/// Operations done so far.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Products with plaintexts.
    pub ct_pt: u64,
    /// Products of ciphertexts (relinearised together where they are summed).
    pub ct_ct: u64,
    /// Rotations on their own.
    pub rotations: u64,
    /// Rotations that shared a decomposition.
    pub hoisted_rotations: u64,
    /// Relinearisations.
    pub relinearisations: u64,
    /// Ciphertexts masked and returned.
    pub masked: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub ct_pt: AtomicU64,
    pub ct_ct: AtomicU64,
    pub rotations: AtomicU64,
    pub hoisted_rotations: AtomicU64,
    pub relinearisations: AtomicU64,
    pub masked: AtomicU64,
}

/// Computes on ciphertexts of one key. Shared between threads.
pub struct Evaluator<'a> {
    pub(super) context: &'a Context,
    pub(super) keys: &'a EvaluationKeys,
    pub(super) counters: Counters,
}

pub(super) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

impl<'a> Evaluator<'a> {
    /// A workbench with its counters at zero.
    pub fn new(context: &'a Context, keys: &'a EvaluationKeys) -> Evaluator<'a> {
        Evaluator { context, keys, counters: Counters::default() }
    }

    /// What was done since [`Evaluator::new`].
    pub fn operations(&self) -> Operations {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        Operations {
            ct_pt: read(&c.ct_pt),
            ct_ct: read(&c.ct_ct),
            rotations: read(&c.rotations),
            hoisted_rotations: read(&c.hoisted_rotations),
            relinearisations: read(&c.relinearisations),
            masked: read(&c.masked),
        }
    }

    /// `Σ_i ct_i ⊙ pt_i`, reduced once. Errors: as many ciphertexts as plaintexts are expected.
    pub fn dot_plain(&self, cts: &[&Ciphertext], pts: &[&Plaintext]) -> Result<Ciphertext, HeError> {
        check_length("plaintexts", cts.len(), pts.len())?;
        let cts: Vec<_> = cts.iter().map(|ct| ct.transformed(self.context)).collect();
        let mut c = [vec![0; LIMBS * N], vec![0; LIMBS * N]];
        let [c0, c1] = &mut c;
        c0.chunks_exact_mut(N).zip(c1.chunks_exact_mut(N)).enumerate().for_each(|(limb, (c0, c1))| {
            let x: Vec<&[u32]> = pts.iter().map(|pt| pt.limb(limb)).collect();
            let y = [0, 1].map(|component| cts.iter().map(|ct| ct.limb(component, limb)).collect::<Vec<_>>());
            kernels::multiply_sum(self.context.modulus(limb), &x, [&y[0], &y[1]], [c0, c1]);
        });
        count(&self.counters.ct_pt, pts.len());
        let noise = cts.iter().fold(Noise::none(), |sum, ct| sum + ct.noise.times_plain());
        Ok(Ciphertext { c, domain: Domain::Transform, noise })
    }
}
