mod framing;
mod tls;

use std::sync::mpsc::Sender;

use cryptogen_party::{Client, Server};

use super::memory::MemoryWire;
use super::*;
use crate::process::in_a_child;

/// A connection whose peer is the test itself, byte for byte.
fn fed_by_hand<P: Party>() -> (Connection<P>, Sender<Vec<u8>>, MemoryWire) {
    let (ours, theirs) = memory::wire_pair();
    (Connection::over(Box::new(ours)), theirs.sender(), theirs)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], &[kind], payload].concat()
}

fn introduction(access_token: Option<&str>) -> Introduction {
    Introduction {
        package_version: "0.1.0".into(),
        protocol: "preprocessed".into(),
        client_id: "alice-1".into(),
        access_token: access_token.map(|t| AccessToken::new(t.into())),
    }
}

fn policy(access_token: Option<&str>) -> Policy {
    Policy {
        package_version: "0.1.0".into(),
        protocol: "preprocessed".into(),
        access_token: access_token.map(|t| AccessToken::new(t.into())),
    }
}
