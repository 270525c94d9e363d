//! Receivers that deviate, against the check of step 4.

use super::*;

/// Both ends of one direction with random seeds.
fn direction(delta: u128, rng: &mut Prg) -> (OtSender, OtReceiver) {
    let held: Vec<u128> = (0..BLOCKS * LEAVES).map(|_| random(rng)).collect();
    let seeds = (0..BLOCKS * LEAVES).map(|i| match i % LEAVES {
        0 => 0,
        y => held[i - y + (y ^ bits_of_block(delta, i / LEAVES))],
    });
    let session = [3; 32];
    (
        OtSender { session, delta, seeds: Zeroizing::new(seeds.collect()), matrices: 0 },
        OtReceiver { session, seeds: Zeroizing::new(held), matrices: 0 },
    )
}

fn random(rng: &mut Prg) -> u128 {
    (rng.next_u64() as u128) << 64 | rng.next_u64() as u128
}

fn bits_of_block(delta: u128, block: usize) -> usize {
    (delta >> (DEPTH * block)) as usize % LEAVES
}

/// Bits of one column of `count` matrices.
type Errors = Vec<u128>;

/// An extension in which block `b` of the receiver means `r ⊕ errors` for each `(b, errors,
/// guess)`, and which answers as if `Δ_b` were `guess`. The verdict, and how the transfers look.
fn insecure_extend(
    (sender, receiver): (&mut OtSender, &mut OtReceiver),
    n: usize,
    deviations: &[(usize, Errors, usize)],
    rng: &mut Prg,
) -> (Result<(), OtError>, RotSent, RotReceived) {
    let (mut message, committed) = receiver.commit(n);
    for (block, errors, _) in deviations {
        for (matrix, error) in message.chunks_exact_mut(MATRIX_BYTES).zip(errors) {
            // Block 0 has no correction: it differs if all others do.
            for (b, d) in (1..BLOCKS).zip(matrix.chunks_exact_mut(16)) {
                if b == *block || *block == 0 {
                    d.copy_from_slice(&(le_u128(d) ^ error).to_le_bytes());
                }
            }
        }
    }
    let mut challenge = [0; CHALLENGE_BYTES];
    rng.fill_bytes(&mut challenge);
    let (sent, expected) = sender.finish(&message, n, &challenge);

    // What the receiver can compute: the honest answer, and how its errors move it.
    let Committed { columns, choices, batch, n } = committed;
    let mut sums = Sums::new();
    let mut moved = [0u128; ROWS];
    let weights = weights(&challenge, choices.len());
    for ((columns, r), weight) in columns.chunks(ROWS).zip(choices.iter()).zip(&weights) {
        sums.add(columns, *r, *weight);
    }
    let mut choice = sums.choice();
    for (block, errors, guess) in deviations {
        let error = hash_of(errors, &weights);
        if *block == 0 {
            // All other blocks mean `r ⊕ errors`: that is what it claims.
            choice ^= error;
        }
        for j in (0..DEPTH).filter(|j| guess >> j & 1 == 1) {
            moved[DEPTH * block + j] ^= error;
        }
    }
    let mut digest = Sha256::new_with_prefix(b"cryptogen transfer check");
    for (sum, moved) in sums.0[..ROWS].iter().zip(moved) {
        digest.update((carryless_reduce(*sum) ^ moved).to_le_bytes());
    }
    let proof = [&choice.to_le_bytes()[..], &digest.finalize()].concat();
    let verdict = expected.verify(&proof);
    let mut t = columns;
    t.chunks_exact_mut(ROWS).for_each(transpose);
    (verdict, sent, RotReceived { t, choices, batch, n })
}

/// `R` of one column.
fn hash_of(column: &[u128], weights: &[u128]) -> u128 {
    let mut sum = [[0; 2]];
    column.iter().zip(weights).for_each(|(c, w)| carryless_multiply_add(&[*c], *w, &mut sum));
    carryless_reduce(sum[0])
}

fn one_bit(rng: &mut Prg, count: usize) -> Errors {
    let mut errors = vec![0; count];
    errors[rng.next_u32() as usize % count] = 1 << (rng.next_u32() % 128);
    errors
}

#[test]
fn a_receiver_that_follows_the_protocol_passes() {
    let mut rng = Prg::new(&Seed::from_bytes([51; 32]));
    for n in [0, 1, 128, 5000] {
        let delta = random(&mut rng);
        let (mut sender, mut receiver) = direction(delta, &mut rng);
        let (verdict, sent, received) = insecure_extend((&mut sender, &mut receiver), n, &[], &mut rng);
        assert_eq!(verdict, Ok(()));
        for i in 0..n {
            assert_eq!(sent.q[i], received.t[i] ^ bits::mask(received.choice(i)) & delta);
        }
    }
}

