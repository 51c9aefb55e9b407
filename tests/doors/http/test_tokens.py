"""Tokens rest as hashes in a private file, failures are bounded, and problems are a closed list."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from connectors.http import problems
from connectors.http.problems import PROBLEMS, Problem
from connectors.http.tokens import FAILURES_PER_MINUTE_MAX, TokenStore, TokensUnusable
from connectors.vcon.mapping import Refusal
from schemas.decode import Code as DecodeCode
from schemas.identifiers import Code as IdentifierCode


def test_the_file_is_private_and_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    store = TokenStore.open(path)
    first = store.first_token()
    assert first is not None and first.startswith("cst_") and store.first_token() is None
    secret = store.create("ana", ["analyst"], ["acme"])
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert first not in text and secret not in text and hashlib.sha256(secret.encode()).hexdigest() in text
    again = TokenStore.open(path)
    token = again.authenticate(f"Bearer {secret}")
    assert (token.name, token.roles, token.sees("acme"), token.sees("rival")) == ("ana", ("analyst",), True, False)
    assert again.authenticate(f"bearer {first}").sees_all
    assert again.revoke("ana") and not again.revoke("ana")
    with pytest.raises(Problem):
        again.authenticate(f"Bearer {secret}")


def test_a_file_that_others_may_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    TokenStore.open(path).first_token()
    path.chmod(0o640)
    with pytest.raises(TokensUnusable):
        TokenStore.open(path)
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(TokensUnusable):
        TokenStore.open(path)


def test_failures_are_bounded_per_client_and_minute_and_lock_nobody_out(tmp_path: Path) -> None:
    now = [0.0]
    store = TokenStore.open(tmp_path / "tokens.json", lambda: now[0])
    secret = store.first_token()

    def attempt(client: str, header: str | None = "Bearer cst_wrong") -> Problem:
        with pytest.raises(Problem) as caught:
            store.authenticate(header, client)
        return caught.value

    headers = [None, "", "Basic x", f"Basic {secret}", "Bearer", "Bearer " + "x" * 10_000, "Bearer \udcff"]
    assert {attempt("a", header).status for header in headers} == {401}
    statuses = [attempt("a").status for _ in range(FAILURES_PER_MINUTE_MAX)]
    assert statuses[-1] == 429 and attempt("a").retry_after_secs == 60 and attempt("b").status == 401
    assert store.authenticate(f"Bearer {secret}", "a").name == "administrator"
    now[0] = 61
    assert attempt("a").status == 401


def test_a_name_is_given_once_and_a_role_must_exist(tmp_path: Path) -> None:
    store = TokenStore.open(tmp_path / "tokens.json")
    store.create("ana", ["analyst"], ["acme"])
    for name, roles, code in (("ana", ["auditor"], "name-taken"), ("eve", ["king"], "wrong-field"), ("eve", [], "wrong-field")):
        with pytest.raises(Problem) as caught:
            store.create(name, roles, ["acme"])  # type: ignore[arg-type]
        assert caught.value.code == code and caught.value.__context__ is None


def test_an_administrator_makes_and_ends_tokens(house: Any) -> None:
    made = house.root.post("/v1/tokens", json={"name": "temp", "roles": ["auditor"], "controllers": ["acme"]})
    assert made.status_code == 201 and made.json()["token"].startswith("cst_")
    header = {"authorization": f"Bearer {made.json()['token']}"}
    assert house.root.get("/v1/holds", headers=header).status_code == 200
    assert house.root.post("/v1/tokens", json={"name": "temp", "roles": ["auditor"]}).status_code == 409
    assert house.root.delete("/v1/tokens/temp").status_code == 200
    assert house.root.get("/v1/holds", headers=header).status_code in (401, 429)
    assert house.root.delete("/v1/tokens/root").status_code == 422


def test_problem_types_are_a_closed_documented_list() -> None:
    assert {*get_args(DecodeCode), *get_args(IdentifierCode), *get_args(Refusal)} <= set(PROBLEMS)
    raised = set()
    for path in Path(problems.__file__).parent.glob("*.py"):
        raised |= set(re.findall(r'Problem\("([a-z-]+)"', path.read_text()))
    assert raised <= set(PROBLEMS) and len(raised) > 20
    assert all(kind.docs and kind.title and 400 <= kind.status < 600 for kind in PROBLEMS.values())
    assert set(problems.docs()) == {problems.URN + code for code in PROBLEMS}
    assert Problem("something-new-inside").code == problems.UNUSABLE


def test_unknown_paths_and_methods_are_problems_too(house: Any) -> None:
    for method, path, code in (("GET", "/Sentinel", "not-found"), ("PATCH", "/v1/events", "method-not-allowed"),
                               ("GET", "/v1/events/", "not-found")):  # fmt: skip
        response = house.root.request(method, path)
        assert response.json()["type"] == problems.URN + code and "Sentinel" not in response.text


def test_the_document_describes_every_call(house: Any) -> None:
    document = house.root.get("/openapi.json").json()
    text = json.dumps(document)
    refs = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert refs <= set(document["components"]["schemas"]) and "HTTPBearer" in document["components"]["securitySchemes"]
    assert {"/v1/events", "/v1/decisions", "/v1/open", "/healthz"} <= set(document["paths"])
    assert house.root.get("/docs").status_code == 200
