"""From predictions to errors: scoring, contact sheets, other programs' formats.

The command is ntdm/evaluate.py; the tables are in reports/.
"""
