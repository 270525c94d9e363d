//! An insecure ideal dealer: it knows both parties' secrets and hands out the correlations that the
//! offline phase would have made, those of exponentials too. Only table keys come from the real
//! two-party generation, run here within one process.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cryptogen_ot::{generate, OtPair, TableKey, TableShape};
use cryptogen_party::{Client, Party, Role, Server};
use cryptogen_ring::exponential::{factors_client, multiply_add, subtract, uniform, weight_server};
use cryptogen_ring::word::lift_client;
use cryptogen_ring::{fp_to_bytes, Fp, Prg, Seed, Wiped, Word};

use super::channel::{run, Tap};
use super::ideal::{self, Ideal, Known, Pair};
use super::rng;
use super::tiny::Tiny;
use crate::material::{
    activation_shape, record_share, removed, Deferred, Exponentials, LogitsMaterial, MaskLabel, Row,
    RowAttention, RowMaterial, Run, FACTOR,
};
use crate::model::{Matrix, Prefix, Site};
use crate::online::preprocessed::Preprocessed;
use crate::online::products::Side;
use crate::online::Online;
use crate::share::Events;

/// By number of primes: the heads that have it, and their records.
type Runs = Vec<(usize, Vec<usize>, Vec<u8>)>;

struct Attention {
    score: Vec<Fp>,
    value: Vec<Fp>,
    weight_mask: Vec<Fp>,
    exponentials: Runs,
}

struct RecordBytes {
    record: Vec<u8>,
    attention: Vec<Attention>,
}

/// One session's material for its rows and for logits.
pub struct Session {
    /// position of the first row: rows of a prefix before it
    first: usize,
    pub known: Vec<Known>,
    /// `r'` of every output head
    pub heads: Vec<Vec<Fp>>,
    records: Vec<Pair<RecordBytes>>,
    logits: Vec<Pair<(Seed, Vec<Fp>)>>,
}

/// Makes table keys for `(shape, payload shares)`, in order.
fn insecure_keys(requests: &[(TableShape, Pair<Vec<Word>>)], seed: u8) -> Vec<Pair<Vec<u8>>> {
    let mut shapes: Vec<TableShape> = vec![];
    for (shape, _) in requests {
        if !shapes.contains(shape) {
            shapes.push(*shape);
        }
    }
    let party = |role: Role, ch: &mut Tap| -> Vec<Vec<u8>> {
        let mut rng = rng(seed ^ (role.index() as u8 + 1));
        let mut ot = OtPair::setup(role, ch, &mut rng).expect("base transfers");
        let mut keys = vec![vec![]; requests.len()];
        for &shape in &shapes {
            let wanted = || requests.iter().enumerate().filter(|(_, (s, _))| *s == shape);
            let betas: Vec<Word> = wanted().flat_map(|(_, (_, b))| b[role.index()].clone()).collect();
            let made =
                generate(ch, &mut ot, shape, wanted().count(), &betas, &mut rng).expect("honest parties");
            for (n, (i, _)) in wanted().enumerate() {
                keys[i] = made.record(n).to_vec();
            }
        }
        keys
    };
    let (client, server) = run(|ch| party(Role::Client, ch), |ch| party(Role::Server, ch));
    client.result.into_iter().zip(server.result).map(|(c, s)| [c, s]).collect()
}

/// Deals `sessions` sessions of `rows` rows and `heads` evaluations of the head.
pub fn insecure_deal(tiny: &Tiny, sessions: usize, rows: usize, heads: usize, seed: u8) -> Vec<Session> {
    insecure_deal_without(None, tiny, sessions, rows, heads, seed)
}

/// The same, behind a prefix.
pub fn insecure_deal_behind(
    prefix: &Prefix,
    tiny: &Tiny,
    sessions: usize,
    rows: usize,
    heads: usize,
    seed: u8,
) -> Vec<Session> {
    Dealer { prefix: Some(prefix), ..Dealer::new(tiny, seed) }.deal(sessions, rows, heads, seed)
}

