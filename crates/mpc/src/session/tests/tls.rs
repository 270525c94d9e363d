use std::net::TcpStream;
use std::path::Path;
use std::thread::{spawn, JoinHandle};
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

use super::super::wire::DROPPED_BYTES;
use super::*;

/// A server on a free port that runs `serve` for one client.
fn server<T: Send + 'static>(
    identity: &Identity,
    serve: impl FnOnce(Connection<Server>) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = Listener::bind("127.0.0.1:0", identity).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, spawn(move || serve(listener.accept(&mut || false).unwrap())))
}

fn identity(dir: &TempDir) -> Identity {
    Identity::load_or_create(dir.path()).unwrap()
}

fn pin(identity: &Identity) -> Trust {
    Trust::Fingerprint(identity.fingerprint().to_owned())
}

#[test]
fn handshake_and_bulk_both_ways_at_once() {
    const BYTES: usize = 50 << 20;
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let pattern = |seed: usize| (0..BYTES).map(|i| (i * 31 + seed + (i >> 13)) as u8).collect::<Vec<_>>();
    let (address, theirs) = server(&identity, move |mut connection| {
        let hello = connection.welcome(&policy(Some("secret"))).unwrap();
        // Both send first: neither waits for the other to read.
        connection.send_bytes(&pattern(1)).unwrap();
        assert!(connection.recv_bytes(BYTES).unwrap() == pattern(2));
        connection.send_control(&json!({"done": true})).unwrap();
        hello
    });
    let mut client = connect(&address, &pin(&identity), None).unwrap();
    let welcome = client.hello(&introduction(Some("secret"))).unwrap();
    assert_eq!(welcome.package_version, "0.1.0");
    client.send_bytes(&pattern(2)).unwrap();
    assert!(client.recv_bytes(BYTES).unwrap() == pattern(1));
    assert_eq!(client.recv_control().unwrap(), json!({"done": true}));
    assert_eq!(theirs.join().unwrap().client_id, "alice-1");
    assert_eq!(client.recv_control(), Err(SessionError::Closed));
}

#[test]
fn identity_is_kept_private_and_stable() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let sub = dir.path().join("a/b");
    let first = Identity::load_or_create(&sub).unwrap().fingerprint().to_owned();
    assert_eq!(Identity::load_or_create(&sub).unwrap().fingerprint(), first);
    let file = sub.join("identity.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Identity::load_or_create(&sub), Err(SessionError::Identity { .. })));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "nothing").unwrap();
    assert!(matches!(Identity::load_or_create(&sub), Err(SessionError::Identity { .. })));
}

#[test]
fn wrong_fingerprint_on_both_sides() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let (address, theirs) = server(&identity, |mut connection| connection.welcome(&policy(None)));
    let mut client = connect(&address, &Trust::Fingerprint("00:".repeat(32)), None).unwrap();
    let (expected, actual) = ("00".repeat(32), identity.fingerprint().to_owned());
    assert_eq!(client.hello(&introduction(None)), Err(SessionError::Fingerprint { expected, actual }));
    assert!(matches!(theirs.join().unwrap(), Err(SessionError::Tls(_))));
    let short = Trust::Fingerprint("abc".into());
    assert!(matches!(connect(&address, &short, None), Err(SessionError::Identity { .. })));
}

/// A certificate is public; what it says is who has the key.
#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    let (owner, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (pinned, _) = (identity(&owner), identity(&other));
    let impostor = Identity::impostor(owner.path(), other.path());
    assert_eq!(impostor.fingerprint(), pinned.fingerprint());
    let (address, theirs) = server(&impostor, |mut connection| connection.welcome(&policy(None)));
    let mut client = connect(&address, &pin(&pinned), None).unwrap();
    assert!(matches!(client.hello(&introduction(None)), Err(SessionError::Tls(_))));
    assert!(theirs.join().unwrap().is_err());
}

#[test]
fn refusals_are_the_same_on_both_sides() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let mut other = introduction(Some("secret"));
    other.protocol = "recompute".into();
    for (me, ours, theirs) in [
        (introduction(Some("wrong")), SessionError::AccessToken, SessionError::AccessToken),
        (introduction(None), SessionError::AccessToken, SessionError::AccessToken),
        (
            other,
            SessionError::Protocol { expected: "recompute".into(), actual: "preprocessed".into() },
            SessionError::Protocol { expected: "preprocessed".into(), actual: "recompute".into() },
        ),
    ] {
        let (address, serving) =
            server(&identity, |mut connection| connection.welcome(&policy(Some("secret"))));
        let mut client = connect(&address, &pin(&identity), None).unwrap();
        assert_eq!(client.hello(&me), Err(ours));
        assert_eq!(serving.join().unwrap(), Err(theirs));
    }
    let mut me = introduction(None);
    me.client_id = "..".into();
    let (mut client, _server) = Connection::memory_pair();
    assert_eq!(client.hello(&me), Err(SessionError::ClientId));
}

