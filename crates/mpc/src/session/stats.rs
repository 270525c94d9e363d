//! What a session cost, per phase.

use serde::Serialize;

/// The part of a session that bytes and rounds are booked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Handshake, agreement on the model, keys.
    #[default]
    Setup,
    /// Making correlations.
    Offline,
    /// Spending them.
    Online,
}

/// Counters of one phase, as this party sees them. Bytes are payload and frame headers, without TLS
/// records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PhaseStats {
    /// Bytes to the peer.
    pub bytes_sent: u64,
    /// Bytes from the peer.
    pub bytes_received: u64,
    /// Whole messages to the peer.
    pub messages_sent: u64,
    /// Whole messages from the peer.
    pub messages_received: u64,
    /// Times this party had sent and then received: what the network's latency multiplies.
    pub round_trips: u64,
}

/// Counters of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionStats {
    /// See [`Phase::Setup`].
    pub setup: PhaseStats,
    /// See [`Phase::Offline`].
    pub offline: PhaseStats,
    /// See [`Phase::Online`].
    pub online: PhaseStats,
}

/// Books messages on the current phase.
#[derive(Default)]
pub(super) struct Counter {
    pub(super) phase: Phase,
    pub(super) stats: SessionStats,
    sent_last: bool,
}

impl Counter {
    fn current(&mut self) -> &mut PhaseStats {
        match self.phase {
            Phase::Setup => &mut self.stats.setup,
            Phase::Offline => &mut self.stats.offline,
            Phase::Online => &mut self.stats.online,
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        let now = self.current();
        now.bytes_sent += bytes as u64;
        now.messages_sent += 1;
        self.sent_last = true;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        let turned = std::mem::take(&mut self.sent_last);
        let now = self.current();
        now.bytes_received += bytes as u64;
        now.messages_received += 1;
        now.round_trips += u64::from(turned);
    }
}
