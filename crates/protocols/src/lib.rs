//! cryptogen-protocols
