//! Element-by-element loops.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::modulus::{Factor, Modulus};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[inline(always)]
pub(super) fn multiply_add(q: &Modulus, x: &[u32], y: &[u32], out: &mut [u32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths disagree");
    for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *o = q.reduce(x as u64 * y as u64 + *o as u64);
    }
}

#[inline(always)]
pub(super) fn multiply(q: &Modulus, x: &[u32], y: &[u32], out: &mut [u32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths disagree");
    for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *o = q.mul(x, y);
    }
}

#[inline(always)]
pub(super) fn centred_residues(q: &Modulus, t: u64, x: &[u64], out: &mut [u32]) {
    assert!(x.len() == out.len(), "lengths disagree");
    let t_mod = q.reduce(t);
    for (o, &x) in out.iter_mut().zip(x) {
        // t is subtracted from the upper half; a mask instead of a branch, since x may be secret.
        let mask = ((x > t / 2) as u32).wrapping_neg();
        *o = q.sub(q.reduce(x), t_mod & mask);
    }
}

#[inline(always)]
pub(super) fn drop_limb(q: &Modulus, last: &Modulus, w: Factor, x: &[u32], out: &mut [u32]) {
    assert!(x.len() == out.len(), "lengths disagree");
    let l = last.value();
    assert!(l < 2 * q.value(), "limbs differ by a factor of two");
    let l_mod = q.below_q(l);
    for (o, &x) in out.iter_mut().zip(x) {
        let mask = ((x > l / 2) as u32).wrapping_neg();
        let centred = q.sub(q.below_q(x), l_mod & mask);
        *o = q.mul_factor(q.sub(*o, centred), w);
    }
}

#[inline(always)]
pub(super) fn lift(q: &Modulus, last: &Modulus, x: &[u32], out: &mut [u32]) {
    assert!(x.len() == out.len(), "lengths disagree");
    let l = last.value();
    let l_mod = q.reduce(l as u64);
    let lift = |x: u32, reduced: u32| q.sub(reduced, l_mod & ((x > l / 2) as u32).wrapping_neg());
    if l < 2 * q.value() {
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = lift(x, q.below_q(x)));
    } else {
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = lift(x, q.reduce(x as u64)));
    }
}

#[inline(always)]
pub(super) fn subtract_scale(q: &Modulus, w: Factor, x: &[u32], out: &mut [u32]) {
    assert!(x.len() == out.len(), "lengths disagree");
    for (o, &x) in out.iter_mut().zip(x) {
        *o = q.mul_factor(q.sub(*o, x), w);
    }
}

#[inline(always)]
pub(super) fn permute(from: &[u32], x: &[u32], out: &mut [u32]) {
    assert!(from.len() == out.len(), "lengths disagree");
    out.iter_mut().zip(from).for_each(|(o, &i)| *o = x[i as usize]);
}

#[inline(always)]
pub(super) fn binomial(eta: u32, words: &[u64], out: &mut [u32]) {
    assert!(words.len() == out.len() && eta <= 32, "shapes disagree");
    // η minus a sum of bits is the sum of their complements, so all bits are counted together.
    let half = (1u64 << eta) - 1;
    let (second, both) = (half << eta, half | half << eta);
    out.iter_mut().zip(words).for_each(|(o, &word)| *o = ((word ^ second) & both).count_ones());
}
