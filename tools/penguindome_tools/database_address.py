"""A MongoDB address in the parts that the setup asks for. Whether it is a right one, the store says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from penguindome.questions import NONE, Answers


@dataclass(frozen=True)
class DatabaseAddress:
    """`scheme://user:password@hosts/name?options`; `options` are pairs of text, as they stand in the URI."""

    scheme: str = "mongodb"
    hosts: str = ""
    name: str = "penguindome"
    user: str = ""
    password: str = ""
    options: Sequence[tuple[str, str]] = ()

    @classmethod
    def parse(cls, uri: str) -> DatabaseAddress:
        """Take a URI apart. What is no URI gives parts that make no sense, which whoever connects will say."""
        scheme, _, rest = uri.partition("://")
        rest, _, query = rest.partition("?")
        location, _, name = rest.partition("/")
        login, _, hosts = location.rpartition("@")
        user, _, password = login.partition(":")
        pairs = [option.partition("=") for option in query.split("&") if option]
        options = tuple((option, value) for option, _, value in pairs)
        return cls(scheme, hosts, unquote(name), unquote(user), unquote(password), options)

    def uri(self) -> str:
        """The address as one text."""
        login = ""
        if self.user:
            password = f":{quote(self.password, safe='')}" if self.password else ""
            login = f"{quote(self.user, safe='')}{password}@"
        query = "&".join(f"{option}={value}" for option, value in self.options)
        return f"{self.scheme}://{login}{self.hosts}/{quote(self.name, safe='')}" + (f"?{query}" if query else "")

    def answers(self) -> dict[str, str]:
        """What the setup's questions have as answers; the password is among them."""
        found = {option.lower(): unquote(value) for option, value in self.options}
        return {
            "database-hosts": self.hosts,
            "database-replica-set": found.get("replicaset") or NONE,
            "database-name": self.name,
            "database-user": self.user or NONE,
            "database-password": self.password,
        }

    def with_answers(self, answers: Answers) -> DatabaseAddress:
        """This address with those answers in it; its other options, and its scheme for the same hosts, are kept."""
        replica_set = _some(answers["database-replica-set"])
        options = [(option, value) for option, value in self.options if option.lower() != "replicaset"]
        if replica_set:
            options.append(("replicaSet", quote(replica_set, safe="")))
        user = _some(answers["database-user"])
        return replace(
            self,
            scheme=self.scheme if answers["database-hosts"] == self.hosts else "mongodb",
            hosts=answers["database-hosts"],
            name=answers["database-name"],
            user=user,
            password=_some(answers["database-password"]) if user else "",
            options=tuple(options),
        )


def _some(answer: str) -> str:
    return "" if answer == NONE else answer
