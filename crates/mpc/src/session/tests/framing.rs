use proptest::prelude::*;

use super::*;

#[test]
fn messages_of_any_length_arrive_whole() {
    let (mut client, mut server) = Connection::memory_pair();
    for len in [0, 1, 5, MAX_FRAME, MAX_FRAME + 1, 2 * MAX_FRAME] {
        let message: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        client.send_bytes(&message).unwrap();
        assert_eq!(server.recv_bytes(len).unwrap(), message);
    }
}

#[test]
fn every_other_length_is_refused() {
    for (sent, expected) in [(3, 4), (4, 3), (0, 1), (MAX_FRAME + 1, MAX_FRAME), (MAX_FRAME, MAX_FRAME + 1)] {
        let (mut client, mut server) = Connection::memory_pair();
        client.send_bytes(&vec![0; sent]).unwrap();
        assert!(
            matches!(server.recv_bytes(expected), Err(SessionError::Message(MessageError::Length { expected: e, .. })) if e == expected)
        );
        assert_eq!(server.recv_bytes(expected), Err(SessionError::Closed), "the stream is out of step");
        // The other direction still works: the peer can be told.
        server.send_failure("length", "").unwrap();
        assert!(matches!(client.recv_bytes(1), Err(SessionError::Peer { .. })));
    }
}

#[test]
fn frames_that_break_the_rules() {
    let too_large = SessionError::Message(MessageError::TooLarge { limit: MAX_FRAME, actual: 0xffff_ffff });
    let cases = [
        (vec![0xff, 0xff, 0xff, 0xff, DATA], too_large),
        (frame(0, b""), MessageError::Malformed("unknown kind of frame").into()),
        (frame(PART, b""), MessageError::Malformed("empty piece of a message").into()),
        (frame(CONTROL, b"{}"), MessageError::Malformed("control message where data was expected").into()),
        (frame(FAILURE, b"no"), MessageError::Malformed("failure message is not JSON").into()),
        (frame(FAILURE, &[b' '; 5000]), MessageError::TooLarge { limit: MAX_FAILURE, actual: 5000 }.into()),
    ];
    for (bytes, error) in cases {
        let (mut connection, peer, _wire) = fed_by_hand::<Client>();
        peer.send(bytes).unwrap();
        assert_eq!(connection.recv_bytes(1 << 30), Err(error));
    }
    let (mut connection, peer, _wire) = fed_by_hand::<Client>();
    peer.send([(MAX_CONTROL as u32 + 1).to_le_bytes().as_slice(), &[CONTROL]].concat()).unwrap();
    let too_large =
        SessionError::Message(MessageError::TooLarge { limit: MAX_CONTROL, actual: MAX_CONTROL + 1 });
    assert_eq!(connection.recv_control(), Err(too_large));
    let large = Value::String("x".repeat(MAX_CONTROL));
    assert!(matches!(connection.send_control(&large), Err(SessionError::Unsendable { .. })));
}

#[test]
fn memory_follows_what_arrives_not_what_is_announced() {
    let mut out = Vec::new();
    let mut watch = Watch::new(Duration::from_millis(1));
    let (mut ours, theirs) = memory::wire_pair();
    theirs.sender().send(vec![1; 100]).unwrap();
    assert!(matches!(ours.read(&mut out, MAX_FRAME, &mut watch), Err(SessionError::Timeout { .. })));
    assert!(out.len() == 100 && out.capacity() < 1000);
}

#[test]
fn the_peers_failure_is_typed_and_harmless() {
    let (mut client, mut server) = Connection::memory_pair();
    server.set_phase(Phase::Offline);
    server.send_failure("kind", &format!("bell \u{7} {}", "x".repeat(1000))).unwrap();
    let Err(SessionError::Peer { phase, kind, text }) = client.recv_control() else { panic!("no failure") };
    assert_eq!((phase.as_str(), kind.as_str(), text.len()), ("offline", "kind", 200));
    assert!(text.starts_with("bell ? x"));
    assert!(matches!(client.take_failure(), Some(SessionError::Peer { .. })));

    // Also when we only notice because the peer closed while we were sending.
    let (mut client, mut server) = Connection::memory_pair();
    server.send_failure("plan", "why").unwrap();
    drop(server);
    assert!(matches!(client.send_bytes(b"x"), Err(SessionError::Peer { text, .. }) if text == "why"));
    assert_eq!(ChannelError::from(SessionError::Closed), Channel::send(&mut client, b"x").unwrap_err());
}

#[test]
fn counters_per_phase() {
    let (mut client, mut server) = Connection::memory_pair();
    client.send_control(&json!([])).unwrap();
    server.recv_control().unwrap();
    client.set_phase(Phase::Online);
    server.set_phase(Phase::Online);
    for _ in 0..3 {
        client.send(&[0; 10]).unwrap();
        client.send(&[0; 20]).unwrap();
        server.recv(10).unwrap();
        server.recv(20).unwrap();
        server.send(&[0; 7]).unwrap();
        client.recv(7).unwrap();
    }
    let (c, s) = (client.stats(), server.stats());
    assert_eq!((c.setup.bytes_sent, c.setup.messages_sent, s.setup.bytes_received), (7, 1, 7));
    let online = PhaseStats {
        bytes_sent: 3 * (10 + 20 + 2 * 5),
        bytes_received: 3 * (7 + 5),
        messages_sent: 6,
        messages_received: 3,
        round_trips: 3,
    };
    assert_eq!(c.online, online);
    assert_eq!((s.online.bytes_sent, s.online.bytes_received), (online.bytes_received, online.bytes_sent));
    assert_eq!(s.online.round_trips, 2);
    assert_eq!(c.offline, PhaseStats::default());
    client.send_bytes(&vec![0; MAX_FRAME + 1]).unwrap();
    assert_eq!(client.stats().online.bytes_sent, online.bytes_sent + MAX_FRAME as u64 + 1 + 10);
    assert_eq!(serde_json::to_value(client.stats()).unwrap()["setup"]["bytes_sent"], 7);
}

