//! Residues on the wire: 28 or 25 bits each, little-endian, without gaps; the limbs one after
//! another.

use cryptogen_ring::Modulus;

use crate::error::{check_length, HeError};
use crate::ring::Ring;

/// Bits of the residues of [`pack`].
const BITS: usize = 28;

/// Bytes of `n` residues, a multiple of 8.
pub(crate) const fn packed_bytes(n: usize) -> usize {
    packed_bits::<BITS>(n)
}

/// Appends the packed residues.
pub(crate) fn pack(residues: &[u32], out: &mut Vec<u8>) {
    pack_bits::<BITS>(residues, out);
}

/// Residues `[limbs][N]` of a ring, each checked to be canonical.
pub(crate) fn unpack(ring: &Ring, what: &'static str, bytes: &[u8]) -> Result<Vec<u32>, HeError> {
    let moduli: Vec<u32> = ring.moduli().map(Modulus::value).collect();
    unpack_bits::<BITS>(&moduli, ring.n(), what, bytes)
}

/// Bytes of `n` residues of `BITS` bits; `n` a multiple of 8.
pub(crate) const fn packed_bits<const BITS: usize>(n: usize) -> usize {
    n / 8 * BITS
}

/// Appends residues of `16 ≤ BITS ≤ 30` bits, a multiple of 8 of them.
pub(crate) fn pack_bits<const BITS: usize>(residues: &[u32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + packed_bits::<BITS>(residues.len()), 0);
    let groups = residues.as_chunks::<8>().0.iter().zip(out[start..].as_chunks_mut::<BITS>().0);
    for (&[a, b, c, d, e, f, g, h], out) in groups {
        let pair = |x: u32, y: u32| x as u64 | (y as u64) << BITS;
        let four = |x: u64, y: u64| x as u128 | (y as u128) << (2 * BITS);
        let (low, high) = (four(pair(a, b), pair(c, d)), four(pair(e, f), pair(g, h)));
        // The first half ends within a byte if 4·BITS is no multiple of 8.
        let (first, last) = out.split_at_mut(BITS / 2);
        first.copy_from_slice(&low.to_le_bytes()[..BITS / 2]);
        let rest = low >> (BITS / 2 * 8) | high << (4 * BITS % 8);
        last.copy_from_slice(&rest.to_le_bytes()[..BITS - BITS / 2]);
    }
}

/// Residues `[moduli][n]`, each checked to be canonical.
pub(crate) fn unpack_bits<const BITS: usize>(
    moduli: &[u32],
    n: usize,
    what: &'static str,
    bytes: &[u8],
) -> Result<Vec<u32>, HeError> {
    check_length(what, packed_bits::<BITS>(moduli.len() * n), bytes.len())?;
    let mut out = vec![0; moduli.len() * n];
    let limbs = out.chunks_exact_mut(n).zip(bytes.chunks_exact(packed_bits::<BITS>(n)));
    for ((out, packed), &modulus) in limbs.zip(moduli) {
        let mut canonical = true;
        for (eight, packed) in out.as_chunks_mut::<8>().0.iter_mut().zip(packed.as_chunks::<BITS>().0) {
            // Each half is read with what lies between it and the other end of 16 bytes.
            let low = u128::from_le_bytes(*packed.first_chunk().expect("at least 16 bits, 16 bytes"));
            let high =
                u128::from_le_bytes(*packed.last_chunk().expect("at least 16 bytes")) >> (128 - 4 * BITS);
            let pairs = [low as u64, (low >> (2 * BITS)) as u64, high as u64, (high >> (2 * BITS)) as u64];
            let mask = (1 << BITS) - 1;
            *eight = core::array::from_fn(|i| (pairs[i / 2] >> (i % 2 * BITS)) as u32 & mask);
            canonical &= eight.iter().fold(true, |canonical, &x| canonical & (x < modulus));
        }
        if !canonical {
            let index = out.iter().position(|&x| x >= modulus).unwrap_or(0);
            return Err(HeError::Residue { what, index, modulus });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::N;
    use rand::{rngs::StdRng, Rng, SeedableRng};

    /// One bit after another.
    fn slowly(residues: &[u32], bits: usize) -> Vec<u8> {
        let mut out = vec![0; residues.len() * bits / 8];
        for i in 0..residues.len() * bits {
            out[i / 8] |= ((residues[i / bits] >> (i % bits) & 1) as u8) << (i % 8);
        }
        out
    }

    fn check<const BITS: usize>(modulus: u32) {
        let mut rng = StdRng::seed_from_u64(BITS as u64);
        let residues: Vec<u32> =
            (0..2 * N).map(|i| if i % 3 == 0 { modulus - 1 } else { rng.gen_range(0..modulus) }).collect();
        let mut packed = vec![7];
        pack_bits::<BITS>(&residues, &mut packed);
        assert_eq!(packed[1..], slowly(&residues, BITS));
        assert_eq!(unpack_bits::<BITS>(&[modulus; 2], N, "test", &packed[1..]), Ok(residues));
        for index in [0, 5, N - 1] {
            let mut wrong = vec![0; N];
            wrong[index] = modulus;
            let error = HeError::Residue { what: "test", index, modulus };
            assert_eq!(unpack_bits::<BITS>(&[modulus], N, "test", &slowly(&wrong, BITS)), Err(error));
        }
        assert!(unpack_bits::<BITS>(&[modulus; 2], N, "test", &packed).is_err());
    }

    #[test]
    fn residues_lie_bit_after_bit() {
        check::<28>(268_369_921);
        check::<25>(16_957_441);
    }
}
