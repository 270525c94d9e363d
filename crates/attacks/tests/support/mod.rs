//! What the attacks share: a party's hand on what it sends, sessions in which one party has one,
//! what the parties' stores hold, and the statistics.
#![allow(dead_code)] // Each file of tests uses some of it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cryptogen_mpc::session::{Connection, Heard};
use cryptogen_party::{Client, Party, Role, Server};
use cryptogen_protocols::endpoint::{exponentials_needed, Endpoint, Stock};
use cryptogen_protocols::online::products::Side;
use cryptogen_protocols::testing::sessions::{client_pass, pair, server_pass, store, Logits};
use cryptogen_protocols::testing::tiny::Tiny;
use cryptogen_protocols::{ProtocolError, Result};

/// Changes message `n`, counted from when the change began.
type Change = Box<dyn FnMut(usize, &mut Vec<u8>) + Send>;

#[derive(Default)]
struct Grip {
    change: Option<Change>,
    /// data messages since the change began
    number: usize,
    sent: Vec<Vec<u8>>,
    heard: Heard,
}

/// A party's hand on its own messages: keeps those that it sends, and may change them. A party
/// whose hand changes nothing follows the protocol.
#[derive(Clone, Default)]
pub struct Hand(Arc<Mutex<Grip>>);

impl Hand {
    /// Lays it on a connection.
    pub fn on<P: Party>(&self, conn: &mut Connection<P>) {
        let hand = self.clone();
        let heard = conn.insecure_deviate(Box::new(move |control, message| {
            let grip = &mut *hand.0.lock().unwrap();
            if control {
                return;
            }
            if let Some(change) = &mut grip.change {
                change(grip.number, message);
            }
            grip.number += 1;
            grip.sent.push(message.clone());
        }));
        self.0.lock().unwrap().heard = heard;
    }

    /// From here on data messages are changed.
    pub fn change(&self, change: impl FnMut(usize, &mut Vec<u8>) + Send + 'static) {
        let mut grip = self.0.lock().unwrap();
        grip.change = Some(Box::new(change));
        grip.number = 0;
    }

    /// From here on the party follows the protocol.
    pub fn rest(&self) {
        self.0.lock().unwrap().change = None;
    }

    /// The data messages that it has sent since it was asked last.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    /// The data messages that its connection has heard. (Messages of these tests are one frame
    /// each.)
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let heard = self.0.lock().unwrap().heard.clone();
        let bytes = heard.lock().unwrap();
        let (mut rest, mut messages) = (&bytes[..], vec![]);
        while let Some((header, more)) = rest.split_first_chunk::<5>() {
            let size = u32::from_le_bytes(*header.first_chunk().unwrap()) as usize;
            let (payload, more) = more.split_at(size.min(more.len()));
            if header[4] == 1 {
                messages.push(payload.to_vec());
            }
            rest = more;
        }
        messages
    }
}

/// A party's end over its store in `dir`, with a hand on it.
pub fn open<P: Side>(mut conn: Connection<P>, tiny: &Tiny, dir: &Path, hand: &Hand) -> Result<Endpoint<P>> {
    hand.on(&mut conn);
    Endpoint::open(conn, tiny.plan.clone(), store::<P>(dir)?, false)
}

/// Material for sessions of `rows` rows and `logits` evaluations of the head.
pub fn stock(rows: usize, logits: usize) -> Stock {
    let all = rows as u64;
    let exponentials = exponentials_needed(0, rows).max(1);
    Stock { linears: all, rows: all, logits: logits as u64, exponentials }
}

/// A party that can prepare and pass.
pub trait Passes: Side {
    fn prepare(e: &mut Endpoint<Self>, tiny: &Tiny, want: Stock) -> Result<()>;
    /// A pass over new rows, of which the last `sampled` get logits.
    fn pass(e: &mut Endpoint<Self>, tiny: &Tiny, tokens: &[usize], sampled: usize) -> Result<Logits>;

    fn pass_new(e: &mut Endpoint<Self>, tiny: &Tiny, tokens: &[usize], sampled: usize) -> Result<Logits> {
        e.extend(tokens.len())?;
        e.take_logits(sampled)?;
        Self::pass(e, tiny, tokens, sampled)
    }
}

impl Passes for Client {
    fn prepare(e: &mut Endpoint<Client>, _: &Tiny, want: Stock) -> Result<()> {
        e.prepare(want, None, &mut |_, _, _| true)
    }
    fn pass(e: &mut Endpoint<Client>, tiny: &Tiny, tokens: &[usize], sampled: usize) -> Result<Logits> {
        client_pass(e, tiny.plan.model.layers, tokens, sampled)
    }
}

impl Passes for Server {
    fn prepare(e: &mut Endpoint<Server>, tiny: &Tiny, want: Stock) -> Result<()> {
        e.prepare(want, Some(&tiny.model), &mut |_, _, _| true)
    }
    fn pass(e: &mut Endpoint<Server>, tiny: &Tiny, tokens: &[usize], sampled: usize) -> Result<Logits> {
        server_pass(e, tiny, tokens.len(), sampled).map(|()| Logits::default())
    }
}

/// Data messages of the client in a pass: embedding, each layer's norms, attention and activation,
/// the final norm.
pub const fn client_messages(layers: usize) -> usize {
    1 + 8 * layers + 2
}