#[test]
fn interrupts_and_timeouts_between_messages_lose_nothing() {
    let (mut client, peer, _wire) = fed_by_hand::<Client>();
    client.set_interrupt(Box::new(|| true));
    let message = frame(DATA, b"abc");
    peer.send(message[..3].to_vec()).unwrap();
    assert_eq!(client.recv_bytes(3), Err(SessionError::Interrupted));
    client.set_interrupt(Box::new(|| false));
    client.set_idle_timeout(Duration::from_millis(1));
    assert_eq!(client.recv_bytes(3), Err(SessionError::Timeout { seconds: 0 }));
    client.set_idle_timeout(DEFAULT_IDLE);
    peer.send(message[3..].to_vec()).unwrap();
    assert_eq!(client.recv_bytes(3).unwrap(), b"abc");

    // In the middle of a message there is no way back.
    peer.send(message[..6].to_vec()).unwrap();
    client.set_idle_timeout(Duration::from_millis(1));
    assert!(matches!(client.recv_bytes(3), Err(SessionError::Timeout { .. })));
    assert_eq!(client.recv_bytes(3), Err(SessionError::Closed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_bytes_of_the_peer_panic(bytes in garbage(), len in 0usize..100, call in 0..5) {
        let (mut client, peer, wire) = fed_by_hand::<Client>();
        let (mut server, peer2, wire2) = fed_by_hand::<Server>();
        peer.send(bytes.clone()).unwrap();
        peer2.send(bytes).unwrap();
        drop((peer, wire, peer2, wire2));
        match call {
            0 => drop(client.recv_bytes(len)),
            1 => drop(client.recv_control()),
            2 => drop(client.hello(&introduction(None))),
            3 => drop(server.welcome(&policy(Some("t")))),
            _ => drop(client.agree(&agreement())),
        }
    }
}

/// Noise, and frames of every kind whose content is noise or nearly right JSON.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let noise = || proptest::collection::vec(any::<u8>(), 0..80);
    let json = prop_oneof![
        Just("{}"),
        Just("[[[["),
        Just(r#"{"protocol_version":1e99,"agree":7}"#),
        Just(r#"{"protocol_version":1,"client_id":"../..","access_token":"t","protocol":"preprocessed"}"#),
        Just(r#"{"protocol_version":1,"refused":"x","agree":{"model":"m","plan":[]}}"#),
    ];
    let framed = (0u8..6, prop_oneof![noise(), json.prop_map(|j| j.as_bytes().to_vec())]);
    prop_oneof![noise(), framed.prop_map(|(kind, payload)| frame(kind, &payload))]
}

fn agreement() -> Agreement {
    let text = String::from;
    Agreement { model: text("m"), plan: text("p"), tables: text("t"), parameters: text("n8192") }
}

#[test]
fn agreement_names_the_first_difference() {
    for (field, value) in [("", ""), ("model", "M"), ("plan", "P"), ("tables", "T"), ("parameters", "X")] {
        let (mut client, mut server) = Connection::memory_pair();
        let mut theirs = agreement();
        match field {
            "model" => theirs.model = value.into(),
            "plan" => theirs.plan = value.into(),
            "tables" => theirs.tables = value.into(),
            "parameters" => theirs.parameters = value.into(),
            _ => {}
        }
        let server = std::thread::spawn(move || server.agree(&theirs));
        let (ours, theirs) = (client.agree(&agreement()), server.join().unwrap());
        if field.is_empty() {
            assert_eq!((ours, theirs), (Ok(()), Ok(())));
        } else {
            assert!(
                matches!(&ours, Err(SessionError::Mismatch { field: f, actual, .. }) if *f == field && actual == value)
            );
            assert!(
                matches!(&theirs, Err(SessionError::Mismatch { field: f, expected, .. }) if *f == field && expected == value)
            );
        }
    }
}

#[test]
fn a_child_neither_sends_nor_receives() {
    let (mut client, mut server) = Connection::memory_pair();
    server.send_bytes(b"for the parent").unwrap();
    in_a_child(|| {
        assert_eq!(client.send_bytes(b"from the child"), Err(SessionError::Forked));
        assert_eq!(client.send_control(&json!({})), Err(SessionError::Forked));
        assert_eq!(client.send_failure("child", ""), Err(SessionError::Forked));
        assert_eq!(client.recv_bytes(14), Err(SessionError::Forked));
        assert_eq!(client.recv_control(), Err(SessionError::Forked));
    });
    // The parent goes on, both ways.
    assert_eq!(client.recv_bytes(14).unwrap(), b"for the parent");
    client.send_bytes(b"from the parent").unwrap();
    assert_eq!(server.recv_bytes(15).unwrap(), b"from the parent");
}
