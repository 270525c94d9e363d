"""A private answer in one script: a server in a thread, a client beside it. Really they are two
hosts.

    python examples/private_generation.py MODEL "The capital of France is"
"""

import sys
import tempfile
import threading

import cryptogen


def main(model: str, prompt: str, tokens: int = 8) -> None:
    with tempfile.TemporaryDirectory() as folder:  # by default keys and material live in ~/.local/share/cryptogen
        server = cryptogen.Server(model, data_dir=folder, access_token="a long secret")
        listening, where = threading.Event(), []

        def ready(address: str, fingerprint: str) -> None:
            where.append(address)
            listening.set()

        threading.Thread(target=server.serve, args=("127.0.0.1:0", ready), daemon=True).start()
        listening.wait()

        client = cryptogen.Client(
            where[0], fingerprint=server.fingerprint, access_token="a long secret", data_dir=folder
        )
        with client:
            print(prompt, end="")
            for token in client.generate(prompt, max_new_tokens=tokens):
                print(token.text, end="", flush=True)
            print()
            offline, online = client.costs.offline, client.costs.online
            print(f"offline {offline.seconds:.1f} s, {offline.bytes / 1e6:.0f} MB")
            print(f"online {online.seconds:.1f} s, {online.bytes / 1e6:.1f} MB, {online.round_trips} round trips")
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
