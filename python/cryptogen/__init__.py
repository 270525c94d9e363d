"""CryptoGen: private text generation between a server that holds a model and a client that holds a prompt."""
