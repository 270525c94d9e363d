"""Two turns with a served instruction-tuned model; the second continues from the first one's cache.

    python examples/conversation.py HOST:PORT FINGERPRINT
"""

import sys

import cryptogen
from cryptogen.session.chat import Conversation


def main(server: str, fingerprint: str, tokens: int = 24) -> None:
    with cryptogen.Client(server, fingerprint=fingerprint) as client:
        client.prepare(128)  # ahead of the first word: the answers then come without waiting for material
        chat = Conversation(client)
        for question in ("What is the capital of France?", "And of Italy?"):
            print("\n>", question)
            for token in chat.say(question, max_new_tokens=tokens):
                print(token.text, end="", flush=True)
            print(f"\n[{client.length} rows in the cache, {client.costs.online.seconds:.1f} s online so far]")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
