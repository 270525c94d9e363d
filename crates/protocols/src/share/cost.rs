//! What a step costs on the wire, declared beside every protocol and compared with the measured by
//! the tests.

use cryptogen_party::Role;

/// Messages and bytes of a step, without frame headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Messages of both parties.
    pub messages: usize,
    /// Bytes that the client sends.
    pub client_bytes: usize,
    /// Bytes that the server sends.
    pub server_bytes: usize,
}

impl Cost {
    /// The cost of messages given by sender and bytes.
    pub fn of(messages: &[(Role, usize)]) -> Cost {
        let from = |role: Role| messages.iter().filter(|(r, _)| *r == role).map(|(_, bytes)| bytes).sum();
        Cost { messages: messages.len(), client_bytes: from(Role::Client), server_bytes: from(Role::Server) }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |a, b| Cost {
            messages: a.messages + b.messages,
            client_bytes: a.client_bytes + b.client_bytes,
            server_bytes: a.server_bytes + b.server_bytes,
        })
    }
}
