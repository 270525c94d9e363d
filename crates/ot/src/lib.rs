//! Oblivious transfer and distributed point functions.

pub mod channel;

pub use channel::{Channel, ChannelError, Role, Turn};
