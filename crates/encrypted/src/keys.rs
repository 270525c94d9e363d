//! The client's secret key and the evaluation keys that the server has of it: made once, kept in
//! each party's store, used by all sessions.
//!
//! Functionality: the server gets the evaluation keys of the client's secret key that the plan
//! needs.
//! Source: CryptoGen (arXiv 2602.08798), in which the server computes under the client's key; keys
//! as in `docs/protocols/encrypted-cache.md`.
//! Inputs: client its secret key, server what it has kept of the evaluation keys; both the public
//! plan's rotations. No shares.
//! Cost: 2 control messages; then C→S, only what the server lacks, a message per `STEPS_AT_ONCE`
//! Galois keys of 1.84 MB each, the first with public and relinearisation key.
//! Material: none.
//! Leaks: nothing. A key id is random.
//!
//! 1. S→C id of the keys it has and their steps. 2. C→S the id of its key. Another id: everything
//!    is missing. 3. C→S what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cryptogen_he::evaluate::{Context, EvaluationKeys, SecretKey};
use cryptogen_mpc::{durable, Connection};
use cryptogen_party::Party;
use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::Prg;
use rand_core::RngCore;
use serde_json::{json, Value};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Galois keys in one message, 1.84 MB each.
const STEPS_AT_ONCE: usize = 8;
const SECRET_FILE: &str = "hybrid.secret";
const EVALUATION_FILE: &str = "hybrid.keys";
const SECRET_MAGIC: &[u8; 8] = b"CGHYSK01";
const EVALUATION_MAGIC: &[u8; 8] = b"CGHYEK01";
const ID: usize = 16;
const DIGEST: usize = 32;

/// Names a client's secret key; random, so it says nothing about the key.
pub type KeyId = [u8; ID];

/// The client's side: its key from the store (made on first use) and its id, after the server got
/// what it lacks.
///
/// # Errors
/// Connection failures, a corrupt file, a full disk.
pub(crate) fn client<P: Party>(
    conn: &mut Connection<P>,
    dir: &Path,
    needed: &BTreeSet<usize>,
    rng: &mut Prg,
) -> Result<(SecretKey, KeyId)> {
    let (secret, id) = load_or_make(dir, rng)?;
    // 1. and 2.
    let theirs = Offer::parse(&conn.recv_control()?)?;
    conn.send_control(&json!({"key": hex(&id)}))?;
    // 3.
    let missing = theirs.missing(&id, needed);
    for (whole, steps) in messages(&missing) {
        let bytes = secret.evaluation_keys(&steps, rng).to_bytes();
        conn.send_bytes(if whole { &bytes } else { &bytes[EvaluationKeys::bytes(0)..] })?;
    }
    Ok((secret, id))
}

/// The server's side: the evaluation keys of its store, completed by the client, and their id.
///
/// # Errors
/// Connection failures, malformed keys, a corrupt file, a full disk.
pub(crate) fn server<P: Party>(
    conn: &mut Connection<P>,
    dir: &Path,
    needed: &BTreeSet<usize>,
) -> Result<(EvaluationKeys, KeyId)> {
    let stored = Stored::load(dir)?;
    // 1. and 2.
    let offer = stored.as_ref().map_or(Offer::default(), Stored::offer);
    conn.send_control(&offer.json())?;
    let theirs = conn.recv_control()?;
    let id = theirs.get("key").and_then(Value::as_str).and_then(unhex);
    let id = id.ok_or_else(|| ProtocolError::peer("key id", "32 hex digits", "something else"))?;
    // 3.
    let missing = offer.missing(&id, needed);
    let mut keys = match stored {
        Some(stored) if stored.id == id => stored,
        _ => Stored { id, base: vec![], galois: BTreeMap::new() },
    };
    let changed = missing.base || !missing.steps.is_empty();
    for (whole, steps) in messages(&missing) {
        let base = EvaluationKeys::bytes(0);
        let skipped = if whole { 0 } else { base };
        let bytes = conn.recv_bytes(EvaluationKeys::bytes(steps.len()) - skipped)?;
        let (first, galois) = bytes.split_at(base - skipped);
        if whole {
            keys.base = first.to_vec();
        }
        keys.galois
            .extend(steps.iter().copied().zip(galois.chunks_exact(galois_bytes()).map(<[u8]>::to_vec)));
    }
    // Keys of an older plan stay: another plan of this store may need them again.
    let parsed = keys.parse()?;
    if changed {
        keys.save(dir)?;
    }
    Ok((parsed, id))
}

fn galois_bytes() -> usize {
    EvaluationKeys::bytes(1) - EvaluationKeys::bytes(0)
}

/// What a server says it has.
#[derive(Default)]
struct Offer {
    id: Option<KeyId>,
    steps: BTreeSet<usize>,
}

/// What a client has to send.
struct Missing {
    base: bool,
    steps: BTreeSet<usize>,
}

impl Offer {
    fn json(&self) -> Value {
        json!({"key": self.id.map(|id| hex(&id)), "steps": self.steps})
    }

    fn parse(v: &Value) -> Result<Offer> {
        let malformed =
            || ProtocolError::peer("list of evaluation keys", "a key id and steps", "something else");
        let id = match v.get("key") {
            None | Some(Value::Null) => None,
            Some(id) => Some(id.as_str().and_then(unhex).ok_or_else(malformed)?),
        };
        let steps = v.get("steps").and_then(Value::as_array).ok_or_else(malformed)?.iter();
        let steps =
            steps.map(|s| s.as_u64().map(|s| s as usize).ok_or_else(malformed)).collect::<Result<_>>()?;
        Ok(Offer { id, steps })
    }

