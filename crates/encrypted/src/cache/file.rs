//! The cache as a file, so that a conversation can go on later. It holds only ciphertexts and
//! public numbers.
//!
//! `magic | version | model digest | key id | T, key heads, head dimension, layers | per layer:
//! length, blocks, terms of each block | ciphertexts | SHA-256 of all that`. Written beside its
//! place and renamed. Whether it belongs to this model, key and layout and is complete is checked
//! before any ciphertext is read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use cryptogen_he::evaluate::{Ciphertext, Context};
use cryptogen_mpc::durable;
use cryptogen_protocols::{ProtocolError, Result};
use sha2::{Digest, Sha256};

use super::{CacheShape, EncryptedCache, LayerCache, LayerShape};

const MAGIC: &[u8; 8] = b"CGCACHE\0";
const VERSION: u32 = 1;
const DIGEST: usize = 32;

/// What a cache file belongs to: the digest of model and plan, and the id of the client's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// digest of model and plan
    pub model: [u8; 32],
    /// digest of the key's id
    pub key: [u8; 32],
}

impl CacheShape {
    /// The public numbers of the cache, for the client's side of a saved conversation.
    pub fn to_bytes(&self) -> Vec<u8> {
        let l = &self.layout;
        let fixed = [l.tokens(), l.kv_heads, l.head_dim, self.layers.len()];
        let mut out: Vec<u8> = fixed.iter().flat_map(|x| (*x as u64).to_le_bytes()).collect();
        for layer in &self.layers {
            out.extend((layer.length as u64).to_le_bytes());
            layer.terms.iter().for_each(|t| out.extend(t.to_le_bytes()));
        }
        out
    }

    /// Takes over the numbers of [`CacheShape::to_bytes`]; at most `context` rows.
    ///
    /// # Errors
    /// Numbers of another layout, or that no cache has.
    pub fn resume(&mut self, bytes: &[u8], context: usize) -> Result<()> {
        let mut reader = bytes;
        let refused = |reason: String| ProtocolError::peer("saved cache", "one of this model", reason);
        let layers = self.read_layers(&mut reader, context).map_err(refused)?;
        if !reader.is_empty() {
            return Err(refused(format!("{} bytes more", reader.len())));
        }
        self.layers = layers;
        Ok(())
    }

    /// Reads and checks the numbers; the error says what is wrong.
    fn read_layers(
        &self,
        reader: &mut impl Read,
        context: usize,
    ) -> std::result::Result<Vec<LayerShape>, String> {
        let mut number = |what: &str| -> std::result::Result<usize, String> {
            let mut bytes = [0; 8];
            reader.read_exact(&mut bytes).map_err(|_| format!("a file that ends before {what}"))?;
            usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| format!("{what} out of range"))
        };
        let l = &self.layout;
        for (what, expected) in [
            ("tokens per ciphertext", l.tokens()),
            ("key heads", l.kv_heads),
            ("head dimension", l.head_dim),
            ("layers", self.layers.len()),
        ] {
            let actual = number(what)?;
            if actual != expected {
                return Err(format!("{what} {actual}, expected {expected}"));
            }
        }
        let mut layers: Vec<LayerShape> = vec![];
        for _ in &self.layers {
            let mut bytes = [0; 8];
            reader.read_exact(&mut bytes).map_err(|_| "a file that ends before a length")?;
            let length = u64::from_le_bytes(bytes);
            if length > context as u64 || layers.first().is_some_and(|l| l.length as u64 != length) {
                return Err(format!("{length} rows, expected the same up to {context} in every layer"));
            }
            let blocks = l.blocks(length as usize);
            let mut terms = Vec::with_capacity(blocks);
            for _ in 0..blocks {
                let mut bytes = [0; 4];
                reader.read_exact(&mut bytes).map_err(|_| "a file that ends before the noise")?;
                let n = u32::from_le_bytes(bytes);
                if n == 0 || n as usize > l.tokens() {
                    return Err(format!("{n} ciphertexts in a block of {} tokens", l.tokens()));
                }
                terms.push(n);
            }
            layers.push(LayerShape { length: length as usize, terms });
        }
        Ok(layers)
    }
}

