"""Writes the list of systems for `uttera-stt bench --systems`.

usage: write_systems.py SYSTEMS.json THREADS PEER=MODEL...
"""

import json
import pathlib
import sys


def main():
    target, threads, *peers = sys.argv[1:]
    server = str(pathlib.Path(__file__).with_name("serve.py"))
    systems = []
    for peer in peers:
        name, model = peer.split("=", 1)
        command = [sys.executable, server, name, model, "{port}", "--threads", threads]
        system = {"name": name, "command": command, "ready": "/health"}
        if name.startswith("wyoming"):
            command += ["--wyoming-port", "{wyoming_port}"]
            system["wyoming"] = "127.0.0.1:{wyoming_port}"
        systems.append(system)
    pathlib.Path(target).write_text(json.dumps(systems, indent=2) + "\n")


if __name__ == "__main__":
    main()
