//! cryptogen-ring
