//! The extension against its definition, what either party sees of the other's secrets, and senders
//! that deviate, against the check of step 2.

use cryptogen_ring::kernels::TREES;

use super::trees::LEVELS;
use super::*;

const SESSION: [u8; 32] = [9; 32];

fn random(rng: &mut Prg) -> u128 {
    (rng.next_u64() as u128) << 64 | rng.next_u64() as u128
}

fn order(first: u64, n: usize) -> Order {
    Order { session: SESSION, sender: Role::Server, first, n }
}

/// Correlations with an odd `Δ`: `q` and `t`, last bits 0 and the choices.
fn correlations(n: usize, delta: u128, rng: &mut Prg) -> [Vec<u128>; 2] {
    let t: Vec<u128> = (0..n).map(|_| random(rng)).collect();
    let q = t.iter().map(|t| t ^ bits::mask(*t as u8) & delta).collect();
    [q, t]
}

/// Both reserves.
fn reserves(delta: u128, rng: &mut Prg) -> [Reserve; 2] {
    let [q, t] = correlations(RESERVE, delta, rng);
    [Reserve::of_sender(&q), Reserve::of_receiver(&t, |i| t[i] as u8 & 1)]
}

/// An extension between parties that follow the protocol: message, challenge, new words.
fn extend(
    [sender, receiver]: &mut [Reserve; 2],
    order: &Order,
    delta: u128,
    rng: &mut Prg,
) -> (Vec<u8>, [u8; CHALLENGE_BYTES], [Zeroizing<Vec<u128>>; 2]) {
    let (message, sown) = sender.sow(order, delta);
    assert_eq!(message.len(), message_bytes(order.n));
    let reaped = receiver.reap(order, &message);
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let (challenge, expected) = reaped.challenge(seed);
    assert_eq!(sown.prove(&challenge), expected);
    (message, challenge, [sown.finish(sender), reaped.finish(receiver)])
}

#[test]
fn words_are_correlated_and_no_word_comes_twice() {
    let mut rng = Prg::new(&Seed::from_bytes([61; 32]));
    let delta = random(&mut rng) | 1;
    let mut ends = reserves(delta, &mut rng);
    let mut seen: Vec<u128> = ends[0].0.to_vec();
    for (first, n) in [1, 1000, 40_000, 991, 992].into_iter().enumerate() {
        let before = ends[0].0.to_vec();
        let (.., [q, t]) = extend(&mut ends, &order(first as u64, n), delta, &mut rng);
        assert_eq!((q.len(), t.len()), (n, n));
        // Reserves are full again, and hold correlations.
        let [own, peers] = &ends;
        assert_eq!((own.0.len(), peers.0.len()), (RESERVE, RESERVE));
        for (q, t) in q.iter().zip(t.iter()).chain(own.0.iter().zip(peers.0.iter())) {
            assert_eq!((q ^ t, q & 1), (bits::mask(*t as u8) & delta, 0));
        }
        // What was spent is gone, and what came is new.
        let kept = RESERVE - spent(groves(n));
        assert_eq!(own.0[..kept], before[..kept]);
        seen.extend_from_slice(&q);
        seen.extend_from_slice(&own.0[kept..]);
    }
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all);
}

/// A whole extension against its definition: the receiver's choices are `A·r ⊕ e`, and `e` has one
/// place in every tree, that which the choices of the tree's correlations name.
#[test]
fn choices_are_the_codes_with_regular_noise() {
    let mut rng = Prg::new(&Seed::from_bytes([62; 32]));
    let delta = random(&mut rng) | 1;
    let mut ends = reserves(delta, &mut rng);
    let (order, n) = (order(5, 3000), 3000);
    let spent: Vec<u128> = ends[1].0[RESERVE - spent(groves(n))..].to_vec();
    let (.., [_, t]) = extend(&mut ends, &order, delta, &mut rng);
    let (_, code) = silent_tag(&SESSION, Role::Server, 5);
    let (secret, of_trees) = spent.split_at(SECRET);
    for (p, t) in t.iter().enumerate() {
        let (grove, place, tree) = (p / LEAVES, p % LEAVES / TREES, p % TREES);
        let of_tree = |level: usize| of_trees[grove * SPENT + level * TREES + tree];
        let path = (0..LEVELS).fold(0, |path, level| path | (!of_tree(level) as usize & 1) << level);
        let sum = places(&code, p).into_iter().fold(0, |sum, place| sum ^ secret[place]);
        assert_eq!(t & 1, sum & 1 ^ (place == path) as u128, "{p}");
    }
}

/// The terms of a row, as the documentation of [`code::add`] says.
fn places(code: &FixedKey, row: usize) -> [usize; 10] {
    core::array::from_fn(|c| {
        let mut block = [(row / 8 * 10 + c) as u128];
        code.mmo(&mut block);
        let word = (block[0] >> (16 * (row % 8))) as usize;
        if c < 8 {
            word & 0x7fff
        } else {
            0x8000 + (word & 0x1fff)
        }
    })
}

