//! cryptogen-ot
