//! cryptogen-python