/// Whoever flips bits in blocks passes exactly if it guessed `Δ` there: not once more often.
#[test]
fn flipped_bits_pass_by_a_guess_alone() {
    const TRIALS: usize = 4096;
    let mut rng = Prg::new(&Seed::from_bytes([52; 32]));
    for blocks in [&[7][..], &[31], &[0], &[3, 20]] {
        let mut passed = 0;
        for _ in 0..TRIALS {
            let delta = random(&mut rng);
            let (mut sender, mut receiver) = direction(delta, &mut rng);
            let n = 200;
            let deviations: Vec<_> = blocks
                .iter()
                .map(|b| (*b, one_bit(&mut rng, matrices(n)), rng.next_u32() as usize % LEAVES))
                .collect();
            let (verdict, sent, received) =
                insecure_extend((&mut sender, &mut receiver), n, &deviations, &mut rng);
            let guessed = deviations.iter().all(|(b, _, guess)| bits_of_block(delta, *b) == *guess);
            let expected = if guessed { Ok(()) } else { Err(OtError::Inconsistent("transfers")) };
            assert_eq!(verdict, expected, "{blocks:?}");
            if verdict.is_ok() {
                passed += 1;
                // Its transfers are then those of one choice, but for what it knows of Δ.
                for i in 0..n {
                    let mut q = received.t[i];
                    let mut choice = received.choice(i);
                    for (block, errors, guess) in &deviations {
                        let error = (errors[i / ROWS] >> (i % ROWS)) as u8 & 1;
                        choice ^= if *block == 0 { error } else { 0 };
                        q ^= bits::mask(error) & (*guess as u128) << (DEPTH * block);
                    }
                    assert_eq!(sent.q[i], q ^ bits::mask(choice) & delta, "{blocks:?} {i}");
                }
            }
        }
        let expected = TRIALS as f64 / (LEAVES as f64).powi(blocks.len() as i32);
        let deviation = (passed as f64 - expected).abs() / expected.sqrt();
        assert!(deviation < 5.0, "{blocks:?}: {passed} of {TRIALS} passed, expected {expected}");
    }
}

#[test]
fn every_block_and_the_padding_are_checked() {
    let mut rng = Prg::new(&Seed::from_bytes([53; 32]));
    let n = 300;
    let delta = u128::MAX / 15 * 6;
    let (mut sender, mut receiver) = direction(delta, &mut rng);
    for block in 0..BLOCKS {
        for matrix in 0..matrices(n) {
            let mut errors = vec![0; matrices(n)];
            errors[matrix] = 1 << (rng.next_u32() % 128);
            let deviation = [(block, errors, 0)];
            let (verdict, ..) = insecure_extend((&mut sender, &mut receiver), n, &deviation, &mut rng);
            assert_eq!(verdict, Err(OtError::Inconsistent("transfers")), "{block} {matrix}");
        }
    }
}

/// The other way past the check: two choice vectors with one hash. It has probability `2^-s` for a
/// hash of `s` bits, here `s` bits of it, whatever the difference.
#[test]
fn different_choices_have_one_hash_with_the_stated_probability() {
    const TRIALS: usize = 1 << 16;
    let mut rng = Prg::new(&Seed::from_bytes([54; 32]));
    let differences =
        [vec![1, 0, 0], vec![0, 1 << 127, 0], vec![u128::MAX; 3], vec![5, 5, 0], vec![random(&mut rng); 3]];
    for difference in differences {
        let mut zeros = [0; 9];
        for _ in 0..TRIALS {
            let mut challenge = [0; CHALLENGE_BYTES];
            rng.fill_bytes(&mut challenge);
            let hash = hash_of(&difference, &weights(&challenge, 3));
            zeros
                .iter_mut()
                .enumerate()
                .for_each(|(s, zeros)| *zeros += hash.is_multiple_of(1 << s) as usize);
        }
        for (s, zeros) in zeros.into_iter().enumerate() {
            let expected = TRIALS as f64 / (1u64 << s) as f64;
            let deviation = (zeros as f64 - expected).abs() / expected.sqrt();
            assert!(deviation < 5.0, "{s} bits: {zeros} of {TRIALS}, expected {expected}");
        }
    }
    // A difference in the padding alone never has the hash 0.
    assert_eq!(hash_of(&[0, 0, 9], &weights(&[1; CHALLENGE_BYTES], 3)), 9);
}

/// The answer is padded: the bits of the last transfers, which nobody uses, are in it with weight
/// 1.
#[test]
fn the_answer_is_padded() {
    let mut rng = Prg::new(&Seed::from_bytes([55; 32]));
    let (_, mut receiver) = direction(0, &mut rng);
    let (_, committed) = receiver.commit(256);
    let (choices, challenge) = (committed.choices.to_vec(), [8; CHALLENGE_BYTES]);
    let (proof, received) = committed.prove(&challenge);
    let weights = weights(&challenge, 3);
    assert_eq!(le_u128(&proof[..16]) ^ hash_of(&choices[..2], &weights), choices[2]);
    assert_eq!((received.n, choices.len()), (256, 3));
}
