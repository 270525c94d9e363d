//! Streams and rejection sampling.

use super::*;

#[test]
fn counter_streams_agree_between_variants() {
    let key: [u8; 32] = core::array::from_fn(|i| (7 * i) as u8);
    let reference = CounterKey::new_on(Isa::Portable, &key);
    for isa in Isa::available() {
        let cipher = CounterKey::new_on(isa, &key);
        for (counter, blocks) in [(0, 0), (0, 1), (5, 16), (1 << 40, 31), (3, 32), (u32::MAX as u64 - 3, 100)]
        {
            let (mut expected, mut out) = (vec![1; 16 * blocks], vec![2; 16 * blocks]);
            reference.fill(counter, &mut expected);
            cipher.fill(counter, &mut out);
            assert!(out == expected, "{isa:?} {counter} {blocks}");
        }
    }
}

#[test]
fn words_are_accepted_in_order() {
    let mut rng = StdRng::seed_from_u64(15);
    for (q, spare_bits, n, room) in [
        (Q, 4, 1024, 1000),
        (16_957_441, 7, 1024, 1024),
        (16_957_441, 7, 1000, 300),
        (3, 0, 40, 40),
        (Q, 4, 7, 100),
    ] {
        let words: Vec<u8> = (0..4 * n).map(|_| if q == 3 { 0 } else { rng.gen() }).collect();
        let all = words.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap()) >> spare_bits);
        let expected: Vec<u32> = all.filter(|&w| w < q).take(room).collect();
        for isa in Isa::available() {
            let mut out = vec![0; room];
            let accepted = accept_on(isa, q, spare_bits, &words, &mut out);
            assert_eq!(&out[..accepted], expected, "{isa:?} {q} {n} {room}");
        }
    }
}

#[test]
fn binomials_are_differences_of_sums_of_bits() {
    let mut rng = StdRng::seed_from_u64(17);
    let words: Vec<u64> = (0..77).map(|i| if i == 0 { u64::MAX } else { rng.gen() }).collect();
    for eta in [1, 21, 32] {
        let bits = |word: u64| (0..eta).map(|i| (word >> i & 1) as u32).sum::<u32>();
        let expected: Vec<u32> = words.iter().map(|&w| eta + bits(w) - bits(w >> eta)).collect();
        for isa in Isa::available() {
            let mut out = vec![0; 77];
            binomial_on(isa, eta, &words, &mut out);
            assert_eq!(out, expected, "{isa:?} {eta}");
        }
    }
}
