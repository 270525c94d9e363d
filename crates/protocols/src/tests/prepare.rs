//! The real offline phase makes records that hold what the ideal functionality says, attention
//! material included.

use cryptogen_ot::{OtPair, TableKey};
use cryptogen_party::{Party, Role};
use cryptogen_ring::word::words_from_bytes;
use cryptogen_ring::{fp_from_bytes, Fp, Seed};

use super::channel::{run, run_spoiled, Fault, Ran, Tap};
use super::ideal::{self, Ideal, Pair};
use super::offline::{check_error, keys, near};
use super::rng;
use super::tables::check_key;
use super::tiny::{build, tiny, Arch, Settings, Tiny, BOTH};
use crate::error::{ProtocolError, Result};
use crate::material::{activation_shape, exp_shape, LatticeKeys, SEED_BYTES};
use crate::model::{Matrix, Site};
use crate::offline::prepare::{exponential_record_bytes, logits_record_bytes, Preparer, Sink};

/// Records in memory.
struct Records(Vec<Vec<u8>>);

impl Records {
    fn new(n: usize, bytes: usize) -> Records {
        Records(vec![vec![0xee; bytes]; n])
    }
}

impl Sink for Records {
    fn write(&mut self, record: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        self.0[record][offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn write_records(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        let size = self.0[first].len();
        bytes.chunks(size).enumerate().for_each(|(i, b)| self.0[first + i].copy_from_slice(b));
        Ok(())
    }
}

fn with_preparer<P: Party, T>(
    ch: &mut Tap,
    tiny: &Tiny,
    keys: &LatticeKeys<P>,
    work: impl FnOnce(&mut Preparer<'_, P>) -> T,
) -> T {
    let mut rng = rng(120 + P::ROLE.index() as u8);
    let mut ot = OtPair::setup(P::ROLE, ch, &mut rng).expect("base transfers");
    let (plan, layout) = (&tiny.plan, &tiny.layout);
    let model = Some(&tiny.model).filter(|_| P::ROLE == Role::Server);
    work(&mut Preparer { ch, plan, layout, keys, ot: &mut ot, model, rng: &mut rng, products: true })
}

fn fill_slots<P: Party>(p: &mut Preparer<'_, P>, n: usize) -> Result<(Vec<bool>, Records)> {
    let mut records = Records::new(n, p.layout.record_bytes());
    let good = p.slots(n, &mut records, &mut |_, _, _| true)?;
    Ok((good, records))
}

type Filled = Ran<Result<(Vec<bool>, Records)>>;

fn slots(tiny: &Tiny, n: usize, faults: [Option<(usize, Fault)>; 2]) -> (Filled, Filled) {
    let (client, server) = keys();
    run_spoiled(
        faults,
        |ch| with_preparer(ch, tiny, client, |p| fill_slots(p, n)),
        |ch| with_preparer(ch, tiny, server, |p| fill_slots(p, n)),
    )
}

fn words(record: &[u8], at: usize, n: usize) -> Vec<Fp> {
    fp_from_bytes(&record[at..at + 8 * n]).expect("field elements")
}

fn add(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}

fn seeds(records: Pair<&[u8]>) -> Pair<Seed> {
    records.map(|r| Seed::from_bytes(r[..SEED_BYTES].try_into().expect("a seed")))
}

/// Checks a slot's records and returns whether it is good.
fn check_slot(tiny: &Tiny, records: Pair<&[u8]>) -> bool {
    let (plan, layout) = (&tiny.plan, &tiny.layout);
    let ideal = ideal::slot(tiny, &seeds(records), |matrix| {
        words(records[0], ideal::place(layout, matrix), matrix.shape(plan).0)
    });
    for (at, sum) in &ideal.sums {
        let [c, s] = records.map(|r| words(r, *at, sum.len()));
        assert!(add(&c, &s) == *sum, "words at {at}");
    }
    for (at, matrix, product) in &ideal.products {
        let [c, s] = records.map(|r| words(r, *at, product.len()));
        assert!(near(*matrix, &add(&c, &s), product), "words at {at}");
    }
    for table in &ideal.tables {
        let keys = records.map(|r| &r[table.at..][..table.shape.record_bytes()]);
        check_key(table.shape, keys, [&table.betas[0], &table.betas[1]]);
    }
    for l in 0..plan.model.layers {
        let (shape, at) = (activation_shape(plan, l), layout.activation_tables(l));
        for (j, index) in Ideal::indices(&ideal.known, tiny, l).into_iter().enumerate() {
            let key = &records[0][at + j * shape.record_bytes()..][..shape.record_bytes()];
            let alpha = TableKey::from_record(shape, key).expect("a well-formed record").alpha();
            let [c, s] = records.map(|r| &r[layout.activation_deltas(l) + 2 * j..][..2]);
            assert_eq!(c, [0, 0], "the client knows its half");
            assert_eq!(u32::from(s[0]) | u32::from(s[1]) << 8, index.wrapping_sub(alpha) % (1 << shape.k()));
        }
    }
    ideal.good
}

#[test]
fn slots_hold_what_the_ideal_functionality_says() {
    let hashes = [["183f68c3676eca49", "6222786a4569a024"], ["df98058d5c39a5ad", "c1cc18d35b191995"]];
    for (arch, hashes) in BOTH.into_iter().zip(hashes) {
        let (tiny, n) = (tiny(arch), 3);
        let (client, server) = slots(tiny, n, [None, None]);
        assert_eq!(
            [client.hash(), server.hash()],
            hashes,
            "the wire format or the derivation of a mask has changed"
        );
        let ((good, c), (also_good, s)) = (client.result.unwrap(), server.result.unwrap());
        assert_eq!((&good, good.len()), (&also_good, n));
        assert_eq!(good, [true; 3], "bounds of these plans are small");
        for (c, s) in c.0.iter().zip(&s.0) {
            assert!(check_slot(tiny, [c, s]));
            assert_eq!([c[tiny.layout.usable()], s[tiny.layout.usable()]], [1, 1]);
        }
    }
}

#[test]
fn slots_that_could_truncate_wrongly_are_marked_by_both() {
    let tiny = build(&Settings { bound: 1 << 53, ..Settings::of(Arch::Gpt) });
    let (client, server) = slots(&tiny, 12, [None, None]);
    let ((good, c), (also_good, s)) = (client.result.unwrap(), server.result.unwrap());
    assert_eq!(good, also_good);
    assert!(good.contains(&true) && good.contains(&false), "{good:?}");
    for ((c, s), good) in c.0.iter().zip(&s.0).zip(good) {
        assert_eq!(check_slot(&tiny, [c, s]), good);
        assert_eq!([c, s].map(|r| r[tiny.layout.usable()]), [u8::from(good); 2]);
    }
}

#[test]
fn spoiled_verdicts_and_interruptions_are_errors() {
    let tiny = tiny(Arch::Gpt);
    let (client, _) = slots(tiny, 1, [None, None]);
    let last = client.sent.len() - 1;
    for fault in [Fault::Truncate, Fault::Extend, Fault::Hangup] {
        let (_, server) = slots(tiny, 1, [Some((last, fault)), None]);
        check_error("verdict", fault, server.result.err());
    }
    let (_, server) = slots(tiny, 1, [Some((last, Fault::Ones)), None]);
    assert!(matches!(server.result.err(), Some(ProtocolError::Peer { what: "slot verdict", .. })));
    let (client, server) = keys();
    let (client, _) = run(
        |ch| {
            with_preparer(ch, tiny, client, |p| {
                let mut records = Records::new(1, p.layout.record_bytes());
                p.slots(1, &mut records, &mut |_, done, _| done < 2).err()
            })
        },
        |ch| with_preparer(ch, tiny, server, |p| fill_slots(p, 1).err()),
    );
    assert!(matches!(client.result, Some(ProtocolError::Interrupted)));
}

#[test]
fn logits_and_exponentials_hold_what_the_ideal_functionality_says() {
    fn party<P: Party>(p: &mut Preparer<'_, P>, n: usize) -> Result<(Vec<bool>, Records, Records)> {
        let mut logits = Records::new(n, logits_record_bytes(p.plan));
        let good = p.logits(n, &mut logits)?;
        let mut exponentials = Records::new(n, exponential_record_bytes(p.plan));
        p.exponentials(n, &mut exponentials)?;
        Ok((good, logits, exponentials))
    }
    let (tiny, n) = (tiny(Arch::Llama), 3);
    let (client, server) = keys();
    let (client, server) = run(
        |ch| with_preparer(ch, tiny, client, |p| party(p, n)),
        |ch| with_preparer(ch, tiny, server, |p| party(p, n)),
    );
    let ((good, c, c_exp), (also_good, s, s_exp)) = (client.result.unwrap(), server.result.unwrap());
    assert_eq!((&good, &also_good), (&vec![true; n], &vec![true; n]));
    let head_matrix = Matrix::Linear(Site::Head);
    let (head, shape) = (tiny.plan.linear(Site::Head), exp_shape(&tiny.plan, 0));
    for i in 0..n {
        let records: Pair<&[u8]> = [&c.0[i], &s.0[i]];
        let (r, _) = ideal::remask(tiny, Site::Head, &seeds(records)[0]);
        let [y_c, y_s] = records.map(|r| words(r, SEED_BYTES, head.d_out));
        assert!(near(head_matrix, &add(&y_c, &y_s), &ideal::multiply(tiny, head_matrix, &r)));
        assert_eq!(records.map(|r| r[r.len() - 1]), [1, 1]);
        let records: Pair<&[u8]> = [&c_exp.0[i], &s_exp.0[i]];
        let betas = records.map(|r| words_from_bytes(&r[..8]).expect("eight bytes"));
        check_key(shape, records.map(|r| &r[8..]), [&betas[0], &betas[1]]);
    }
}
