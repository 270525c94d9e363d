"""The decoder (`decoder.forward`), its public shape (`config`), and the rewrite for integer
backends (`canonical`)."""
