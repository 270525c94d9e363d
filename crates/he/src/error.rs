use thiserror::Error;

/// What can be wrong with the input of this crate, above all with bytes from the peer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeError {
    /// An encoding or an array has the wrong size.
    #[error("{what}: expected length {expected}, got {actual}")]
    Length {
        /// The object.
        what: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        actual: usize,
    },
    /// A residue of an encoding is not below its modulus.
    #[error("{what}: residue {index} is not below the modulus {modulus}")]
    Residue {
        /// The object.
        what: &'static str,
        /// Position in its limb.
        index: usize,
        /// The modulus of the limb.
        modulus: u32,
    },
    /// A secret key's encoding holds something else than −1, 0 and 1.
    #[error("secret key: coefficient {index} is not ternary")]
    SecretKey {
        /// Position of the coefficient.
        index: usize,
    },
    /// The number of slots is not a power of two up to N.
    #[error("a layout has at most 2^{expected} slots, got 2^{actual}")]
    Layout {
        /// The largest exponent.
        expected: u32,
        /// The exponent asked for.
        actual: u32,
    },
    /// Ciphertexts of different layouts meet.
    #[error("layouts disagree: expected 2^{expected} slots, got 2^{actual}")]
    LayoutMismatch {
        /// log2 of the slots of the computation.
        expected: u32,
        /// log2 of the slots of the ciphertext.
        actual: u32,
    },
    /// More products in one sum than the noise bound allows.
    #[error("a sum of {actual} products exceeds the noise bound's {expected}")]
    TooManyProducts {
        /// The largest number of products, slots times ciphertexts.
        expected: u64,
        /// The number asked for.
        actual: u64,
    },
    /// The noise of a ciphertext would not be hidden by flooding, or would not decrypt.
    #[error("the noise of {what} deviates by 2^{bits}, at most 2^{limit} can be hidden and decrypted")]
    Noise {
        /// The operation that refused.
        what: &'static str,
        /// log2 of the standard deviation, rounded up.
        bits: u32,
        /// log2 of the limit.
        limit: u32,
    },
    /// A rotation whose Galois key was not made.
    #[error(
        "no Galois key for a rotation by {step} slots: the key owner made keys for {available} other steps"
    )]
    MissingRotation {
        /// Slots to rotate by.
        step: usize,
        /// Keys at hand.
        available: usize,
    },
    /// A cyclic dimension that does not divide the slots of a row.
    #[error("lanes: expected a power of two up to {expected}, got {actual}")]
    Lanes {
        /// The slots of a row.
        expected: usize,
        /// The length asked for.
        actual: usize,
    },
    /// Shapes that a packing of tokens, inputs and outputs does not have.
    #[error("packing: {what}: from 1 to {most}, got {actual}")]
    Packing {
        /// The quantity.
        what: &'static str,
        /// The largest value.
        most: usize,
        /// The value.
        actual: usize,
    },
    /// The test of the public key failed.
    #[error("opening: {what}")]
    Opening {
        /// Who deviated, and how.
        what: &'static str,
    },
    /// A parameter set is weaker than 128 bits or unusable.
    #[error("parameters refused: {what}: at most {expected}, got {actual}")]
    Parameters {
        /// The violated rule.
        what: &'static str,
        /// Its limit.
        expected: u64,
        /// The value.
        actual: u64,
    },
}

/// `Ok` if the lengths agree.
pub(crate) fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<(), HeError> {
    if expected == actual {
        Ok(())
    } else {
        Err(HeError::Length { what, expected, actual })
    }
}
