//! The endpoint and its store: comparing it with the peer's, filling batches.

use cryptogen_mpc::session::SessionError;
use cryptogen_mpc::store::{Batch, Store, StoreState};
use cryptogen_mpc::Connection;
use cryptogen_party::{Party, Role};
use cryptogen_ring::Prg;
use serde_json::{json, Value};

use super::Protocol;
use crate::error::{ProtocolError, Result};
use crate::offline::prepare::Sink;

/// A batch of the store that is being filled.
pub(super) struct BatchSink {
    pub(super) batch: Batch,
}

impl Sink for BatchSink {
    fn write(&mut self, record: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        Ok(self.batch.write(record, offset, bytes)?)
    }
    fn write_records(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        Ok(self.batch.write_records(first, bytes)?)
    }
}

/// The protocols, then store ids and cursors must agree; the server names a new pair of stores.
pub(super) fn compare_stores<P: Party>(
    conn: &mut Connection<P>,
    store: &Store,
    resync: bool,
    protocol: Protocol,
    rng: &mut Prg,
) -> Result<()> {
    let mine = json!({
        "state": store.state(), "resync": resync, "propose": Store::new_store_id(rng), "protocol": protocol.name,
    });
    let theirs = match P::ROLE {
        Role::Client => {
            conn.send_control(&mine)?;
            conn.recv_control()?
        }
        Role::Server => {
            let theirs = conn.recv_control()?;
            conn.send_control(&mine)?;
            theirs
        }
    };
    let malformed =
        || ProtocolError::peer("store state", "a protocol, a state and a proposed id", "something else");
    let theirs_is = theirs.get("protocol").and_then(Value::as_str).ok_or_else(malformed)?;
    if theirs_is != protocol.name {
        let (expected, actual) = (protocol.name.to_owned(), theirs_is.chars().take(40).collect());
        return Err(SessionError::Mismatch { field: "protocol", expected, actual }.into());
    }
    let their_state: StoreState = serde_json::from_value(theirs.get("state").cloned().ok_or_else(malformed)?)
        .map_err(|_| malformed())?;
    let proposal = if P::ROLE == Role::Server { &mine } else { &theirs };
    let proposed = proposal.get("propose").and_then(Value::as_str).ok_or_else(malformed)?;
    if let Some(id) = store.state().id_to_take(&their_state, proposed) {
        return Ok(store.set_store_id(&id)?);
    }
    if resync || theirs.get("resync").and_then(Value::as_bool) == Some(true) {
        return Ok(store.resync(&their_state)?);
    }
    Ok(store.state().compare(&their_state)?)
}