    fn missing(&self, id: &KeyId, needed: &BTreeSet<usize>) -> Missing {
        match self.id == Some(*id) {
            true => Missing { base: false, steps: needed.difference(&self.steps).copied().collect() },
            false => Missing { base: true, steps: needed.clone() },
        }
    }
}

/// The messages that bring what is missing: steps of each, and whether public and relinearisation
/// key come first.
fn messages(missing: &Missing) -> Vec<(bool, BTreeSet<usize>)> {
    let steps: Vec<usize> = missing.steps.iter().copied().collect();
    let mut out: Vec<_> = steps.chunks(STEPS_AT_ONCE).map(|c| (false, c.iter().copied().collect())).collect();
    if missing.base {
        match out.first_mut() {
            Some(first) => first.0 = true,
            None => out.push((true, BTreeSet::new())),
        }
    }
    out
}

/// A server's file:
/// `magic | id | number of steps: u32 | steps: u16 | SHA-256 of all else | base | Galois keys`.
struct Stored {
    id: KeyId,
    base: Vec<u8>,
    galois: BTreeMap<usize, Vec<u8>>,
}

impl Stored {
    fn offer(&self) -> Offer {
        Offer { id: Some(self.id), steps: self.galois.keys().copied().collect() }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(EvaluationKeys::bytes(self.galois.len()));
        out.extend_from_slice(&self.base);
        self.galois.values().for_each(|key| out.extend_from_slice(key));
        out
    }

    fn parse(&self) -> Result<EvaluationKeys> {
        let steps = self.galois.keys().copied().collect();
        Ok(EvaluationKeys::from_bytes(Context::get(), &steps, &self.body())?)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = EVALUATION_MAGIC.to_vec();
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&(self.galois.len() as u32).to_le_bytes());
        self.galois.keys().for_each(|step| out.extend_from_slice(&(*step as u16).to_le_bytes()));
        out
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let (header, body) = (self.header(), self.body());
        write_atomically(dir, EVALUATION_FILE, &[&header, &digest(&[&header, &body]), &body])
    }

    fn load(dir: &Path) -> Result<Option<Stored>> {
        let Some(bytes) = read(dir, EVALUATION_FILE)? else { return Ok(None) };
        let fault = |reason: &str| ProtocolError::corrupt(&dir.join(EVALUATION_FILE), reason);
        let mut rest = &bytes[..];
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at_checked(n)?;
            rest = left;
            Some(taken)
        };
        let short = || fault("too short");
        if take(8).ok_or_else(short)? != EVALUATION_MAGIC {
            return Err(fault("not a file of evaluation keys of this version"));
        }
        let id: KeyId = array(take(ID).ok_or_else(short)?);
        let n = u32::from_le_bytes(array(take(4).ok_or_else(short)?)) as usize;
        let steps = take(n.saturating_mul(2)).ok_or_else(short)?.chunks_exact(2);
        let steps: Vec<usize> = steps.map(|s| usize::from(u16::from_le_bytes(array(s)))).collect();
        let found = take(DIGEST).ok_or_else(short)?;
        let header = &bytes[..8 + ID + 4 + 2 * n];
        if rest.len() != EvaluationKeys::bytes(n) || digest(&[header, rest]) != *found {
            return Err(fault("length or checksum wrong"));
        }
        let (base, galois) = rest.split_at(EvaluationKeys::bytes(0));
        let galois = steps.into_iter().zip(galois.chunks_exact(galois_bytes()).map(<[u8]>::to_vec)).collect();
        Ok(Some(Stored { id, base: base.to_vec(), galois }))
    }
}

/// The client's file: `magic | id | SHA-256 of all else | secret key`.
fn load_or_make(dir: &Path, rng: &mut Prg) -> Result<(SecretKey, KeyId)> {
    let context = Context::get();
    let Some(bytes) = read(dir, SECRET_FILE)? else {
        let mut id = [0; ID];
        rng.fill_bytes(&mut id);
        let secret = SecretKey::generate(context, rng);
        let (header, body) = ([&SECRET_MAGIC[..], &id].concat(), secret.to_bytes());
        write_atomically(dir, SECRET_FILE, &[&header, &digest(&[&header, &body]), &body])?;
        return Ok((secret, id));
    };
    let fault = |reason: &str| ProtocolError::corrupt(&dir.join(SECRET_FILE), reason);
    if bytes.len() != 8 + ID + DIGEST + SecretKey::BYTES || bytes[..8] != *SECRET_MAGIC {
        return Err(fault("not a secret key of this version"));
    }
    let (header, rest) = bytes.split_at(8 + ID);
    let (found, body) = rest.split_at(DIGEST);
    if digest(&[header, body]) != *found {
        return Err(fault("checksum wrong"));
    }
    let secret = SecretKey::from_bytes(context, body).map_err(|e| fault(&e.to_string()))?;
    Ok((secret, array(&header[8..])))
}

fn digest(parts: &[&[u8]]) -> [u8; DIGEST] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|p| hash.update(p));
    hash.finalize().into()
}

fn array<const L: usize>(bytes: &[u8]) -> [u8; L] {
    let mut out = [0; L];
    out.copy_from_slice(bytes);
    out
}

fn hex(id: &KeyId) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<KeyId> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    (digits.len() == 2 * ID).then(|| std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1]))
}

fn read(dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ProtocolError::file(&dir.join(name), e)),
    }
}

/// Replaces a file of the store as a whole, readable by its owner only.
pub(crate) fn write_atomically(dir: &Path, name: &str, parts: &[&[u8]]) -> Result<()> {
    let (path, draft) = (dir.join(name), dir.join(format!("{name}.new")));
    durable::replace(&path, &draft, |file| parts.iter().try_for_each(|p| file.write_all(p)))
        .map_err(|e| ProtocolError::file(&path, e.into()))
}
