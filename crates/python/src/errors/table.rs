//! The one table from Rust errors to the classes of `cryptogen.errors`. The compiler sees that no
//! variant is missing.
//!
//! Nothing here knows Python, so `crates/protocols/tests/python_errors.rs` compiles this file too
//! and tries every variant.

use cryptogen_he::HeError;
use cryptogen_mpc::durable::no_room;
use cryptogen_mpc::store::StoreError;
use cryptogen_mpc::SessionError;
use cryptogen_ot::OtError;
use cryptogen_party::ChannelError;
use cryptogen_protocols::ProtocolError;

/// Of Python itself: what Ctrl-C raises.
pub const INTERRUPTED: &str = "KeyboardInterrupt";
/// A bug of ours.
const BUG: &str = "InternalError";

/// Of a child that uses what its parent has opened.
const FORKED: &str = "Forked";

/// Errors of a protocol step.
pub fn protocol(e: &ProtocolError) -> &'static str {
    use ProtocolError as E;
    match e {
        E::Caller { .. } => "InputError",
        E::Peer { .. } => "ProtocolViolation",
        E::File { error, .. } if no_room(error.kind()) => "DiskFull",
        E::Corrupt { .. } | E::File { .. } => "StoreError",
        E::Spent { .. } => "MaterialSpent",
        E::Short { .. } => "MaterialShort",
        E::Interrupted => INTERRUPTED,
        E::Bug { .. } => BUG,
        E::Plan(_) => "PlanRejected",
        E::Channel(e) => channel(e),
        E::Session(e) => session(e),
        E::Store(e) => store(e),
        E::He(e) => he(e),
        E::Ot(e) => ot(e),
    }
}

/// The same of a saved cache, whose file may be of another session: who asks for it can go on
/// without.
pub fn saved_cache(e: &ProtocolError) -> &'static str {
    match e {
        ProtocolError::Corrupt { .. } | ProtocolError::File { .. } => "CacheRejected",
        e => protocol(e),
    }
}

fn channel(e: &ChannelError) -> &'static str {
    use ChannelError as E;
    match e {
        E::Interrupted => INTERRUPTED,
        E::Closed => "ConnectionLost",
        E::Forked => FORKED,
        E::Message(_) => "ProtocolViolation",
        E::Peer(_) => "PeerFailed",
        E::Timeout => "PeerTimeout",
        E::Io(_) => "ConnectionFailed",
    }
}

/// Errors of a connection.
pub fn session(e: &SessionError) -> &'static str {
    use SessionError as E;
    match e {
        E::Interrupted => INTERRUPTED,
        E::Closed => "ConnectionLost",
        E::Forked => FORKED,
        E::Message(_) => "ProtocolViolation",
        E::Unsendable { .. } => "InputError",
        E::Peer { .. } => "PeerFailed",
        E::Timeout { .. } => "PeerTimeout",
        E::AddressInUse { .. } => "AddressInUse",
        E::Fingerprint { .. } => "WrongFingerprint",
        E::Version { .. } | E::Protocol { .. } => "VersionMismatch",
        E::AccessToken => "WrongAccessToken",
        E::Mismatch { .. } => "AgreementMismatch",
        E::Io { .. } | E::Address { .. } | E::Tls(_) | E::Identity { .. } | E::ClientId => "ConnectionFailed",
    }
}

/// Errors of a store.
pub fn store(e: &StoreError) -> &'static str {
    use StoreError as E;
    match e {
        E::DiskFull { .. } => "DiskFull",
        E::Locked { .. } => "StoreLocked",
        E::Forked => FORKED,
        E::Short { .. } => "MaterialShort",
        E::CursorMismatch { .. } | E::StoreId { .. } | E::Binding { .. } => "MaterialMismatch",
        E::PeerState(_) => "ProtocolViolation",
        E::Io { .. } | E::Corrupt { .. } | E::Failed | E::RecordBytes { .. } => "StoreError",
        E::PoolName(_)
        | E::Size { .. }
        | E::Bounds { .. }
        | E::BatchOpen { .. }
        | E::Incomplete { .. }
        | E::Skip { .. } => BUG,
    }
}

/// Wrong bytes are the peer's: those of our files are `ProtocolError::Corrupt`. Wrong lengths are
/// ours, for the channel delivers no other than we ask for.
fn he(e: &HeError) -> &'static str {
    use HeError as E;
    match e {
        E::Residue { .. } | E::Opening { .. } => "ProtocolViolation",
        E::Length { .. }
        | E::SecretKey { .. }
        | E::Layout { .. }
        | E::LayoutMismatch { .. }
        | E::TooManyProducts { .. }
        | E::Noise { .. }
        | E::MissingRotation { .. }
        | E::Lanes { .. }
        | E::Packing { .. }
        | E::Parameters { .. } => BUG,
    }
}

fn ot(e: &OtError) -> &'static str {
    use OtError as E;
    match e {
        E::Channel(e) => channel(e),
        E::Malformed { .. } | E::Inconsistent(_) => "ProtocolViolation",
        E::Record(_) => "StoreError",
        E::Failed | E::Size { .. } | E::Range { .. } => BUG,
    }
}