/// The code is the same on every machine and in every version: here as a digest of some rows.
#[test]
fn the_code_is_pinned() {
    let (_, code) = silent_tag(&SESSION, Role::Client, 1 << 40);
    let mut rng = Prg::new(&Seed::from_bytes([65; 32]));
    let secret: Vec<u128> = (0..SECRET).map(|_| random(&mut rng)).collect();
    let mut outputs = vec![0; 2 * LEAVES];
    code::add(&code, secret.first_chunk().expect("a whole secret"), 3 * LEAVES, &mut outputs);
    let mut digest = Sha256::new();
    for (row, output) in outputs.iter().enumerate() {
        let places = places(&code, 3 * LEAVES + row);
        assert_eq!(*output, places.iter().fold(0, |sum, place| sum ^ secret[*place]), "{row}");
        places.iter().for_each(|place| digest.update((*place as u16).to_le_bytes()));
    }
    assert_eq!(digest.finalize()[..8], [143, 45, 223, 181, 97, 7, 68, 118]);
    // Each direction and extension has its own.
    for (sender, first) in [(Role::Server, 1 << 40), (Role::Client, 0)] {
        assert_ne!(places(&silent_tag(&SESSION, sender, first).1, 0), places(&code, 0));
    }
}

/// What the estimate of the assumption is for.
#[test]
fn the_numbers_are_those_of_the_estimate() {
    let report = include_str!("../../params/silent.txt");
    let numbers = format!("n = {}, k = {SECRET}, t = {}, regular", MAX_GROVES * LEAVES, MAX_GROVES * TREES);
    assert!(report.starts_with(&numbers), "{numbers}");
    assert!(report.contains("8 + 2 terms a sample"));
    let smallest =
        report.lines().last().and_then(|line| line.strip_prefix("smallest: 2^")).expect("a result");
    let bits: f64 = smallest.split(' ').next().and_then(|bits| bits.parse().ok()).expect("a number");
    assert!(bits >= 128.0, "{bits}");
    // No extension is larger.
    assert_eq!((groves(MAX_NEW), spent(groves(MAX_NEW))), (MAX_GROVES, RESERVE));
    assert_eq!(groves(MAX_NEW + 1), MAX_GROVES + 1);
}

/// All that a receiver sees of the sender's secrets, and a sender of the receiver's: words,
/// challenges and, by place, bits of the choices and of the noise.
#[test]
fn messages_and_choices_look_uniform() {
    let mut rng = Prg::new(&Seed::from_bytes([66; 32]));
    let delta = random(&mut rng) | 1;
    let mut ends = reserves(delta, &mut rng);
    let (mut bytes, mut sums, mut paths) = ([0u32; 256], [0u32; 256], [0u32; 256]);
    let (mut ones, mut pairs, mut all) = (0, 0, 0);
    for first in 0..24 {
        let order = order(first, 20_000);
        let spent = ends[1].0[RESERVE - spent(groves(order.n))..].to_vec();
        for grove in spent[SECRET..][..SPENT * groves(order.n)].chunks(SPENT) {
            for tree in 0..TREES {
                let path = (0..LEVELS).fold(0, |path, l| path | (!grove[l * TREES + tree] as usize & 1) << l);
                paths[path] += 1;
            }
        }
        let (message, challenge, [q, t]) = extend(&mut ends, &order, delta, &mut rng);
        message.iter().for_each(|byte| bytes[*byte as usize] += 1);
        challenge[32..].iter().for_each(|byte| sums[*byte as usize] += 1);
        assert!(q.iter().all(|q| q & 1 == 0));
        ones += t.iter().filter(|t| **t & 1 == 1).count();
        pairs += t.windows(2).filter(|t| (t[0] ^ t[1]) & 1 == 1).count();
        all += t.len();
    }
    for (what, counts) in [("words", bytes), ("sums", sums), ("paths", paths)] {
        let expected = counts.iter().sum::<u32>() as f64 / 256.0;
        let chi2: f64 = counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
        assert!((140.0..400.0).contains(&chi2), "{what}: chi-squared with 255 degrees of freedom is {chi2}");
    }
    for count in [ones, pairs] {
        let deviation = (count as f64 - all as f64 / 2.0).abs() / (all as f64 / 4.0).sqrt();
        assert!(deviation < 5.0, "{count} of {all}");
    }
}

