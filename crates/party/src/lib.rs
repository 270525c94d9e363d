//! Who the two parties are ([`Client`], [`Server`]), and the pipe between them ([`Channel`]).
//!
//! Every other crate in which two parties meet stands on this one. It knows no protocol, no network
//! and no file.

#![deny(missing_docs)]

mod channel;
#[cfg(any(test, feature = "test-channel"))]
pub mod memory;
mod party;

pub use channel::{Channel, ChannelError, MessageError, Turn};
pub use party::{Client, Party, Role, Server};
