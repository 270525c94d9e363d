"""Text to token ids and back: the only place where text exists."""

from cryptogen.tokens.chat import ChatML, Message
from cryptogen.tokens.codec import TextCodec
from cryptogen.tokens.stream import StreamDecoder

__all__ = ["ChatML", "Message", "StreamDecoder", "TextCodec"]
