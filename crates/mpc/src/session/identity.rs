//! Who the server is: a certificate, and how a client decides to believe it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::error::SessionError;
use super::tls::Refusal;

const FILE: &str = "identity.pem";

/// A server's certificate chain and private key. No Debug, Clone or codec.
pub struct Identity {
    pub(super) config: Arc<ServerConfig>,
    fingerprint: String,
}

impl Identity {
    /// The self-signed identity kept in `dir/identity.pem` (mode 0600), made on first use.
    ///
    /// # Errors
    /// `Identity` if the directory or file cannot be used, or others may read the file.
    pub fn load_or_create(dir: &Path) -> Result<Identity, SessionError> {
        let path = dir.join(FILE);
        if !path.exists() {
            create(dir, &path)?;
        }
        Identity::from_pem(&path, &path)
    }

    /// A certificate chain and its key from PEM files, e.g. those of a public authority.
    ///
    /// # Errors
    /// `Identity` naming the file that is missing, malformed or readable by others.
    pub fn from_pem(certificates: &Path, key: &Path) -> Result<Identity, SessionError> {
        let mode = fs::metadata(key).map_err(|e| refuse(key, e.kind()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(refuse(key, format_args!("mode is {:o}, expected 600", mode & 0o777)));
        }
        let chain = read_certificates(certificates)?;
        let fingerprint = fingerprint(&chain[0]);
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|_| refuse(key, "no private key in it"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| refuse(key, e))?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(|e| refuse(key, e))?;
        // A session is opened once; tickets would only be something more to leak.
        config.send_tls13_tickets = 0;
        Ok(Identity { config: Arc::new(config), fingerprint })
    }

    /// SHA-256 of the certificate's DER, hex: what the client pins.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

#[cfg(test)]
impl Identity {
    /// Shows `owner`'s certificate, as anybody can who has seen it, with a key of `other`.
    pub(super) fn impostor(owner: &Path, other: &Path) -> Identity {
        use rustls::sign::{CertifiedKey, SingleCertAndKey};

        let chain = read_certificates(&owner.join(FILE)).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(other.join(FILE)).expect("a key");
        let key = provider().key_provider.load_private_key(key).expect("a key");
        let fingerprint = fingerprint(&chain[0]);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        Identity { config: Arc::new(config), fingerprint }
    }
}

/// How the client decides that it talks to the right server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Exactly the certificate with this SHA-256 (64 hex digits; colons and case do not matter).
    Fingerprint(String),
    /// Ordinary verification against the authorities in this PEM file.
    CaFile(PathBuf),
    /// Ordinary verification against Mozilla's list of public authorities.
    PublicAuthorities,
}

impl Trust {
    /// The TLS configuration, and where a refused fingerprint will be noted.
    pub(super) fn config(&self) -> Result<(Arc<ClientConfig>, Refusal), SessionError> {
        let refusal = Refusal::default();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| SessionError::Tls(e.to_string()))?;
        let builder = match self {
            Trust::Fingerprint(text) => {
                let expected = parse_fingerprint(text)?;
                let pin = Pin { expected, refusal: refusal.clone(), provider: provider() };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(pin))
            }
            Trust::CaFile(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates(path)? {
                    roots.add(certificate).map_err(|e| refuse(path, e))?;
                }
                builder.with_root_certificates(roots)
            }
            Trust::PublicAuthorities => {
                let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
                builder.with_root_certificates(roots.collect::<RootCertStore>())
            }
        };
        let mut config = builder.with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok((Arc::new(config), refusal))
    }
}

/// Accepts one certificate and nothing else. The handshake's signature is verified as usual, so the
/// peer must own the certificate's key; names and dates say nothing more than the pin does.
#[derive(Debug)]
struct Pin {
    expected: String,
    refusal: Refusal,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = fingerprint(certificate);
        if actual == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        // Set at most once: a handshake has one certificate.
        let _ = self.refusal.set((self.expected.clone(), actual));
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_fingerprint(text: &str) -> Result<String, SessionError> {
    let hex: String = text.trim().chars().filter(|&c| c != ':').map(|c| c.to_ascii_lowercase()).collect();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(hex);
    }
    Err(refuse(Path::new("fingerprint"), format_args!("{} characters, expected 64 hex digits", hex.len())))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SessionError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| refuse(path, e))?.collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(refuse(path, "no certificate in it")),
        Err(e) => Err(refuse(path, e)),
    }
}

/// Makes key and certificate in one file, complete or not at all. If two servers start at once, the
/// first wins.
fn create(dir: &Path, path: &Path) -> Result<(), SessionError> {
    let made = rcgen::generate_simple_self_signed(vec!["cryptogen".into(), "localhost".into()])
        .map_err(|e| refuse(path, e))?;
    let key = Zeroizing::new(made.key_pair.serialize_pem());
    let failed = |e: io::Error| refuse(path, e);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let draft = dir.join(format!(".{FILE}.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(made.cert.pem().as_bytes())?;
            file.write_all(key.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    match written {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed(e)),
        _ => Ok(()),
    }
}

fn refuse(path: &Path, reason: impl ToString) -> SessionError {
    SessionError::Identity { path: path.to_owned(), reason: reason.to_string() }
}
