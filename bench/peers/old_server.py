"""A stand-in for the old server, which this service replaces: one Flask process, one SQLite file.

The old server is not part of this project. The stand-in does the same work in the same order. A PUT
is parsed by the standard library's JSON, and its rows go into a queue. One thread takes all rows of
the queue, inserts the rows of each password, and commits. The INSERT encrypts each row with
AES-CTR: the key is derived from the password, and the counter is the interrogator time. The table
holds the result in base64. A read decrypts row by row and builds one JSON document.
"""

import argparse
import base64
import hashlib
import json
import queue
import sqlite3
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.padding import PKCS7
from flask import Flask, Response, jsonify, make_response, request

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS readings (
        id INTEGER PRIMARY KEY, absolute_timestamp DATETIME DEFAULT CURRENT_TIMESTAMP,
        relative_timestamp BIGINT, interrogator_timestamp BIGINT, freeform TEXT
    )
"""
_INSERT = """
    INSERT INTO readings (relative_timestamp, interrogator_timestamp, freeform)
    VALUES (?, ?, encrypt(?, ?))
"""
_SELECT = """
    SELECT id, absolute_timestamp, relative_timestamp, interrogator_timestamp,
        decrypt(freeform, interrogator_timestamp)
    FROM readings ORDER BY interrogator_timestamp
"""

Row = tuple[int, int, str, int]


def _cipher(password: str, counter: int) -> "Cipher[CTR]":
    key = hashlib.sha512(password.encode()).hexdigest()[:32].encode()
    return Cipher(AES(key), CTR(counter.to_bytes(16, "big")))


def _encrypt(password: str, text: str, counter: int) -> str:
    padder = PKCS7(128).padder()
    padded = padder.update(text.encode()) + padder.finalize()
    return base64.b64encode(_cipher(password, counter).encryptor().update(padded)).decode()


def _decrypt(password: str, text: str, counter: int) -> str:
    padded = _cipher(password, counter).decryptor().update(base64.b64decode(text))
    unpadder = PKCS7(128).unpadder()
    return (unpadder.update(padded) + unpadder.finalize()).decode()


class Database:
    """One SQLite file, with one thread that inserts rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: queue.Queue[tuple[str, Row]] = queue.Queue()
        with self._connect("") as connection:
            connection.execute(_SCHEMA)
        threading.Thread(target=self._insert_rows, daemon=True).start()

    def put(self, password: str, row: Row) -> None:
        """Queue a row for insertion."""
        self._rows.put((password, row))

    def fetch_all(self, password: str) -> list[dict[str, Any]]:
        """Return all rows of the file, which must all be encrypted under this password."""
        names = ("id", "absolute_timestamp", "relative_timestamp", "interrogator_timestamp")
        connection = self._connect(password)
        found = [
            dict(zip((*names, "freeform"), row, strict=True)) for row in connection.execute(_SELECT)
        ]
        connection.close()
        return found

    def _insert_rows(self) -> None:
        while True:
            waiting = defaultdict(list)
            password, row = self._rows.get()
            waiting[password].append(row)
            while not self._rows.empty():
                password, row = self._rows.get()
                waiting[password].append(row)
            for password, rows in waiting.items():
                connection = self._connect(password)
                connection.executemany(_INSERT, rows)
                connection.commit()
                connection.close()

    def _connect(self, password: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=60)
        connection.create_function("encrypt", 2, lambda text, at: _encrypt(password, text, at))
        connection.create_function("decrypt", 2, lambda text, at: _decrypt(password, text, at))
        return connection


def create_app(path: Path) -> Flask:
    """Return the app on one SQLite file."""
    app, database = Flask(__name__), Database(path)

    @app.put("/api/iot")
    def put() -> Response:
        body = request.json
        rows = [body] if isinstance(body, dict) else body
        for row in rows:
            data = row["data"]
            moment = int(data.get("interrogator_time", -1))
            text = json.dumps(data.get("freeform", ""))
            values = (int(data.get("relative_time", -1)), moment, text, moment)
            database.put(data.get("db_password", ""), values)
        return make_response(jsonify({"success": f"{len(rows)} object(s) created"}), 201)

    @app.post("/api/iot")
    def read() -> Response:
        return jsonify({"data": database.fetch_all(request.json["data"]["db_password"])})

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("database", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    create_app(given.database).run(host="127.0.0.1", port=given.port, threaded=True)
