//! Residues on the wire: 28 bits each, two in seven bytes, little-endian; the limbs one after another.

use crate::error::{check_length, HeError};
use crate::params::{Params, N};

/// Bytes of `limbs` limbs.
pub(crate) const fn packed_bytes(limbs: usize) -> usize {
    limbs * N / 2 * 7
}

/// Appends the packed residues.
pub(crate) fn pack(residues: &[u32], out: &mut Vec<u8>) {
    out.reserve(residues.len() / 2 * 7);
    for pair in residues.chunks_exact(2) {
        let word = pair[0] as u64 | (pair[1] as u64) << 28;
        out.extend_from_slice(&word.to_le_bytes()[..7]);
    }
}

/// Residues `[limbs][N]` of the first `limbs` primes, each checked to be canonical.
pub(crate) fn unpack(
    params: &Params,
    limbs: usize,
    what: &'static str,
    bytes: &[u8],
) -> Result<Vec<u32>, HeError> {
    check_length(what, packed_bytes(limbs), bytes.len())?;
    let mut out = Vec::with_capacity(limbs * N);
    for (limb, packed) in bytes.chunks_exact(packed_bytes(1)).enumerate() {
        let modulus = params.modulus(limb).value();
        let mut canonical = true;
        for b in packed.chunks_exact(7) {
            let word = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], 0]);
            let pair = [word as u32 & 0x0FFF_FFFF, (word >> 28) as u32];
            canonical &= pair[0] < modulus && pair[1] < modulus;
            out.extend_from_slice(&pair);
        }
        if !canonical {
            let index = out[limb * N..].iter().position(|&x| x >= modulus).unwrap_or(0);
            return Err(HeError::Residue { what, index, modulus });
        }
    }
    Ok(out)
}

/// Bytes of `n` residues of `bits` bits; `n` a multiple of 8.
pub(crate) const fn packed_bits(n: usize, bits: u32) -> usize {
    n / 8 * bits as usize
}

/// Appends residues of `bits ≤ 32` bits, little-endian, without gaps.
pub(crate) fn pack_bits(residues: &[u32], bits: u32, out: &mut Vec<u8>) {
    out.reserve(packed_bits(residues.len(), bits));
    for eight in residues.chunks_exact(8) {
        let (mut word, mut filled) = (0u64, 0);
        for &x in eight {
            word |= (x as u64) << filled;
            filled += bits;
            while filled >= 8 {
                out.push(word as u8);
                word >>= 8;
                filled -= 8;
            }
        }
    }
}

/// Residues `[moduli][N]`, each checked to be canonical.
pub(crate) fn unpack_bits(
    moduli: &[u32],
    bits: u32,
    what: &'static str,
    bytes: &[u8],
) -> Result<Vec<u32>, HeError> {
    check_length(what, packed_bits(moduli.len() * N, bits), bytes.len())?;
    let mut out = Vec::with_capacity(moduli.len() * N);
    for (&modulus, packed) in moduli.iter().zip(bytes.chunks_exact(packed_bits(N, bits))) {
        let start = out.len();
        for eight in packed.chunks_exact(bits as usize) {
            let (mut word, mut filled) = (0u64, 0);
            for &byte in eight {
                word |= (byte as u64) << filled;
                filled += 8;
                if filled >= bits {
                    out.push((word & ((1 << bits) - 1)) as u32);
                    word >>= bits;
                    filled -= bits;
                }
            }
        }
        if let Some(index) = out[start..].iter().position(|&x| x >= modulus) {
            return Err(HeError::Residue { what, index, modulus });
        }
    }
    Ok(out)
}
