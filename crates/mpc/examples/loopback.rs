//! Bulk rate and round-trip time of a session over TLS on this machine:
//! `cargo run --release --example loopback`.

use std::time::Instant;

use cryptogen_mpc::session::{connect, Identity, Introduction, Listener, Policy, Trust};
use cryptogen_mpc::{Connection, SessionError};
use cryptogen_party::Party;

const MESSAGE: usize = 8 << 20;
const MESSAGES: usize = 128;
const ROUNDS: usize = 5000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::TempDir::new()?;
    let identity = Identity::load_or_create(dir.path())?;
    let listener = Listener::bind("127.0.0.1:0", &identity)?;
    let address = listener.local_addr()?.to_string();
    let serving = std::thread::spawn(move || -> Result<(), SessionError> {
        let mut server = listener.accept(&mut || false)?;
        let (package_version, protocol) = ("0".into(), "loopback".into());
        server.welcome(&Policy { package_version, protocol, access_token: None })?;
        for _ in 0..MESSAGES {
            server.recv_bytes(MESSAGE)?;
        }
        server.send_bytes(&[0])?;
        exchange(&mut server)?;
        for _ in 0..ROUNDS {
            let ping = server.recv_bytes(64)?;
            server.send_bytes(&ping)?;
        }
        Ok(())
    });
    let trust = Trust::Fingerprint(identity.fingerprint().to_owned());
    let mut client = connect(&address, &trust, None)?;
    let (package_version, protocol) = ("0".into(), "loopback".into());
    client.hello(&Introduction { package_version, protocol, client_id: "c".into(), access_token: None })?;

    let message = vec![1; MESSAGE];
    let start = Instant::now();
    for _ in 0..MESSAGES {
        client.send_bytes(&message)?;
    }
    client.recv_bytes(1)?;
    rate("one way", MESSAGES * MESSAGE, start);
    let start = Instant::now();
    exchange(&mut client)?;
    rate("both ways at once", 2 * MESSAGES * MESSAGE, start);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        client.send_bytes(&[0; 64])?;
        client.recv_bytes(64)?;
    }
    println!("round trip of 64 bytes: {:.1} us", start.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64);
    serving.join().map_err(|_| "the server thread failed")??;
    Ok(())
}

fn exchange<P: Party>(connection: &mut Connection<P>) -> Result<(), SessionError> {
    let message = vec![2; MESSAGE];
    for _ in 0..MESSAGES {
        connection.send_bytes(&message)?;
        connection.recv_bytes(MESSAGE)?;
    }
    Ok(())
}

fn rate(what: &str, bytes: usize, start: Instant) {
    println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
}