impl EncryptedCache {
    /// Writes the cache; an earlier file of this name is replaced whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path, binding: &Binding) -> Result<()> {
        let draft = path.with_extension("new");
        durable::replace(path, &draft, |file| self.write(file, binding))
            .map_err(|e| ProtocolError::file(path, e.into()))
    }

    fn write(&self, file: &mut dyn Write, binding: &Binding) -> io::Result<()> {
        let mut out = Hashing { inner: BufWriter::new(file), hash: Sha256::new() };
        out.write_all(&header(binding))?;
        out.write_all(&self.shape.to_bytes())?;
        for layer in &self.layers {
            for ct in layer.keys.iter().chain(&layer.values).flatten() {
                out.write_all(&ct.to_bytes(Context::get()))?;
            }
        }
        let Hashing { mut inner, hash } = out;
        inner.write_all(&hash.finalize())?;
        inner.flush()
    }

    /// Takes over the rows of a saved cache, which must be of this model, key and layout, with up
    /// to `context` rows.
    ///
    /// # Errors
    /// `File`, `Corrupt`, and the cache stays as it was.
    pub fn load(&mut self, path: &Path, binding: &Binding, context: usize) -> Result<()> {
        let failed = |e: io::Error| ProtocolError::file(path, e);
        let corrupt = |reason: String| ProtocolError::corrupt(path, reason);
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut reader = Hashing { inner: BufReader::new(file), hash: Sha256::new() };
        let mut start = vec![0; header(binding).len()];
        let short = |_| corrupt("a file that ends before its header".into());
        reader.read_exact(&mut start).map_err(short)?;
        check_header(&start, binding).map_err(corrupt)?;
        let layers = self.shape.read_layers(&mut reader, context).map_err(corrupt)?;
        let shape = CacheShape { layers, ..self.shape.clone() };
        let expected =
            (start.len() + shape.to_bytes().len() + shape.ciphertexts() * Ciphertext::BYTES + DIGEST) as u64;
        if size != expected {
            return Err(corrupt(format!("{size} bytes, expected {expected}")));
        }
        let layers = self.read(path, &shape, &mut reader)?;
        let Hashing { mut inner, hash } = reader;
        let mut digest = [0; DIGEST];
        inner.read_exact(&mut digest).map_err(failed)?;
        if hash.finalize()[..] != digest {
            return Err(corrupt("the content is damaged: its digest differs".into()));
        }
        (self.shape, self.layers) = (shape, layers);
        Ok(())
    }

    fn read(&self, path: &Path, shape: &CacheShape, reader: &mut impl Read) -> Result<Vec<LayerCache>> {
        let mut bytes = vec![0; Ciphertext::BYTES];
        let mut blocks = |layer: usize| -> Result<Vec<Vec<Ciphertext>>> {
            let n = shape.layout.blocks(shape.length(layer));
            let mut block = || {
                let mut one = || {
                    reader.read_exact(&mut bytes).map_err(|e| ProtocolError::file(path, e))?;
                    Ciphertext::from_bytes(Context::get(), &bytes)
                        .map_err(|e| ProtocolError::corrupt(path, e))
                };
                (0..shape.layout.packs()).map(|_| one()).collect()
            };
            (0..n).map(|_| block()).collect()
        };
        (0..shape.layers.len()).map(|l| Ok(LayerCache { keys: blocks(l)?, values: blocks(l)? })).collect()
    }
}

/// Magic, version and binding.
fn header(binding: &Binding) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), &binding.model, &binding.key].concat()
}

fn check_header(start: &[u8], binding: &Binding) -> std::result::Result<(), String> {
    let expected = header(binding);
    let reasons = [
        (0..8, "not a cache file"),
        (8..12, "a cache file of another version"),
        (12..44, "the cache of another model or plan"),
        (44..76, "the cache of another client key"),
    ];
    for (range, reason) in reasons {
        if start[range.clone()] != expected[range] {
            return Err(reason.into());
        }
    }
    Ok(())
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}
