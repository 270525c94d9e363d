//! Table keys on their way from a slot to their look-ups.

use cryptogen_ot::TableShape;
use cryptogen_ring::Wiped;

use crate::error::{ProtocolError, Result};

/// Many keys of one class on their way to their look-ups, still as records: they are parsed by whoever expands them. Moves into
/// [`crate::online::tables::look_up_all`]; no Clone, Debug or codec.
pub struct TableKeys {
    shape: TableShape,
    /// bytes in front of every key
    prefix: usize,
    bytes: Wiped<u8>,
}

impl TableKeys {
    /// Keys that lie one after another, each behind `prefix` bytes.
    pub(crate) fn new(shape: TableShape, prefix: usize, bytes: Wiped<u8>) -> Result<TableKeys> {
        if !bytes.len().is_multiple_of(prefix + shape.record_bytes()) {
            return Err(ProtocolError::Malformed { what: "stored table keys" });
        }
        if bytes.iter().all(|b| *b == 0) {
            return Err(used_before());
        }
        Ok(TableKeys { shape, prefix, bytes })
    }

    pub(crate) fn shape(&self) -> TableShape {
        self.shape
    }
    pub(crate) fn prefix(&self) -> usize {
        self.prefix
    }
    pub(crate) fn stride(&self) -> usize {
        self.prefix + self.shape.record_bytes()
    }
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.stride()
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What lies in front of every key, and its share `α` of the secret index.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.bytes.chunks_exact(self.stride()).map(|record| {
            let (front, key) = record.split_at(self.prefix);
            (front, record_alpha(key))
        })
    }
}

/// The share `α` of the secret index in a key's record.
pub(crate) fn record_alpha(record: &[u8]) -> u32 {
    u32::from(record[0]) | u32::from(record[1]) << 8
}

/// What a second use of a key gets.
pub(super) fn used_before() -> ProtocolError {
    ProtocolError::Shape { what: "table key", expected: "a fresh one".into(), got: "one used before".into() }
}
