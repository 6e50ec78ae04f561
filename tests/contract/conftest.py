"""Fixtures of the contract tests: one MongoDB database for all, emptied after each; making one takes half a second."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from penguindome_tools.development.mongod import Deployment


@pytest.fixture(scope="session")
def _contract_database() -> str:
    return f"contract_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def mongodb_uri(mongod: Deployment, _mongo_client: Any, _contract_database: str) -> Iterator[str]:
    """`database.uri` of a database whose collections are empty, and emptied afterwards."""
    yield mongod.uri(_contract_database)
    database = _mongo_client[_contract_database]
    for name in database.list_collection_names():
        database[name].delete_many({})
