//! Every error has its Python class and its text. The table is part of the Python package's crate,
//! whose tests would have to link Python; it needs none itself.

#[path = "../../python/src/errors/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use cryptogen_he::HeError;
use cryptogen_mpc::store::{PoolCursor, StoreError};
use cryptogen_mpc::SessionError;
use cryptogen_ot::OtError;
use cryptogen_party::{ChannelError, MessageError};
use cryptogen_protocols::error::PlanError;
use cryptogen_protocols::ProtocolError;

/// An error, its class and its text.
type Row = (ProtocolError, &'static str, &'static str);

fn own() -> Vec<Row> {
    use ProtocolError as E;
    let file = || PathBuf::from("/d/model");
    let failed = |kind: ErrorKind| E::File { file: file(), error: Error::new(kind, "why") };
    vec![
        (E::caller("token", "below 9", 10), "InputError", "token: expected below 9, got 10"),
        (
            E::peer("key id", "32 hex digits", 7),
            "ProtocolViolation",
            "malformed key id from the peer: expected 32 hex digits, got 7",
        ),
        (E::corrupt(&file(), "checksum wrong"), "StoreError", "file /d/model: checksum wrong"),
        (failed(ErrorKind::PermissionDenied), "StoreError", "file /d/model: why"),
        (failed(ErrorKind::StorageFull), "DiskFull", "file /d/model: why"),
        (failed(ErrorKind::FileTooLarge), "DiskFull", "file /d/model: why"),
        (
            E::Spent { what: "table key" },
            "MaterialSpent",
            "table key: expected a fresh one, got one used before",
        ),
        (
            E::Short { what: "rows", needed: 2, available: 1 },
            "MaterialShort",
            "not enough prepared material: rows needs 2, 1 left",
        ),
        (E::Interrupted, "KeyboardInterrupt", "interrupted"),
        (E::bug("keys", "ours", "theirs"), "InternalError", "keys: expected ours, got theirs"),
    ]
}

fn plan() -> Vec<Row> {
    use PlanError as E;
    let text = || "x".to_owned();
    let rows = [
        (E::Json("why".into()), "the plan is not valid JSON: why"),
        (E::Missing("layers".into()), "the plan lacks layers"),
        (
            E::Value { field: "k".into(), expected: text(), actual: "9".into() },
            "plan field k: expected x, got 9",
        ),
        (E::Unfit { what: "noise", expected: text(), actual: text() }, "noise: expected x, got x"),
    ];
    rows.into_iter().map(|(e, text)| (e.into(), "PlanRejected", text)).collect()
}

fn message() -> Vec<(MessageError, &'static str, &'static str)> {
    use MessageError as E;
    vec![
        (E::Length { expected: 4, actual: 3 }, "ProtocolViolation", "peer message has 3 bytes, expected 4"),
        (
            E::TooLarge { limit: 4, actual: 5 },
            "ProtocolViolation",
            "peer message of 5 bytes exceeds the limit of 4 bytes",
        ),
        (E::Malformed("not JSON"), "ProtocolViolation", "malformed message: not JSON"),
    ]
}

fn channel() -> Vec<Row> {
    use ChannelError as E;
    let own = [
        (E::Closed, "ConnectionLost", "channel closed by the peer"),
        (
            E::Forked,
            "Forked",
            "this process was forked from the one that opened the channel, and must open its own",
        ),
        (E::Peer("online: why".into()), "PeerFailed", "peer failed: online: why"),
        (E::Interrupted, "KeyboardInterrupt", "interrupted"),
        (E::Timeout, "PeerTimeout", "timed out waiting for the peer"),
        (E::Io(ErrorKind::Other), "ConnectionFailed", "transport failed: other error"),
    ];
    let message = message().into_iter().map(|(e, class, text)| (E::from(e), class, text));
    own.into_iter().chain(message).map(|(e, class, text)| (e.into(), class, text)).collect()
}

