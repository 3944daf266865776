"""Answers on connections of tests that send raw bytes."""

import socket
from http.client import HTTPMessage, HTTPResponse


def answer_of(client: socket.socket) -> tuple[int, HTTPMessage, bytes]:
    """Read an answer to its end, and return its status, headers and body."""
    answer = HTTPResponse(client)
    answer.begin()
    return answer.status, answer.headers, answer.read()
