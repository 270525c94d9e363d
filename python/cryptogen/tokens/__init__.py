"""Text to token ids and back: the only place where text exists."""

from cryptogen.tokens.chat import ChatTemplate, Message
from cryptogen.tokens.stream import StreamDecoder
from cryptogen.tokens.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Message", "StreamDecoder", "Tokenizer"]