fn session() -> Vec<Row> {
    use SessionError as E;
    let text = || "x".to_owned();
    let own = [
        (E::Closed, "ConnectionLost", "connection closed by the peer"),
        (
            E::Forked,
            "Forked",
            "this process was forked from the one that opened the connection, and must open its own",
        ),
        (
            E::Unsendable { limit: 4, actual: 5 },
            "InputError",
            "message of 5 bytes exceeds the limit of 4 bytes",
        ),
        (
            E::Peer { phase: "online".into(), kind: "Busy".into(), text: text() },
            "PeerFailed",
            "the peer failed during online: Busy: x",
        ),
        (E::Interrupted, "KeyboardInterrupt", "interrupted while waiting for the peer"),
        (E::Timeout { seconds: 9 }, "PeerTimeout", "no answer from the peer for 9 s"),
        (
            E::Io { action: "connecting", kind: ErrorKind::ConnectionRefused },
            "ConnectionFailed",
            "connecting failed: connection refused",
        ),
        (E::AddressInUse { address: text() }, "AddressInUse", "address x is already in use"),
        (
            E::Address { address: text(), reason: "why".into() },
            "ConnectionFailed",
            "cannot use address \"x\": why",
        ),
        (E::Tls("why".into()), "ConnectionFailed", "TLS: why"),
        (
            E::Fingerprint { expected: text(), actual: "y".into() },
            "WrongFingerprint",
            "server certificate fingerprint is y, expected x",
        ),
        (
            E::Identity { path: "/d/key.pem".into(), reason: "why".into() },
            "ConnectionFailed",
            "/d/key.pem: why",
        ),
        (
            E::Version { expected: 4, actual: 3 },
            "VersionMismatch",
            "wire protocol version of the peer is 3, ours is 4",
        ),
        (
            E::Protocol { expected: text(), actual: "y".into() },
            "VersionMismatch",
            "the peer runs protocol \"y\", we run \"x\"",
        ),
        (E::AccessToken, "WrongAccessToken", "the access token is missing or wrong"),
        (
            E::ClientId,
            "ConnectionFailed",
            "client id must be 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit",
        ),
        (
            E::Mismatch { field: "model", expected: text(), actual: "y".into() },
            "AgreementMismatch",
            "the parties disagree on model: ours is \"x\", the peer's is \"y\"",
        ),
    ];
    let message = message().into_iter().map(|(e, class, text)| (E::from(e), class, text));
    own.into_iter().chain(message).map(|(e, class, text)| (e.into(), class, text)).collect()
}