/// The same, without the masks of one label: zeros instead.
pub fn insecure_deal_without(
    removed: Option<MaskLabel>,
    tiny: &Tiny,
    sessions: usize,
    rows: usize,
    heads: usize,
    seed: u8,
) -> Vec<Session> {
    Dealer { removed, ..Dealer::new(tiny, seed) }.deal(sessions, rows, heads, seed)
}

/// Tells the server the client's half of every activation index, and what the client opens of a
/// drawn payload.
fn insecure_rotations(tiny: &Tiny, known: &Known, [client, server]: &mut Pair<RecordBytes>) {
    let (plan, layout) = (&tiny.plan, &tiny.layout);
    for l in 0..plan.model.layers {
        let (shape, at) = (activation_shape(plan, l), layout.activation_tables(l));
        for (j, index) in Ideal::indices(known, tiny, l).into_iter().enumerate() {
            let record = &client.record[at + j * shape.record_bytes()..][..shape.record_bytes()];
            let alpha = TableKey::from_record(shape, record).expect("a generated key").alpha();
            let d = index.wrapping_sub(alpha) & (shape.size() as u32 - 1);
            server.record[layout.activation_deltas(l) + 2 * j..][..2]
                .copy_from_slice(&(d as u16).to_le_bytes());
            if shape.is_drawn() {
                let theirs = record_share(shape, record, FACTOR);
                let record = &mut server.record[at + j * shape.record_bytes()..][..shape.record_bytes()];
                let u = known.outputs[Site::Up(l).index(plan.model.layers)][j];
                let share = record_share(shape, record, FACTOR) + theirs - lift_client(u);
                record[shape.share_at(FACTOR)..][..8].copy_from_slice(&share.0.to_le_bytes());
            }
        }
    }
}

/// Where a key goes in the record of a (session, row).
struct Place {
    row: (usize, usize),
    at: usize,
}

struct Dealer<'a> {
    tiny: &'a Tiny,
    removed: Option<MaskLabel>,
    prefix: Option<&'a Prefix>,
    rng: Prg,
    requests: Vec<(TableShape, Pair<Vec<Word>>)>,
    places: Vec<Place>,
}

