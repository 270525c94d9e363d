//! Table keys on their way from a row's material to their look-ups.

use std::num::Wrapping;
use std::path::Path;
use std::sync::Arc;

use cryptogen_ot::{OtError, TableKey, TableShape};
use cryptogen_ring::{Wiped, Word};

use crate::error::{ProtocolError, Result};

/// Many keys of one class on their way to their look-ups, still as records: they are parsed by
/// whoever expands them. Moves into
/// [`crate::online::tables::look_up_all`]; no Clone, Debug or codec.
pub struct TableKeys {
    shape: TableShape,
    bytes: Wiped<u8>,
    /// where they are from
    file: Arc<Path>,
}

impl TableKeys {
    /// Keys that lie one after another, as they are taken from a file.
    pub(crate) fn new(shape: TableShape, (bytes, file): (Wiped<u8>, Arc<Path>)) -> Result<TableKeys> {
        let stride = shape.record_bytes();
        if !bytes.len().is_multiple_of(stride) {
            let expected = format!("a multiple of {stride}");
            return Err(ProtocolError::bug("bytes of table keys", expected, bytes.len()));
        }
        if bytes.iter().all(|b| *b == 0) {
            return Err(ProtocolError::Spent { what: "table key" });
        }
        Ok(TableKeys { shape, bytes, file })
    }

    /// One of the keys, from its record.
    pub(crate) fn parse(&self, record: &[u8]) -> Result<TableKey> {
        parse(self.shape, record, &self.file)
    }

    pub(crate) fn shape(&self) -> TableShape {
        self.shape
    }
    pub(crate) fn stride(&self) -> usize {
        self.shape.record_bytes()
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The share `α` of the secret index of every key.
    pub(crate) fn alphas(&self) -> impl Iterator<Item = u32> + '_ {
        self.bytes.chunks_exact(self.stride()).map(record_alpha)
    }

    /// Our share of a drawn payload of every key.
    pub(crate) fn drawn(&self, payload: usize) -> impl Iterator<Item = Word> + '_ {
        self.bytes.chunks_exact(self.stride()).map(move |record| record_share(self.shape, record, payload))
    }
}

/// Our share of a drawn payload in a key's record.
pub(crate) fn record_share(shape: TableShape, record: &[u8], payload: usize) -> Word {
    let bytes = record[shape.share_at(payload)..].first_chunk().expect("a record holds its shares");
    Wrapping(u64::from_le_bytes(*bytes))
}

/// The share `α` of the secret index in a key's record.
pub(crate) fn record_alpha(record: &[u8]) -> u32 {
    u32::from(record[0]) | u32::from(record[1]) << 8
}

/// A key from its record in `file`.
pub(super) fn parse(shape: TableShape, record: &[u8], file: &Path) -> Result<TableKey> {
    TableKey::from_record(shape, record).map_err(|e| match e {
        OtError::Record(_) => ProtocolError::corrupt(file, e),
        e => e.into(),
    })
}
