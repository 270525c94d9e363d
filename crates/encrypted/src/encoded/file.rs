//! Encoded weights of one layer as a file: `magic | version | SHA-256 of the integer weights |
//! parameters and packing | plaintexts | SHA-256 of all that`.
//!
//! The file is named after what it holds, so folders may be shared by models. It is as secret as
//! the model (mode 0600), written beside its place and renamed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use cryptogen_he::evaluate::{Context, Plaintext};
use cryptogen_mpc::durable;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::diagonals::Packing;

const MAGIC: &[u8; 8] = b"CGWEIGHT";
const VERSION: u32 = 1;
const DIGEST: usize = 32;

/// What a file belongs to.
pub(super) struct Binding {
    header: Vec<u8>,
    plaintexts: usize,
}

impl Binding {
    /// Of a layer with these integer weights in this packing.
    pub(super) fn new(p: &Packing, w: &[i16]) -> Binding {
        let mut hash = Sha256::new();
        w.chunks(4096).for_each(|w| hash.update(w.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()));
        let shape = [p.d_in, p.d_out, p.lanes.n(), p.rows, p.in_blocks, p.out_blocks, p.parts, p.babies];
        let shape: Vec<u8> =
            shape.into_iter().chain([p.plaintexts()]).flat_map(|x| (x as u64).to_le_bytes()).collect();
        let name = Plaintext::PARAMETERS.as_bytes();
        let header = [&MAGIC[..], &VERSION.to_le_bytes(), &hash.finalize(), name, &shape].concat();
        Binding { header, plaintexts: p.plaintexts() }
    }

    /// The file's name: a digest of the header.
    pub(super) fn name(&self) -> String {
        let digest = Sha256::digest(&self.header);
        digest[..16].iter().map(|b| format!("{b:02x}")).chain([".weights".to_owned()]).collect()
    }

    fn bytes(&self) -> usize {
        self.header.len() + self.plaintexts * (DIGEST + Plaintext::BYTES)
    }
}

/// The plaintexts, none where there is no file. The error says why the file cannot be used.
pub(super) fn read(
    context: &Context,
    path: &Path,
    binding: &Binding,
) -> Result<Option<Vec<Plaintext>>, String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    if size != binding.bytes() as u64 {
        return Err(format!("{size} bytes, expected {}", binding.bytes()));
    }
    let mut bytes = vec![0; binding.bytes()];
    file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    let (header, records) = bytes.split_at(binding.header.len());
    if header != binding.header {
        return Err("a file of another version, model or packing".into());
    }
    let one = |(i, record): (usize, &[u8])| {
        let (digest, plaintext) = record.split_at(DIGEST);
        if record_digest(binding, i, plaintext) != digest {
            return Err(format!("plaintext {i} is damaged: its digest differs"));
        }
        Plaintext::from_bytes(context, plaintext).map_err(|e| e.to_string())
    };
    let records = records.par_chunks_exact(DIGEST + Plaintext::BYTES).enumerate();
    records.map(one).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Of the header, the place and the plaintext.
fn record_digest(binding: &Binding, i: usize, plaintext: &[u8]) -> [u8; DIGEST] {
    let hash = Sha256::new().chain_update(&binding.header).chain_update((i as u64).to_le_bytes());
    hash.chain_update(plaintext).finalize().into()
}

/// Writes the file, whole or not at all. What a full disk left is removed.
pub(super) fn write(path: &Path, binding: &Binding, weights: &[Plaintext]) -> io::Result<()> {
    // Several servers may share the folder, so each has its own name for what it is writing.
    let draft = path.with_extension(format!("new{}", std::process::id()));
    Ok(durable::replace(path, &draft, |file| write_to(file, binding, weights))?)
}

fn write_to(file: &mut dyn Write, binding: &Binding, weights: &[Plaintext]) -> io::Result<()> {
    /// Records in memory at a time, 262 KB each.
    const AT_ONCE: usize = 64;
    file.write_all(&binding.header)?;
    for (first, weights) in weights.chunks(AT_ONCE).enumerate() {
        let record = |(i, weights): (usize, &Plaintext)| {
            let bytes = weights.to_bytes();
            let digest = record_digest(binding, first * AT_ONCE + i, &bytes);
            [&digest[..], &bytes].concat()
        };
        let records: Vec<Vec<u8>> = weights.par_iter().enumerate().map(record).collect();
        records.iter().try_for_each(|record| file.write_all(record))?;
    }
    Ok(())
}
