//! Keys of the paper's protocols: made once, kept, and only what is missing is sent.

use std::collections::BTreeSet;
use std::path::Path;

use cryptogen_he::evaluate::EvaluationKeys;
use cryptogen_mpc::Connection;
use cryptogen_protocols::ProtocolError;
use cryptogen_ring::{Prg, Seed};
use rand_core::OsRng;
use serde_json::json;

use super::rng;
use crate::keys;

/// Bytes that the client sends of its keys, and what both make of it.
fn agree(
    dir: &Path,
    needed: &BTreeSet<usize>,
) -> (u64, cryptogen_protocols::Result<keys::KeyId>, cryptogen_protocols::Result<keys::KeyId>) {
    let (near, far) = Connection::memory_pair();
    let dirs = ["client", "server"].map(|name| dir.join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut far = far;
            keys::server(&mut far, &dirs[1], needed).map(|(keys, id)| {
                assert!(needed.is_subset(&keys.steps()));
                id
            })
        });
        let mut near = near;
        let mut fresh = Prg::new(&Seed::random(&mut OsRng));
        let client = keys::client(&mut near, &dirs[0], needed, &mut fresh).map(|(_, id)| id);
        let sent = near.stats().setup.bytes_sent;
        drop(near);
        (sent, client, server.join().unwrap())
    })
}

#[test]
fn malformed_offers_of_keys_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let steps = BTreeSet::from([1]);
    for bad in [
        json!({}),
        json!({"key": 5, "steps": []}),
        json!({"key": "xyz", "steps": []}),
        json!({"key": null, "steps": [-1]}),
    ] {
        let (mut near, mut far) = Connection::memory_pair();
        far.send_control(&bad).unwrap();
        let client = keys::client(&mut near, dir.path(), &steps, &mut rng(97)).err();
        assert!(matches!(client, Some(ProtocolError::Peer { .. })), "{bad}");
        let (mut near, mut far) = Connection::memory_pair();
        near.send_control(&json!({"key": bad.get("key").unwrap_or(&json!(1))})).unwrap();
        let server = keys::server(&mut far, dir.path(), &steps).err();
        assert!(matches!(server, Some(ProtocolError::Peer { .. })), "{bad}");
    }
}

#[test]
fn keys_are_made_once_and_only_what_is_missing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (few, more) = (BTreeSet::from([1, 64, 700]), BTreeSet::from([1, 2, 3, 5, 6, 7, 8, 9, 10, 64, 4000]));
    let each = (EvaluationKeys::bytes(1) - EvaluationKeys::bytes(0)) as u64;
    let whole = |steps: &BTreeSet<usize>| EvaluationKeys::bytes(steps.len()) as u64;
    let check = |needed: &BTreeSet<usize>, bytes: u64| {
        let (sent, client, server) = agree(dir.path(), needed);
        let id = client.unwrap();
        assert_eq!(id, server.unwrap());
        assert!(sent >= bytes && sent < bytes + 400, "{sent} {bytes}");
        id
    };
    let id = check(&few, whole(&few));
    assert_eq!(check(&few, 0), id);
    assert_eq!(check(&more, 9 * each), id);
    assert_eq!(check(&few, 0), id);
    let (client, server) = (dir.path().join("client/hybrid.secret"), dir.path().join("server/hybrid.keys"));
    for file in [&client, &server] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    std::fs::remove_file(&server).unwrap();
    assert_eq!(check(&few, whole(&few)), id);
    std::fs::remove_file(&client).unwrap();
    assert_ne!(check(&few, whole(&few)), id);

    let spoil = |file: &Path, change: fn(&mut Vec<u8>)| {
        let good = std::fs::read(file).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        std::fs::write(file, &bad).unwrap();
        let (_, client, server) = agree(dir.path(), &few);
        std::fs::write(file, &good).unwrap();
        (client.err(), server.err())
    };
    let changes: [fn(&mut Vec<u8>); 4] =
        [|b| b[0] ^= 1, |b| b.truncate(30), |b| *b.last_mut().unwrap() ^= 1, |b| b.push(0)];
    for change in changes {
        assert!(
            matches!(spoil(&client, change).0, Some(ProtocolError::Corrupt { file, .. }) if file == client)
        );
        assert!(
            matches!(spoil(&server, change).1, Some(ProtocolError::Corrupt { file, .. }) if file == server)
        );
    }
    check(&few, 0);
}
