//! cryptogen-mpc
