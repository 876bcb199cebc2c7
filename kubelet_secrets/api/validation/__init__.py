"""The rules of the API: pure functions on plain dictionaries, a list of ``FieldError`` each.

``objects`` is the door for an object of any kind, ``fields`` what an error is and how a ``Status`` shows it. This file
imports nothing: ``names`` stands below modules that the rules themselves use.
"""
