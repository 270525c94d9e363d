//! cryptogen-he