fn store() -> Vec<Row> {
    use StoreError as E;
    let (pool, path) = (|| "rows".to_owned(), || PathBuf::from("/d/rows"));
    let at = |cursor: u64| PoolCursor { cursor, committed: 9 };
    let rows = [
        (
            E::Io { action: "reading", path: path(), kind: ErrorKind::NotFound },
            "StoreError",
            "reading /d/rows: entity not found",
        ),
        (
            E::DiskFull { path: path(), needed: Some(9), available: Some(1) },
            "DiskFull",
            "disk full: no room for /d/rows (9 bytes needed, 1 free)",
        ),
        (
            E::Forked,
            "Forked",
            "this process was forked from the one that opened the store, and must open its own",
        ),
        (E::Locked { dir: path() }, "StoreLocked", "store /d/rows is in use by another process"),
        (
            E::Binding { field: "model", expected: "x".into(), actual: "y".into() },
            "MaterialMismatch",
            "store is bound to model \"y\", expected \"x\"",
        ),
        (E::Corrupt { path: path(), reason: "why".into() }, "StoreError", "/d/rows cannot be used: why"),
        (E::Failed, "StoreError", "the store failed earlier and must be reopened"),
        (
            E::Short { pool: pool(), needed: 2, available: 1 },
            "MaterialShort",
            "pool rows has 1 records left, 2 are needed",
        ),
        (
            E::PoolName("../x".into()),
            "InternalError",
            "pool name \"../x\" is not 1 to 64 of a-z 0-9 . _ - starting with a letter or digit",
        ),
        (
            E::RecordBytes { pool: pool(), expected: 8, actual: 9 },
            "StoreError",
            "pool rows has records of 9 bytes, expected 8",
        ),
        (
            E::Size { pool: pool(), records: 2, record_bytes: 3 },
            "InternalError",
            "pool rows: 2 records of 3 bytes are too much",
        ),
        (
            E::Bounds { record: 1, offset: 2, len: 3, records: 4, record_bytes: 5 },
            "InternalError",
            "write to record 1, bytes 2..+3, of a batch of 4 records of 5 bytes",
        ),
        (E::BatchOpen { pool: pool() }, "InternalError", "pool rows already has an open batch"),
        (
            E::Incomplete { pool: pool(), expected: 9, actual: 8 },
            "InternalError",
            "batch of pool rows has 8 bytes written, expected 9",
        ),
        (
            E::Skip { pool: pool(), asked: 1, cursor: 2, committed: 3 },
            "InternalError",
            "pool rows: cannot skip to 1, the cursor is 2 and the end is 3",
        ),
        (
            E::StoreId { expected: "x".into(), actual: "y".into() },
            "MaterialMismatch",
            "store id is \"y\", expected \"x\": the parties' material does not belong together",
        ),
        (
            E::CursorMismatch { pool: pool(), mine: at(1), theirs: at(2) },
            "MaterialMismatch",
            "pool rows: we have spent 1 of 9 records, the peer 2 of 9; one side lost its last step or was restored \
             from a copy. Records spent by either are lost to both: resynchronise to go on",
        ),
        (
            E::PeerState("too many pools"),
            "ProtocolViolation",
            "the peer's store state is invalid: too many pools",
        ),
    ];
    rows.map(|(e, class, text)| (e.into(), class, text)).into()
}

fn he() -> Vec<Row> {
    use HeError as E;
    let what = "ciphertext";
    let rows = [
        (
            E::Residue { what, index: 3, modulus: 7 },
            "ProtocolViolation",
            "lattice encryption: ciphertext: residue 3 is not below the modulus 7",
        ),
        (
            E::Length { what, expected: 4, actual: 3 },
            "InternalError",
            "lattice encryption: ciphertext: expected length 4, got 3",
        ),
        (
            E::SecretKey { index: 3 },
            "InternalError",
            "lattice encryption: secret key: coefficient 3 is not ternary",
        ),
        (
            E::Layout { expected: 4, actual: 5 },
            "InternalError",
            "lattice encryption: a layout has at most 2^4 slots, got 2^5",
        ),
        (
            E::LayoutMismatch { expected: 4, actual: 5 },
            "InternalError",
            "lattice encryption: layouts disagree: expected 2^4 slots, got 2^5",
        ),
        (
            E::TooManyProducts { expected: 4, actual: 5 },
            "InternalError",
            "lattice encryption: a sum of 5 products exceeds the noise bound's 4",
        ),
        (
            E::Noise { what, bits: 5, limit: 4 },
            "InternalError",
            "lattice encryption: the noise of ciphertext deviates by 2^5, at most 2^4 can be hidden and decrypted",
        ),
        (
            E::Packing { what: "tokens", most: 4, actual: 5 },
            "InternalError",
            "lattice encryption: packing: tokens: from 1 to 4, got 5",
        ),
        (
            E::Opening { what: "the public key cannot be decrypted under" },
            "ProtocolViolation",
            "lattice encryption: opening: the public key cannot be decrypted under",
        ),
        (
            E::MissingRotation { step: 7, available: 2 },
            "InternalError",
            "lattice encryption: no Galois key for a rotation by 7 slots: the key owner made keys for 2 other steps",
        ),
        (
            E::Lanes { expected: 4, actual: 5 },
            "InternalError",
            "lattice encryption: lanes: expected a power of two up to 4, got 5",
        ),
        (
            E::Parameters { what: "log2 q", expected: 4, actual: 5 },
            "InternalError",
            "lattice encryption: parameters refused: log2 q: at most 4, got 5",
        ),
    ];
    rows.map(|(e, class, text)| (e.into(), class, text)).into()
}

