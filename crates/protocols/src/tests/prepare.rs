//! The real offline phase makes records that hold what the ideal functionality says, attention
//! material included.

use std::path::Path;

use cryptogen_ot::{OtPair, TableKey};
use cryptogen_party::{Client, Party, Role};
use cryptogen_ring::{fp_from_bytes, Fp, Seed, Wiped};

use super::channel::{run, run_spoiled, Fault, Ran, Tap};
use super::ideal::{self, Ideal, Pair};
use super::offline::{check_error, keys, near};
use super::rng;
use super::tables::check_key;
use super::tiny::{tiny, Arch, Tiny, BOTH};
use crate::error::{ProtocolError, Result};
use crate::material::{
    activation_shape, record_share, Deferred, LatticeKeys, Linears, RowLayout, FACTOR, PRODUCT, SEED_BYTES,
};
use crate::model::{Matrix, Site};
use crate::offline::prepare::{logits_record_bytes, Preparer, Sink};
use crate::offline::Progress;

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

fn fill<P: Party>(p: &mut Preparer<'_, P>, n: usize) -> Result<Records> {
    fill_while(p, n, &mut |_, _, _| true)
}

/// What `Linear` makes for `n` rows, then their material.
fn fill_while<P: Party>(p: &mut Preparer<'_, P>, n: usize, progress: Progress<'_>) -> Result<Records> {
    let mut made = Records::new(n, p.layout.linears_bytes());
    p.linears(n, &mut made, progress)?;
    let mut records = Records::new(n, p.layout.record_bytes());
    p.rows(linears(p.layout, &made), &mut records, progress)?;
    for (record, made) in records.0.iter().zip(&made.0) {
        assert!(record.starts_with(made), "a record begins with that of `linears`");
    }
    Ok(records)
}

/// Records of `linears`, as the store would hand them out.
fn linears(layout: &RowLayout, records: &Records) -> Linears {
    let mut pieces = vec![];
    for mut record in records.0.iter().map(Vec::as_slice) {
        for len in layout.linears_pieces() {
            let (piece, rest) = record.split_at(len);
            pieces.push(Deferred::Here(Wiped::new(piece.to_vec()), Path::new("linears.records").into()));
            record = rest;
        }
        assert!(record.is_empty());
    }
    Linears::from_pieces(layout, pieces).expect("whole records")
}

type Filled = Ran<Result<Records>>;

fn prepared(tiny: &Tiny, n: usize, faults: [Option<(usize, Fault)>; 2]) -> (Filled, Filled) {
    let (client, server) = keys();
    run_spoiled(
        faults,
        |ch| with_preparer(ch, tiny, client, |p| fill(p, n)),
        |ch| with_preparer(ch, tiny, server, |p| fill(p, n)),
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

/// Checks both records of a row.
fn check_row(tiny: &Tiny, records: Pair<&[u8]>) {
    let (plan, layout) = (&tiny.plan, &tiny.layout);
    let ideal = ideal::record(tiny, &seeds(records), |matrix| {
        words(records[0], layout.product(matrix), matrix.shape(plan).0)
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
        let mut betas = table.betas.clone();
        if let Some(known) = table.known {
            betas = [0, 1].map(|p| [PRODUCT, FACTOR].map(|l| record_share(table.shape, keys[p], l)).to_vec());
            betas[0][FACTOR - 1] = known;
        }
        check_key(table.shape, keys, [&betas[0], &betas[1]]);
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
}

#[test]
fn rows_hold_what_the_ideal_functionality_says() {
    let hashes = [["65d99156abbc15c4", "eb629be2da220dcb"], ["310273942851e908", "02388bc6479c9dd3"]];
    for (arch, hashes) in BOTH.into_iter().zip(hashes) {
        let (tiny, n) = (tiny(arch), 3);
        let (client, server) = prepared(tiny, n, [None, None]);
        let sent = [client.hash(), server.hash()];
        let (c, s) = (client.result.unwrap(), server.result.unwrap());
        c.0.iter().zip(&s.0).for_each(|(c, s)| check_row(tiny, [c, s]));
        assert_eq!(sent, hashes, "the wire format or the derivation of a mask has changed");
    }
}

#[test]
fn spoiled_rotations_and_interruptions_are_errors() {
    let tiny = tiny(Arch::Gpt);
    let (client, _) = prepared(tiny, 1, [None, None]);
    let last = client.sent.len() - 1;
    for fault in [Fault::Truncate, Fault::Extend, Fault::Hangup] {
        let (_, server) = prepared(tiny, 1, [Some((last, fault)), None]);
        check_error("the client's last message", fault, server.result.err());
    }
    let (client, server) = keys();
    let (client, _) = run(
        |ch| with_preparer(ch, tiny, client, |p| fill_while(p, 1, &mut |_, done, _| done < 2).err()),
        |ch| with_preparer(ch, tiny, server, |p| fill(p, 1).err()),
    );
    assert!(matches!(client.result, Some(ProtocolError::Interrupted)));
}

#[test]
fn a_damaged_record_of_linears_names_its_file() {
    let (tiny, (client, server)) = (tiny(Arch::Gpt), keys());
    let damaged = |p: &mut Preparer<'_, Client>| {
        let mut made = Records::new(1, p.layout.linears_bytes());
        made.0[0].fill(0xff);
        let mut records = Records::new(1, p.layout.record_bytes());
        p.rows(linears(p.layout, &made), &mut records, &mut |_, _, _| true).expect_err("no field elements")
    };
    let (client, _) =
        run(|ch| with_preparer(ch, tiny, client, damaged), |ch| with_preparer(ch, tiny, server, |_| ()));
    assert!(client.result.to_string().contains("linears.records"), "{}", client.result);
}

#[test]
fn logits_hold_what_the_ideal_functionality_says() {
    fn party<P: Party>(p: &mut Preparer<'_, P>, n: usize) -> Result<Records> {
        let mut logits = Records::new(n, logits_record_bytes(p.plan));
        p.logits(n, &mut logits)?;
        Ok(logits)
    }
    let (tiny, n) = (tiny(Arch::Llama), 3);
    let (client, server) = keys();
    let (client, server) = run(
        |ch| with_preparer(ch, tiny, client, |p| party(p, n)),
        |ch| with_preparer(ch, tiny, server, |p| party(p, n)),
    );
    let (c, s) = (client.result.unwrap(), server.result.unwrap());
    let head_matrix = Matrix::Linear(Site::Head);
    let head = tiny.plan.linear(Site::Head);
    for i in 0..n {
        let records: Pair<&[u8]> = [&c.0[i], &s.0[i]];
        let r = ideal::remask(tiny, Site::Head, &seeds(records)[0]);
        let [y_c, y_s] = records.map(|r| words(r, SEED_BYTES, head.d_out));
        assert!(near(head_matrix, &add(&y_c, &y_s), &ideal::multiply(tiny, head_matrix, &r)));
    }
}
