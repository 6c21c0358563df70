"""The `ntdm` command: parse, call one function, print the path written."""

import typer

app = typer.Typer()
main = app