#[test]
fn versions_are_compared_by_both() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let (address, theirs) = server(&identity, |mut connection| connection.welcome(&policy(None)));
    let mut client = connect(&address, &pin(&identity), None).unwrap();
    client.send_control(&json!({"protocol_version": PROTOCOL_VERSION + 1})).unwrap();
    assert_eq!(client.recv_control().unwrap()["protocol_version"], PROTOCOL_VERSION);
    let version = SessionError::Version { expected: PROTOCOL_VERSION, actual: PROTOCOL_VERSION + 1 };
    assert_eq!(theirs.join().unwrap(), Err(version.clone()));

    let (address, theirs) = server(&identity, |mut connection| {
        connection.recv_control().unwrap();
        connection.send_control(&json!({"protocol_version": PROTOCOL_VERSION + 1})).unwrap();
        connection
    });
    let mut client = connect(&address, &pin(&identity), None).unwrap();
    assert_eq!(client.hello(&introduction(None)), Err(version));
    drop(theirs.join());
}

#[test]
fn ordinary_verification_with_a_private_authority() {
    let dir = TempDir::new().unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority, &authority_key).unwrap();
    let file = |name: &str, text: String| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let identity =
        Identity::from_pem(&file("leaf.pem", leaf.pem()), &file("key.pem", key.serialize_pem())).unwrap();
    let authority = file("ca.pem", authority.pem());
    let attempt = |host: &str, trust: Trust| {
        let (address, theirs) = server(&identity, |mut connection| connection.welcome(&policy(None)).is_ok());
        let port = address.rsplit(':').next().unwrap().to_owned();
        let mut client = connect(&format!("{host}:{port}"), &trust, None).unwrap();
        let result = client.hello(&introduction(None));
        drop(client);
        assert_eq!(theirs.join().unwrap(), result.is_ok());
        result
    };
    assert!(attempt("localhost", Trust::CaFile(authority.clone())).is_ok());
    assert!(matches!(attempt("127.0.0.1", Trust::CaFile(authority)), Err(SessionError::Tls(_))));
    assert!(matches!(attempt("localhost", Trust::PublicAuthorities), Err(SessionError::Tls(_))));
    let missing = Trust::CaFile(Path::new("/nonexistent").into());
    assert!(matches!(connect("localhost:1", &missing, None), Err(SessionError::Identity { .. })));
}

#[test]
fn addresses() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let listener = Listener::bind("127.0.0.1:0", &identity).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let in_use = SessionError::AddressInUse { address: address.clone() };
    assert_eq!(Listener::bind(&address, &identity).err(), Some(in_use));
    assert!(matches!(Listener::bind("nonsense", &identity), Err(SessionError::Address { .. })));
    assert_eq!(listener.accept(&mut || true).err(), Some(SessionError::Interrupted));
    drop(listener);
    assert!(matches!(connect(&address, &pin(&identity), None), Err(SessionError::Io { .. })));
    assert!(matches!(connect("no port", &pin(&identity), None), Err(SessionError::Address { .. })));
}

#[test]
fn a_peer_that_vanishes_in_a_message() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let (address, theirs) = server(&identity, |mut connection| {
        connection.welcome(&policy(None)).unwrap();
        // A header that promises more than ever comes.
        let Connection { wire, watch, .. } = &mut connection;
        wire.write(&[0, 0, 16, 0, DATA], &[0; 1000], watch).unwrap();
    });
    let mut client = connect(&address, &pin(&identity), None).unwrap();
    client.hello(&introduction(None)).unwrap();
    assert_eq!(client.recv_bytes(1 << 20), Err(SessionError::Closed));
    theirs.join().unwrap();
}

#[test]
fn an_oversized_frame_over_tls() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let (address, theirs) = server(&identity, |mut connection| connection.welcome(&policy(None)));
    let mut client = connect(&address, &pin(&identity), None).unwrap();
    let Connection { wire, watch, .. } = &mut client;
    wire.write(&[1, 0, 0, 1, CONTROL], &[], watch).unwrap();
    let too_large = SessionError::Message(MessageError::TooLarge { limit: MAX_FRAME, actual: MAX_FRAME + 1 });
    assert_eq!(theirs.join().unwrap(), Err(too_large));
}

