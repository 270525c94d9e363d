//! The scheme as a whole.

use cryptogen_ring::{Fp, Prg, Seed, P};

use crate::*;

pub(crate) const NONCES: shares::Nonces = shares::Nonces { client: [1; 32], server: [2; 32] };

/// Both parties' keys for results in slots.
pub(crate) struct Setup {
    pub params: &'static Params,
    pub sk: SecretKey,
    pub pk: shares::PublicKey,
    pub rng: Prg,
}

/// The public key goes through the bytes that travel.
pub(crate) fn setup(seed: u8) -> Setup {
    let params = Params::get(ParamSet::N8192Q196);
    let mut rng = Prg::new(&Seed::from_bytes([seed; 32]));
    let sk = SecretKey::generate(params, &mut rng);
    let sent = sk.public_key(&NONCES, &mut rng).to_bytes();
    assert_eq!(sent.len(), shares::PublicKey::bytes(params.ring()));
    let pk = shares::PublicKey::from_bytes(params.ring(), &NONCES, &sent).unwrap();
    Setup { params, sk, pk, rng }
}

/// `cts` with their messages.
fn encrypt_some(s: &mut Setup, layout: Layout, k: usize) -> (Vec<Ciphertext>, Vec<Vec<Fp>>) {
    let messages: Vec<Vec<Fp>> = (0..k).map(|_| s.rng.fp_vec(N)).collect();
    let cts = messages.iter().map(|m| {
        let bytes = s.sk.encrypt(m, layout, &mut s.rng).unwrap().to_bytes();
        assert_eq!(bytes.len(), SeededCiphertext::BYTES);
        SeededCiphertext::from_bytes(s.params, layout, &bytes).unwrap().expand(s.params)
    });
    (cts.collect(), messages)
}

/// Multipliers with the extreme values among them.
fn weights(rng: &mut Prg, n: usize) -> Vec<Fp> {
    let mut w = rng.fp_vec(n);
    let edges = [0, 1, P - 1, P / 2, P / 2 + 1];
    w.iter_mut().step_by(3).zip(edges).for_each(|(w, e)| *w = Fp::new(e));
    w
}

fn expected(layout: Layout, k: usize, messages: &[Vec<Fp>], w: &[Fp], m: usize) -> Vec<Fp> {
    let (f, c) = (layout.slots(), layout.coefficients());
    (0..N).map(|i| (0..k).map(|j| w[(m * k + j) * f + i / c] * messages[j][i]).sum()).collect()
}

fn add(x: &[Fp], y: &[Fp]) -> Vec<Fp> {
    x.iter().zip(y).map(|(&x, &y)| x + y).collect()
}

/// Both parties' shares of all results together, `[M][N]`.
fn results(s: &mut Setup, combiner: Combiner, layout: Layout) -> Vec<Fp> {
    let (messages, shares) = combiner.finish_shares(&s.pk, &mut s.rng).unwrap();
    let owners = messages.chunks_exact(shares::RESULT_BYTES).flat_map(|m| s.sk.share(m, layout).unwrap());
    add(&owners.collect::<Vec<_>>(), &shares)
}

#[test]
fn blocks_add_up() {
    let mut s = setup(2);
    let layout = Layout::new(3).unwrap();
    let (f, m, k) = (layout.slots(), 2, 5);
    let (cts, messages) = encrypt_some(&mut s, layout, k);
    let w = weights(&mut s.rng, m * k * f);
    let mut combiner = Combiner::new(s.params, layout, m);
    for block in [0..2, 2..2, 2..5] {
        let rows = w.chunks_exact(k * f).flat_map(|row| &row[block.start * f..block.end * f]);
        let part: Vec<Fp> = rows.copied().collect();
        combiner.add_block(&cts[block], &part).unwrap();
    }
    for (i, result) in results(&mut s, combiner, layout).chunks_exact(N).enumerate() {
        assert!(result == expected(layout, k, &messages, &w, i));
    }
}

#[test]
fn nothing_repeats() {
    let mut s = setup(5);
    let layout = Layout::new(0).unwrap();
    let message = vec![Fp::ONE; N];
    let (x, y) = (
        s.sk.encrypt(&message, layout, &mut s.rng).unwrap(),
        s.sk.encrypt(&message, layout, &mut s.rng).unwrap(),
    );
    assert_ne!(x.to_bytes(), y.to_bytes());
    let cts = [x.expand(s.params)];
    let mut run = || {
        let mut combiner = Combiner::new(s.params, layout, 1);
        combiner.add_block(&cts, &[Fp::ONE]).unwrap();
        combiner.finish_shares(&s.pk, &mut s.rng).unwrap()
    };
    let (first, second) = (run(), run());
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn malformed_input_is_refused() {
    let mut s = setup(7);
    let layout = Layout::new(3).unwrap();
    let other = Layout::new(4).unwrap();
    let params = s.params;
    assert!(matches!(SeededCiphertext::from_bytes(params, layout, &[]), Err(HeError::Length { .. })));
    let mut high = vec![0; SeededCiphertext::BYTES];
    high[32..36].fill(0xff);
    let error = SeededCiphertext::from_bytes(params, layout, &high).err();
    assert!(matches!(error, Some(HeError::Residue { index: 0, modulus: 268369921, .. })));
    assert!(s.sk.encrypt(&[Fp::ONE; 8], layout, &mut s.rng).is_err());

    let (cts, _) = encrypt_some(&mut s, layout, 1);
    let mut combiner = Combiner::new(params, other, 1);
    assert!(matches!(combiner.add_block(&cts, &[Fp::ONE; 16]), Err(HeError::LayoutMismatch { .. })));
    let mut combiner = Combiner::new(params, layout, 1);
    assert!(matches!(
        combiner.add_block(&cts, &[Fp::ONE; 7]),
        Err(HeError::Length { expected: 8, actual: 7, .. })
    ));
}

/// Pearson's statistic of bytes against uniform, as standard deviations of its distribution.
pub(crate) fn excess(bytes: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0f64; 256];
    bytes.for_each(|b| counts[b as usize] += 1.0);
    let mean = counts.iter().sum::<f64>() / 256.0;
    let chi2: f64 = counts.iter().map(|c| (c - mean).powi(2) / mean).sum();
    (chi2 - 255.0) / (2.0 * 255f64).sqrt()
}
