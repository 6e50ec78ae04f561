"""What setting up a client asks: the one table behind debconf, `penguindome-client setup` and its answer files."""

from __future__ import annotations

from collections.abc import Sequence

from penguindome.questions import Question

_NO_BUNDLE = ("bundle=none",)
_BY_URL = (*_NO_BUNDLE, "url!=none")

QUESTIONS: Sequence[Question] = (
    Question(
        "bundle", "File with the enrolment bundle",
        "The file that `penguindome enrolment export` wrote on the server, copied to this machine, readable by root "
        "alone. It holds all that is needed. none: you give the server's URL instead, or set this machine up later.",
        kind="file", optional=True, default="none", priority="high",
    ),
    Question(
        "url", "URL of the server",
        "For a machine without a bundle: the server's URL, such as https://penguindome.example.org:8443. none: this "
        "machine is set up later, by: penguindome-client setup",
        kind="url", optional=True, default="none", when=_NO_BUNDLE,
    ),
    Question(
        "ca-certificate", "File with the CA certificate",
        "PEM file with the authority (or the self-signed certificate) to trust for TLS; none for those that this "
        "machine trusts anyway.",
        kind="file", optional=True, default="none", when=_BY_URL,
    ),
    Question(
        "fingerprint", "Fingerprint of the server key",
        "The full fingerprint of the server key, as `penguindome setup` shows it on the server; blanks do not matter. "
        "Ask the administrator for it: it is what this machine's trust in the server rests on.",
        kind="fingerprint", priority="high", when=_BY_URL,
    ),
    Question(
        "token-file", "File with a one-time token",
        "The token of `penguindome enrolment token`, in a file that root alone can read; with it this machine is "
        "enrolled at once. none if the bundle holds what is needed; without a bundle it must be given.",
        kind="token-file", optional=True, default="none", when=("bundle!=none|url!=none",),
    ),
)  # fmt: skip