#[test]
fn strangers_without_tls_are_sent_away() {
    use std::io::Write;
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let (address, theirs) = server(&identity, |mut connection| connection.welcome(&policy(None)));
    TcpStream::connect(&address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(matches!(theirs.join().unwrap(), Err(SessionError::Tls(_))));

    // Or one that says nothing at all: the whole handshake has a limit.
    let (address, theirs) = server(&identity, |mut connection| {
        connection.limit_handshake(Duration::from_millis(150));
        connection.welcome(&policy(None))
    });
    let silent = TcpStream::connect(&address).unwrap();
    assert_eq!(theirs.join().unwrap(), Err(SessionError::Timeout { seconds: 0 }));
    drop(silent);
}

#[test]
fn an_interrupt_reaches_a_waiting_and_a_sending_party() {
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let (done, hold) = std::sync::mpsc::channel::<()>();
    let (address, theirs) = server(&identity, move |mut connection| {
        connection.welcome(&policy(None)).unwrap();
        let _ = hold.recv();
    });
    let mut client = connect(&address, &pin(&identity), None).unwrap();
    client.hello(&introduction(None)).unwrap();
    client.set_interrupt(Box::new(|| true));
    assert_eq!(client.recv_bytes(1), Err(SessionError::Interrupted));
    // Nobody reads, so the socket fills up.
    assert_eq!(client.send_bytes(&vec![0; 64 << 20]), Err(SessionError::Interrupted));
    assert_eq!(client.send_bytes(b"x"), Err(SessionError::Closed), "part of a frame is out");
    drop(done);
    theirs.join().unwrap();
}

/// A client that says hello and then does not read until it has sent everything.
fn speaks_first(
    address: &str,
    identity: &Identity,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    use std::io::{Read, Write};
    let (config, _) = pin(identity).config().unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let tls = rustls::ClientConnection::new(config, name).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, TcpStream::connect(address).unwrap());
    let hello = json!({
        "protocol_version": PROTOCOL_VERSION, "package_version": "0.1.0",
        "protocol": "preprocessed", "client_id": "alice-1", "access_token": null,
    });
    stream.write_all(&frame(CONTROL, hello.to_string().as_bytes())).unwrap();
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let size = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
    stream.read_exact(&mut vec![0; size]).unwrap();
    stream
}

#[test]
fn a_refused_client_that_sends_much_learns_why() {
    use std::io::{Read, Write};
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let refuse = |mut connection: Connection<Server>| {
        connection.welcome(&policy(None)).unwrap();
        // Something that the client has not read yet stands before the refusal.
        connection.send_bytes(&[7; 1000]).unwrap();
        connection.send_failure("Refused", "why").unwrap();
        assert_eq!(connection.send_bytes(b"x"), Err(SessionError::Closed), "that was the last word");
        assert_eq!(connection.recv_bytes(1), Err(SessionError::Closed));
    };

    // Any client: what it sends is taken, and the refusal reaches it whole.
    let (address, theirs) = server(&identity, refuse);
    let mut client = speaks_first(&address, &identity);
    for _ in 0..32 {
        client.write_all(&frame(DATA, &vec![0; 1 << 20])).unwrap();
    }
    let mut said = vec![];
    client.read_to_end(&mut said).unwrap(); // TLS and TCP end in order
    assert!(said.starts_with(&frame(DATA, &[7; 1000])) && String::from_utf8_lossy(&said).contains("why"));
    drop(client);
    theirs.join().unwrap();

    // Ours, however much it sends: more than is taken, too.
    for megabytes in [8, 200] {
        let (address, theirs) = server(&identity, refuse);
        let mut client = connect(&address, &pin(&identity), None).unwrap();
        client.hello(&introduction(None)).unwrap();
        let sent = (0..megabytes).try_for_each(|_| client.send_bytes(&vec![0; 1 << 20]));
        let answer = sent.and_then(|()| client.recv_bytes(1000)).and_then(|_| client.recv_bytes(1));
        assert!(matches!(answer, Err(SessionError::Peer { text, .. }) if text == "why"), "{megabytes} MB");
        drop(client);
        theirs.join().unwrap();
    }
}

#[test]
fn a_refused_client_does_not_keep_the_server() {
    use std::io::Write;
    let dir = TempDir::new().unwrap();
    let identity = identity(&dir);
    let refuse = |mut connection: Connection<Server>| {
        connection.welcome(&policy(None)).unwrap();
        let start = Instant::now();
        let _ = connection.send_failure("Refused", "why");
        start.elapsed()
    };
    // One that goes on without a word or an end.
    let (address, theirs) = server(&identity, refuse);
    let silent = speaks_first(&address, &identity);
    let took = theirs.join().unwrap();
    assert!(took >= ENDING && took < 2 * ENDING, "{took:?}");
    drop(silent);

    // One that never stops sending, as fast as it can, or slowly.
    for pause in [Duration::ZERO, Duration::from_millis(5)] {
        let (address, theirs) = server(&identity, refuse);
        let mut loud = speaks_first(&address, &identity);
        let mut sent = 0;
        while loud.write_all(&[0; 1 << 16]).is_ok() {
            sent += 1 << 16;
            std::thread::sleep(pause);
        }
        let took = theirs.join().unwrap();
        assert!(took < 2 * ENDING, "{took:?}");
        // What is in the sockets' buffers comes on top.
        assert!(sent < DROPPED_BYTES + (32 << 20), "{sent} bytes were taken");
    }
}