/// The client's message of a layer's attention that opens its scores, in a pass.
pub const fn message_of_scores(layer: usize) -> usize {
    3 + 8 * layer
}

/// A copy of all stores as they are.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(path, to).unwrap()),
        }
    }
}

/// The next records of a pool of a party's store.
fn records<P: Party>(dir: &Path, pool: &str, bytes: usize, n: usize) -> Vec<Vec<u8>> {
    let store = store::<P>(dir).unwrap();
    let records = store.pool(pool, bytes).unwrap().take(n).unwrap();
    records.iter().map(|record| record.bytes().to_vec()).collect()
}

/// The next records of rows.
pub fn rows<P: Party>(tiny: &Tiny, dir: &Path, n: usize) -> Vec<Vec<u8>> {
    records::<P>(dir, "rows", tiny.layout.record_bytes(), n)
}

/// Little-endian words of 8 bytes.
pub fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// How many standard deviations `hits` of `n` tries are away from chance `p`.
pub fn deviations(hits: usize, n: usize, p: f64) -> f64 {
    (hits as f64 - n as f64 * p) / (n as f64 * p * (1.0 - p)).sqrt()
}

/// An attack that is right in `hits` of `n` tries does not differ from guessing at probability `p`:
/// its advantage is within five standard deviations of 0. Returns that bound.
pub fn check_chance(hits: usize, n: usize, p: f64, what: &str) -> f64 {
    assert!(n as f64 * p.min(1.0 - p) >= 20.0, "{what}: {n} tries are too few");
    let away = deviations(hits, n, p);
    let bound = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
    println!("{what}: right {hits} of {n}, by chance {:.1}; advantage below {bound:.4}", n as f64 * p);
    assert!(away.abs() < 5.0, "{what}: {hits} of {n} right, {away:.1} standard deviations from chance");
    bound
}

/// Pearson's statistic of all bytes against uniform ones is within six standard deviations of its
/// mean.
pub fn check_bytes(bytes: impl IntoIterator<Item = u8>, what: &str) {
    let mut counts = [0usize; 256];
    bytes.into_iter().for_each(|b| counts[usize::from(b)] += 1);
    let n = counts.iter().sum::<usize>() as f64;
    assert!(n >= 5.0 * 256.0, "{what}: too few bytes");
    let chi2: f64 = counts.iter().map(|c| (*c as f64 - n / 256.0).powi(2) / (n / 256.0)).sum();
    let away = (chi2 - 255.0) / (2.0 * 255.0f64).sqrt();
    println!("{what}: {away:.1} standard deviations from uniform over {n} bytes");
    assert!(away.abs() < 6.0, "{what}: {away:.1} standard deviations from uniform over {n} bytes");
}

/// A party's run over its store in `dir`: opens it, and does what `then` says.
fn visit<P: Side, T>(
    conn: Connection<P>,
    tiny: &Tiny,
    dir: &Path,
    resync: bool,
    then: impl FnOnce(&mut Endpoint<P>) -> Result<T>,
) -> Result<T> {
    then(&mut Endpoint::open(conn, tiny.plan.clone(), store::<P>(dir)?, resync)?)
}

/// Party `by` puts its store back to an earlier state: the other one refuses it, and where both
/// agree to resynchronise no record is taken twice.
pub fn put_back(tiny: &Tiny, by: Role) {
    fn make<P: Passes>(e: &mut Endpoint<P>, tiny: &Tiny) -> Result<()> {
        P::prepare(e, tiny, stock(4, 4))
    }
    fn spend<P: Passes>(e: &mut Endpoint<P>, tiny: &Tiny) -> Result<Stock> {
        P::pass_new(e, tiny, &[3, 5], 1)?;
        Ok(e.stock())
    }
    let (now, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = now.path();
    let made = pair(
        |conn| visit::<Client, _>(conn, tiny, dir, false, |e| make(e, tiny)),
        |conn| visit::<Server, _>(conn, tiny, dir, false, |e| make(e, tiny)),
    );
    assert!(made.0.is_ok() && made.1.is_ok());
    copy(dir, before.path());
    let left = pair(
        |conn| visit::<Client, _>(conn, tiny, dir, false, |e| spend(e, tiny)),
        |conn| visit::<Server, _>(conn, tiny, dir, false, |e| spend(e, tiny)),
    );
    let left = left.0.unwrap();
    let own = format!("{by:?}");
    fs::remove_dir_all(dir.join(&own)).unwrap();
    copy(&before.path().join(&own), &dir.join(&own));
    let again = |resync: bool| {
        let (client, server) = pair(
            |conn| visit::<Client, _>(conn, tiny, dir, resync, |e| Ok(e.stock())),
            |conn| visit::<Server, _>(conn, tiny, dir, resync, |e| Ok(e.stock())),
        );
        [client, server]
    };
    let [client, server] = again(false);
    let honest = if by == Role::Client { server } else { client };
    assert!(matches!(honest, Err(ProtocolError::Store(_))), "{honest:?}");
    // Exponentials of heads with other numbers of primes are other pools: what is left of each is
    // what was left.
    for honest in again(true) {
        assert_eq!(honest.unwrap(), left);
    }
}