/// The leaves of a tree, as the module's documentation says, one node at a time.
#[test]
fn trees_are_those_of_the_definition() {
    let mut rng = Prg::new(&Seed::from_bytes([63; 32]));
    let (tag, delta, number) = ([3; 8], random(&mut rng) | 1, 11);
    let [q, t] = correlations(SPENT, delta, &mut rng);
    let (mut leaves, mut words) = ([0; LEAVES], [0; WORDS * 16]);
    trees::grow(&mut TreeHash::new(), (tag, number), (&q, delta), &mut leaves, &mut words);
    let mut punctured = [0; LEAVES];
    trees::grow_punctured(&mut TreeHash::new(), (tag, number), &t, &mut punctured, &words);
    for tree in 0..TREES {
        let mut hash = TreeHash::<1>::new();
        hash.rekey(tag, &[(number * TREES + tree) as u32], LEVELS - 1);
        let path = (0..LEVELS).fold(0, |path, l| path | (!t[l * TREES + tree] as usize & 1) << l);
        for place in 0..1 << LEVELS {
            let mut node = q[tree] ^ bits::mask(place as u8) & delta;
            for level in 1..LEVELS {
                let left = hash.hash_sums(level - 1, &[node])[0];
                node = left ^ bits::mask((place >> level) as u8) & node;
            }
            let at = place * TREES + tree;
            assert_eq!(leaves[at], node & !1);
            let shift = if place == path { delta } else { 0 };
            assert_eq!(punctured[at], leaves[at] ^ shift, "tree {tree} place {place}");
        }
    }
}

/// One grove of either party, the sender having added `error` to the word of a level of tree 0 and
/// the receiver's path there being `path`.
fn insecure_grove(level: usize, path: usize, error: u128, delta: u128, rng: &mut Prg) -> [Growth; 2] {
    let q: Vec<u128> = (0..SPENT).map(|_| random(rng) & !1).collect();
    let mut choices: Vec<u8> = (0..SPENT).map(|_| rng.next_u32() as u8).collect();
    (0..LEVELS).for_each(|l| choices[l * TREES] = !(path >> l) as u8);
    let t: Vec<u128> = q.iter().zip(&choices).map(|(q, r)| q ^ bits::mask(*r) & delta).collect();
    let [mask_q, mask_t] = correlations(MASK, delta, rng);
    let growth = |mask| {
        let (tag, code) = silent_tag(&SESSION, Role::Server, 0);
        let leaves = Zeroizing::new(vec![0; LEAVES]);
        Growth { tag, code, leaves, secret: Zeroizing::default(), mask: Zeroizing::new(mask), n: 0 }
    };
    let [mut own, mut peers] = [growth(mask_q), growth(mask_t)];
    let mut words = [0; WORDS * 16];
    trees::grow(&mut TreeHash::new(), (own.tag, 0), (&q, delta), &mut own.leaves, &mut words);
    for (byte, error) in words[(level - 1) * TREES * 16..].iter_mut().zip(error.to_le_bytes()) {
        *byte ^= error;
    }
    trees::grow_punctured(&mut TreeHash::new(), (peers.tag, 0), &t, &mut peers.leaves, &words);
    [own, peers]
}

/// A sender that spoils a word does its best: it takes the leaves for those that the receiver has
/// if its path is the guessed one. It passes for two paths of 256, that one and the one that
/// differs in the last level, whose sums make up for all errors above.
#[test]
fn a_spoilt_word_passes_by_a_guess_of_the_noise_alone() {
    let mut rng = Prg::new(&Seed::from_bytes([64; 32]));
    let delta = random(&mut rng) | 1;
    for level in 1..LEVELS {
        let error = random(&mut rng) & !1;
        let guess = rng.next_u32() as usize % 256;
        // All is the same for all paths but the receiver's choices.
        let seed = Seed::from_bytes([level as u8; 32]);
        let grove = |path| insecure_grove(level, path, error, delta, &mut Prg::new(&seed));
        let mut claimed = grove(guess)[1].leaves.to_vec();
        claimed[guess * TREES] ^= delta;
        (1..TREES).for_each(|tree| {
            let honest = grove(guess)[0].leaves.clone();
            (0..256).for_each(|j| claimed[j * TREES + tree] = honest[j * TREES + tree]);
        });
        let passing: Vec<usize> = (0..256)
            .filter(|path| {
                let [mut own, peers] = grove(*path);
                own.leaves.copy_from_slice(&claimed);
                let mut seed = [0; 32];
                rng.fill_bytes(&mut seed);
                let (challenge, expected) = Reaped(peers).challenge(seed);
                Sown { growth: own, delta: Zeroizing::new(delta) }.prove(&challenge) == expected
            })
            .collect();
        assert_eq!(passing, [guess & 127, guess | 128], "{level}");
    }
}

/// An error in any one leaf moves the sum by a weight of its own, which the seed decides.
#[test]
fn every_leaf_has_a_weight_of_its_own() {
    let check = |place: usize, seed: u8| {
        let (tag, code) = silent_tag(&SESSION, Role::Server, 0);
        let mut leaves = Zeroizing::new(vec![0; LEAVES]);
        leaves[place] = 1;
        let mask = Zeroizing::new(vec![0; MASK]);
        Growth { tag, code, leaves, secret: Zeroizing::default(), mask, n: 0 }.check([seed; 32])
    };
    let mut weights: Vec<u128> = (1..3)
        .flat_map(|seed| (0..LEAVES).map(move |place| (place, seed)))
        .map(|(place, seed)| {
            let (sum, noise) = check(place, seed);
            assert_eq!(sum, noise);
            sum
        })
        .collect();
    weights.sort_unstable();
    weights.dedup();
    assert_eq!(weights.len(), 2 * LEAVES);
}
