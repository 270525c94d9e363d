//! The first messages inside TLS: who is there ([`Connection::hello`], [`Connection::welcome`]) and
//! whether both mean the same computation ([`Connection::agree`]).

use cryptogen_party::{Client, MessageError, Party, Server};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::error::{short, SessionError};
use super::Connection;

/// Version of the wire format and of every message in it. Both parties must have the same.
pub const PROTOCOL_VERSION: u32 = 10;

const NAME_MAX: usize = 64;
const DIGEST_MAX: usize = 256;

/// A shared access secret. No Debug, Clone or codec; wiped on drop.
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    /// Takes ownership of the secret.
    pub fn new(secret: String) -> AccessToken {
        AccessToken(Zeroizing::new(secret))
    }

    /// In constant time; hashing first hides the length as well.
    fn matches(&self, given: &str) -> bool {
        Sha256::digest(self.0.as_bytes()).ct_eq(&Sha256::digest(given.as_bytes())).into()
    }
}

/// What the client says about itself.
pub struct Introduction {
    /// Version of this package, for messages only.
    pub package_version: String,
    /// Name of the private-inference protocol, e.g. `preprocessed`.
    pub protocol: String,
    /// Names the client's material on the server: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    pub client_id: String,
    /// Access token, if the server wants one.
    pub access_token: Option<AccessToken>,
}

/// Whom the server lets in.
pub struct Policy {
    /// Version of this package, for messages only.
    pub package_version: String,
    /// Name of the private-inference protocol, e.g. `preprocessed`.
    pub protocol: String,
    /// Required of every client, if set.
    pub access_token: Option<AccessToken>,
}

/// The client as the server knows it after [`Connection::welcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the client's package.
    pub package_version: String,
    /// Checked identifier, safe as a file name.
    pub client_id: String,
}

/// The server as the client knows it after [`Connection::hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Version of the server's package.
    pub package_version: String,
}

/// Digests of everything both parties must have in common before they compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Digest of the model's public description.
    pub model: String,
    /// Digest of the fixed-point plan.
    pub plan: String,
    /// Digest of the function tables computed from the plan.
    pub tables: String,
    /// Name of the cryptographic parameter set.
    pub parameters: String,
}

impl Connection<Client> {
    /// Introduces us to the server. One round trip, after the TLS handshake.
    ///
    /// # Errors
    /// `Fingerprint`, `Tls`, `Version`, `Protocol`, `AccessToken`, `ClientId`, and those of
    /// [`Connection::recv_control`].
    pub fn hello(&mut self, me: &Introduction) -> Result<Welcome, SessionError> {
        if !is_name(&me.client_id) {
            return Err(SessionError::ClientId);
        }
        let access_token = me.access_token.as_ref().map(|t| t.0.as_str());
        self.send_control(&json!({
            "protocol_version": PROTOCOL_VERSION, "package_version": me.package_version,
            "protocol": me.protocol, "client_id": me.client_id, "access_token": access_token,
        }))?;
        let answer = self.recv_control()?;
        let actual = number(&answer, "protocol_version")?;
        if actual != PROTOCOL_VERSION {
            return Err(SessionError::Version { expected: PROTOCOL_VERSION, actual });
        }
        match answer.get("refused").and_then(Value::as_str) {
            None => {}
            Some("protocol") => {
                let actual = text(&answer, "protocol", NAME_MAX)?;
                return Err(SessionError::Protocol { expected: me.protocol.clone(), actual });
            }
            Some("access_token") => return Err(SessionError::AccessToken),
            Some("client_id") => return Err(SessionError::ClientId),
            Some(_) => return Err(MessageError::Malformed("unknown reason of refusal").into()),
        }
        self.opened();
        Ok(Welcome { package_version: text(&answer, "package_version", NAME_MAX)? })
    }
}

impl Connection<Server> {
    /// Waits for the client's introduction and lets it in or tells it why not.
    ///
    /// # Errors
    /// `Version`, `Protocol`, `AccessToken`, `ClientId`, `Message`, `Tls`, and those of
    /// [`Connection::recv_control`].
    pub fn welcome(&mut self, policy: &Policy) -> Result<Hello, SessionError> {
        let hello = self.recv_control()?;
        let verdict = examine(&hello, policy);
        let refused = match &verdict {
            // The version in the answer says it all.
            Ok(_) | Err(SessionError::Version { .. }) => None,
            Err(SessionError::Protocol { .. }) => Some("protocol"),
            Err(SessionError::AccessToken) => Some("access_token"),
            Err(SessionError::ClientId) => Some("client_id"),
            Err(_) => Some("malformed"),
        };
        let sent = self.send_control(&json!({
            "protocol_version": PROTOCOL_VERSION, "package_version": policy.package_version,
            "protocol": policy.protocol, "refused": refused,
        }));
        let hello = verdict?;
        sent?;
        self.opened();
        Ok(hello)
    }
}

fn examine(hello: &Value, policy: &Policy) -> Result<Hello, SessionError> {
    let actual = number(hello, "protocol_version")?;
    if actual != PROTOCOL_VERSION {
        return Err(SessionError::Version { expected: PROTOCOL_VERSION, actual });
    }
    let given = hello.get("access_token").and_then(Value::as_str).unwrap_or("");
    if policy.access_token.as_ref().is_some_and(|token| !token.matches(given)) {
        return Err(SessionError::AccessToken);
    }
    let protocol = text(hello, "protocol", NAME_MAX)?;
    if protocol != policy.protocol {
        return Err(SessionError::Protocol { expected: policy.protocol.clone(), actual: protocol });
    }
    let client_id = hello.get("client_id").and_then(Value::as_str).unwrap_or("");
    if !is_name(client_id) {
        return Err(SessionError::ClientId);
    }
    let package_version = text(hello, "package_version", NAME_MAX)?;
    Ok(Hello { package_version, client_id: client_id.to_owned() })
}

impl<P: Party> Connection<P> {
    /// Compares the four digests with the peer's. Both parties call it and both get the same
    /// verdict; one round trip.
    ///
    /// # Errors
    /// `Mismatch` with the first field that differs, `Message`, and those of
    /// [`Connection::recv_control`].
    pub fn agree(&mut self, mine: &Agreement) -> Result<(), SessionError> {
        self.send_control(&json!({ "agree": mine }))?;
        let answer = self.recv_control()?;
        let theirs = answer.get("agree").ok_or(MessageError::Malformed("agreement expected"))?;
        let fields = [
            ("model", &mine.model),
            ("plan", &mine.plan),
            ("tables", &mine.tables),
            ("parameters", &mine.parameters),
        ];
        for (field, ours) in fields {
            let actual = theirs.get(field).and_then(Value::as_str);
            let actual = actual.ok_or(MessageError::Malformed("agreement lacks a field"))?;
            if actual != ours {
                let (expected, actual) = (ours.clone(), short(actual, DIGEST_MAX));
                return Err(SessionError::Mismatch { field, expected, actual });
            }
        }
        Ok(())
    }
}

/// Fit to be shown and to name a directory.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn number(message: &Value, field: &str) -> Result<u32, SessionError> {
    let number = message.get(field).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Ok(number.ok_or(MessageError::Malformed("handshake lacks a number"))?)
}

fn text(message: &Value, field: &str, max: usize) -> Result<String, SessionError> {
    let text = message.get(field).and_then(Value::as_str);
    Ok(short(text.ok_or(MessageError::Malformed("handshake lacks a text"))?, max))
}
