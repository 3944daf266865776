"""Print the reference of the API in Markdown (`make docs`)."""

from .document import read_document
from .reference import render

print(render(read_document(), "reference.md"), end="")