fn ot() -> Vec<Row> {
    use OtError as E;
    let rows = [
        (E::Channel(ChannelError::Closed), "ConnectionLost", "channel closed by the peer"),
        (
            E::Malformed { what: "curve point", index: 2 },
            "ProtocolViolation",
            "oblivious transfer: peer sent a malformed curve point (item 2)",
        ),
        (
            E::Inconsistent("transfers"),
            "ProtocolViolation",
            "oblivious transfer: peer deviated from the protocol: its transfers are inconsistent",
        ),
        (
            E::Failed,
            "InternalError",
            "oblivious transfer: transfers of a pair that failed before are not used",
        ),
        (
            E::Size { what: "results", expected: 4, actual: 3 },
            "InternalError",
            "oblivious transfer: results: expected 4, got 3",
        ),
        (
            E::Range { what: "tables", min: 0, max: 4, actual: 5 },
            "InternalError",
            "oblivious transfer: tables must be in 0..=4, got 5",
        ),
        (
            E::Record("index outside the domain"),
            "StoreError",
            "oblivious transfer: corrupt table record: index outside the domain",
        ),
    ];
    rows.map(|(e, class, text)| (e.into(), class, text)).into()
}

fn all() -> Vec<Row> {
    [own(), plan(), channel(), session(), store(), he(), ot()].into_iter().flatten().collect()
}

#[test]
fn every_error_has_its_class_and_its_text() {
    for (error, class, text) in all() {
        assert_eq!((table::protocol(&error), error.to_string().as_str()), (class, text), "{error:?}");
    }
}

#[test]
fn a_saved_cache_that_cannot_be_used_is_no_damaged_store() {
    for (error, class, _) in own() {
        let expected = match error {
            ProtocolError::Corrupt { .. } | ProtocolError::File { .. } => "CacheRejected",
            _ => class,
        };
        assert_eq!(table::saved_cache(&error), expected, "{error:?}");
    }
}

/// The lists above leave no variant out.
#[test]
fn every_variant_is_tried() {
    const PROTOCOL: &str = include_str!("../src/error.rs");
    const CHANNEL: &str = include_str!("../../party/src/channel.rs");
    let sources = [
        (PROTOCOL, "ProtocolError", "", all()),
        (PROTOCOL, "PlanError", "Plan(", plan()),
        (CHANNEL, "ChannelError", "Channel(", channel()),
        (CHANNEL, "MessageError", "Channel(Message(", channel()),
        (CHANNEL, "MessageError", "Session(Message(", session()),
        (include_str!("../../mpc/src/session/error.rs"), "SessionError", "Session(", session()),
        (include_str!("../../mpc/src/store/error.rs"), "StoreError", "Store(", store()),
        (include_str!("../../he/src/error.rs"), "HeError", "He(", he()),
        (include_str!("../../ot/src/error.rs"), "OtError", "Ot(", ot()),
    ];
    for (source, name, prefix, rows) in sources {
        let declared = variants(source, name);
        let tried: BTreeSet<String> =
            rows.iter().filter_map(|(e, ..)| variant(&format!("{e:?}"), prefix)).collect();
        // An `OtError::Channel` is a `ProtocolError::Channel` as soon as it gets here.
        let passed_on = |missing: &&String| name == "OtError" && *missing == "Channel";
        let missing: Vec<&String> = declared.difference(&tried).filter(|m| !passed_on(m)).collect();
        assert!(declared.len() > 2 && missing.is_empty(), "{name}: {missing:?} of {declared:?}");
    }
}

/// Names of the variants of an enum, from its source.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let body = source.split_once(&format!("pub enum {name} {{\n")).unwrap().1.split_once("\n}").unwrap().0;
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    lines.filter(|line| line.starts_with(char::is_uppercase)).map(first_word).collect()
}

/// The variant that a debug text names behind `prefix`.
fn variant(debug: &str, prefix: &str) -> Option<String> {
    Some(first_word(debug.strip_prefix(prefix)?))
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}