impl<'a> Dealer<'a> {
    fn new(tiny: &'a Tiny, seed: u8) -> Dealer<'a> {
        Dealer { tiny, removed: None, prefix: None, rng: rng(seed), requests: vec![], places: vec![] }
    }

    fn deal(mut self, sessions: usize, rows: usize, heads: usize, seed: u8) -> Vec<Session> {
        let first = self.prefix.map_or(0, Prefix::rows);
        let mut dealt: Vec<Session> = (0..sessions)
            .map(|s| {
                let (records, known) = (0..rows).map(|i| self.record((s, i))).unzip();
                let mut session = Session { first, known, heads: vec![], records, logits: vec![] };
                for i in 0..rows {
                    self.attention(&mut session, i);
                }
                for _ in 0..heads {
                    let (input, material) = self.head();
                    session.heads.push(input);
                    session.logits.push(material);
                }
                session
            })
            .collect();
        let keys = insecure_keys(&self.requests, seed);
        for (place, keys) in self.places.iter().zip(keys) {
            for (material, key) in dealt[place.row.0].records[place.row.1].iter_mut().zip(keys) {
                material.record[place.at..][..key.len()].copy_from_slice(&key);
            }
        }
        for session in &mut dealt {
            for (known, material) in session.known.iter().zip(&mut session.records) {
                insecure_rotations(self.tiny, known, material);
            }
        }
        dealt
    }

    /// Random shares of given values.
    fn share(&mut self, values: &[Fp]) -> Pair<Vec<Fp>> {
        let client = self.rng.fp_vec(values.len());
        let server = values.iter().zip(&client).map(|(x, c)| *x - *c).collect();
        [client, server]
    }

    fn key(&mut self, place: Place, shape: TableShape, betas: Pair<Vec<Word>>) {
        self.places.push(place);
        self.requests.push((shape, betas));
    }

    fn seeds(&mut self) -> Pair<Seed> {
        [Seed::random(&mut self.rng), Seed::random(&mut self.rng)].map(|seed| match self.removed {
            Some(what) => removed::from(*seed.expose(), what),
            None => seed,
        })
    }

    fn record(&mut self, row: (usize, usize)) -> (Pair<RecordBytes>, Known) {
        let (layout, seeds) = (&self.tiny.layout, self.seeds());
        let mut client_shares = vec![];
        let ideal = ideal::record(self.tiny, &seeds, |matrix| {
            let share = self.rng.fp_vec(matrix.shape(&self.tiny.plan).0);
            client_shares.push((layout.product(matrix), share.clone()));
            share
        });
        let mut records = seeds.map(|seed| {
            let mut record = vec![0; layout.record_bytes()];
            record[..32].copy_from_slice(seed.expose());
            record
        });
        let sums = ideal.sums.iter().map(|(at, sum)| (at, sum));
        for (at, sum) in sums.chain(ideal.products.iter().map(|(at, _, sum)| (at, sum))) {
            let given = client_shares.iter().find(|(a, _)| a == at).map(|(_, share)| share.clone());
            let client = given.unwrap_or_else(|| self.rng.fp_vec(sum.len()));
            let server: Vec<Fp> = sum.iter().zip(&client).map(|(x, c)| *x - *c).collect();
            for (record, share) in records.iter_mut().zip([client, server]) {
                record[*at..at + 8 * share.len()].copy_from_slice(&fp_to_bytes(&share));
            }
        }
        for table in ideal.tables {
            self.key(Place { row, at: table.at }, table.shape, table.betas);
        }
        (records.map(|record| RecordBytes { record, attention: vec![] }), ideal.known)
    }

    /// Attention material of a session's `i`-th row; the rows before it are there.
    fn attention(&mut self, session: &mut Session, i: usize) {
        let (plan, known) = (&self.tiny.plan, session.known[..=i].iter().collect::<Vec<_>>());
        let t = session.first + i;
        let server_seed =
            |record: &Pair<RecordBytes>| Seed::from_bytes(record[1].record[..32].try_into().expect("a seed"));
        let seeds: Vec<Seed> = session.records[..=i].iter().map(server_seed).collect();
        let n = plan.model.heads * (t + 1);
        for l in 0..plan.model.layers {
            let (exponentials, weights) = self.exponentials(l, t + 1);
            let weights = [self.rng.fp_vec(n), weights];
            let sums = ideal::attention(self.tiny, l, self.prefix, (&known, &seeds), &weights);
            let [score, value] = sums.map(|sum| self.share(&sum));
            let shares = score.into_iter().zip(value).zip(weights).zip(exponentials);
            let shares = shares.map(|(((score, value), weight_mask), exponentials)| Attention {
                score,
                value,
                weight_mask,
                exponentials,
            });
            session.records[i]
                .iter_mut()
                .zip(shares)
                .for_each(|(record, layer)| record.attention.push(layer));
        }
    }

    /// Both parties' exponentials of a row and layer for `cached` rows, and the server's weights,
    /// `[heads][cached]`. A row alone has none.
    fn exponentials(&mut self, layer: usize, cached: usize) -> (Pair<Runs>, Vec<Fp>) {
        let plan = &self.tiny.plan;
        let (mut runs, mut weights) = ([vec![], vec![]], vec![Fp::ZERO; plan.model.heads * cached]);
        for primes in plan.prime_counts().into_iter().filter(|_| cached > 1) {
            let heads: Vec<usize> = plan.heads_with(layer, primes).collect();
            let mut records = [vec![], vec![]];
            for (&head, j) in heads.iter().flat_map(|head| (0..cached).map(move |j| (head, j))) {
                let (c, mut a) = (self.rng.fp_vec(1)[0], vec![0; primes]);
                factors_client(c, &mut a);
                let mut random = || -> Vec<u64> { (0..primes).map(|i| uniform(i, &mut self.rng)).collect() };
                let (b, w_c) = (random(), random());
                let w_s: Vec<u64> =
                    (0..primes).map(|i| subtract(i, multiply_add(i, 0, a[i], b[i]), w_c[i])).collect();
                weights[head * cached + j] = weight_server(&w_s, plan.attention[layer].heads[head].shift);
                for (record, numbers) in records.iter_mut().zip([[vec![c.value()], a, w_c], [vec![], b, w_s]])
                {
                    record.extend(numbers.iter().flatten().flat_map(|number| number.to_le_bytes()));
                }
            }
            if !heads.is_empty() {
                for (runs, records) in runs.iter_mut().zip(records) {
                    runs.push((primes, heads.clone(), records));
                }
            }
        }
        (runs, weights)
    }

    fn head(&mut self) -> (Vec<Fp>, Pair<(Seed, Vec<Fp>)>) {
        let [client, server] = self.seeds();
        let r = ideal::remask(self.tiny, Site::Head, &client);
        let [c, s] = self.share(&ideal::multiply(self.tiny, Matrix::Linear(Site::Head), &r));
        (r, [(client, c), (server, s)])
    }
}

/// The material of a whole record, as the store would hand it out.
pub fn material<P: Party>(tiny: &Tiny, mut record: &[u8], file: &Arc<Path>) -> RowMaterial<P> {
    let piece = |len| {
        let (piece, rest) = record.split_at(len);
        record = rest;
        Deferred::Here(Wiped::new(piece.to_vec()), file.clone())
    };
    let pieces = tiny.layout.pieces().into_iter().map(piece).collect();
    RowMaterial::from_pieces(&tiny.layout, pieces).expect("a whole record")
}

impl Session {
    /// A party's session with all the material; rows still wait for tokens.
    pub fn online<P: Side>(&self, tiny: &Tiny) -> Online<P> {
        let (p, file) = (P::ROLE.index(), Arc::<Path>::from(Path::new("dealt")));
        let products = P::preprocessed(Preprocessed::new(tiny.plan.clone(), tiny.layout.clone()));
        let mut online = Online::new(tiny.plan.clone(), tiny.layout.clone(), products);
        let run = |(primes, heads, records): &(usize, Vec<usize>, Vec<u8>)| Run {
            primes: *primes,
            heads: heads.clone(),
            records: Deferred::Here(Wiped::new(records.clone()), file.clone()),
        };
        let attention = |a: &Attention| RowAttention {
            score: Wiped::new(a.score.clone()),
            value: Wiped::new(a.value.clone()),
            weight_mask: Wiped::new(a.weight_mask.clone()),
            exponentials: Exponentials::new(a.exponentials.iter().map(run).collect()),
        };
        let row = |(position, records): (usize, &Pair<RecordBytes>)| Row {
            material: material(tiny, &records[p].record, &file),
            position: self.first + position,
            attention: records[p].attention.iter().map(attention).collect(),
            events: Events::default(),
        };
        online.add_rows(self.records.iter().enumerate().map(row).collect());
        let head = |(seed, share): &(Seed, Vec<Fp>)| LogitsMaterial {
            seed: Seed::from_bytes(*seed.expose()),
            share: Wiped::new(share.clone()),
        };
        online.add_logits(self.logits.iter().map(|h| head(&h[p])).collect());
        online
    }

    /// Both parties' sessions, which begin with the prefix that they were dealt behind.
    pub fn behind(&self, tiny: &Tiny, prefix: &Prefix) -> (Online<Client>, Online<Server>) {
        let (mut client, mut server) = (self.online::<Client>(tiny), self.online::<Server>(tiny));
        client.put_prefix(prefix.rows()).expect("a known prefix");
        server.put_prefix(prefix).expect("a known prefix");
        (client, server)
    }

    /// Both parties' sessions with `rows` in progress (earlier ones gone) and all heads taken.
    pub fn active(&self, tiny: &Tiny, rows: Range<usize>) -> (Online<Client>, Online<Server>) {
        fn start<P: Side>(mut o: Online<P>, rows: Range<usize>) -> Online<P> {
            o.active = o.ready.drain(..rows.end).skip(rows.start).collect();
            o.logits_now = o.logits_ready.drain(..).collect();
            o
        }
        (start(self.online(tiny), rows.clone()), start(self.online(tiny), rows))
    }
}
