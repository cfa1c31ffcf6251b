"""Encrypt the files of a bundle at rest; `export/runtime.py` holds the other half."""

import os
from pathlib import Path
from typing import BinaryIO

from export.runtime import CHUNK, MAGIC, SALT, chunk_place, file_cipher


def encrypt(source: BinaryIO, target: Path, name: str, key: bytes) -> None:
    """Write what `source` holds encrypted to `target`: a magic line, a random salt, then chunks of 1 MiB with tags.

    The key of the file is derived from `key` (32 bytes), the salt and `name`, by which the bundle knows the decrypted
    file. A file of any size takes little memory. Raises BundleError where `cryptography` is not installed.
    """
    salt = os.urandom(SALT)
    cipher = file_cipher(key, salt, name)
    chunk, number = source.read(CHUNK), 0
    with target.open("wb") as file:
        file.write(MAGIC + salt)
        while True:
            following = source.read(CHUNK)
            nonce, place = chunk_place(name, number, not following)
            file.write(cipher.encrypt(nonce, chunk, place))
            if not following:
                return
            chunk, number = following, number + 1
