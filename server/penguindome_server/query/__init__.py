"""MongoDB's queries as Python predicates: `compile_query` once, then call for each document.

What `find` of MongoDB 6.0 answers, this answers: comparison, logical, element and array operators, `$mod` and `$regex`,
dotted paths through arrays, missing fields and null, values of mixed types. What cannot be answered alike is refused
when the query is compiled. Two things are ours: a path with an empty part is refused (mongod lets it match nothing but
empty keys, which documents here cannot hold), and `{$regex: ..., $options: ...}` inside `$in`, `$nin` and `$all` is a
regular expression, which JSON and YAML cannot write otherwise.
"""

from __future__ import annotations

from penguindome_server.query.compiler import compile_query
from penguindome_server.query.errors import Location, QueryError
from penguindome_server.query.explain import Explanation, explain

__all__ = ["Explanation", "Location", "QueryError", "compile_query", "explain"]
