"""Conversations to forget people in: the 300 vCons that stand beside the repository, and forty made here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

GIVEN = Path(__file__).parents[2].parent / "shared" / "data" / "calls"
SENTENCE = re.compile(r"[^.!?]+[.!?]*")
SENTENCE_CHARS_MIN = 20
NAME_CHARS_MIN = 6

FIRST = ("Adelheid", "Bartholomew", "Cosima", "Dorothea", "Eberhard", "Florentine", "Gwendolyn", "Hildegard")
LAST = ("Abendroth", "Birkenfeld", "Castellane", "Donnersmarck", "Eichendorff")
TOPICS = ("a broken gutter", "the flooded cellar", "my late aunt's ring", "a dented door", "the parrot that bit a guest")


class Person(NamedTuple):
    """The customer of one call or several: found by `tel` and `email`, both of which nobody else has."""

    tel: str
    email: str
    name: str
    calls: tuple[int, ...]


class Corpus(NamedTuple):
    """vCons, their bytes as published, and the customers who can be forgotten by either identifier."""

    documents: list[dict[str, Any]]
    people: list[Person]

    def bytes_of(self, n: int) -> bytes:
        return msgspec.json.encode(self.documents[n])


def given() -> list[dict[str, Any]]:
    """The vCons beside the repository; empty when they are not there."""
    return [msgspec.json.decode(path.read_bytes()) for path in sorted(GIVEN.glob("*.vcon.json"))]


def made(count: int = 40, seed: int = 7) -> list[dict[str, Any]]:
    """Conversations of as many people, with names, numbers and addresses spoken, in reserved ranges only."""
    rng = Random(seed)
    areas = ("202", "212", "303", "404", "503")
    documents = []
    for n in range(count):
        first, last = FIRST[n % 8], LAST[n // 8 % 5]
        tel, email = f"+1{areas[n % 5]}55501{n:02d}", f"{first}.{last}@example.com".lower()
        agent = {"tel": "", "mailto": f"agent{n % 3}@example.net", "name": f"Agent Number{n % 3}", "role": "agent"}
        customer = {"tel": tel, "mailto": email, "name": f"{first} {last}" if n % 2 else tel, "role": "contact"}
        talk = [
            (0, "Good morning, you have reached the example insurance. Who am I speaking to?"),
            (1, f"This is {first} {last} and I am calling about {rng.choice(TOPICS)} number {n}."),
            (0, f"Thank you, {first}. Could you confirm the number that we have on file for you?"),
            (1, f"It is {tel[2:5]} {tel[5:8]} {tel[8:]}, and my address is {email}, with policy {rng.randrange(10**7):07d}."),
            (0, f"That is correct, {last} with policy in good order. We shall send a letter about case {n * 7919}."),
            (1, f"It has been keeping me awake since the {rng.randrange(1, 28)}th of this month, case {n}."),
        ]  # fmt: skip
        at = datetime(2026, 2, 1 + n % 20, 9, n % 60, tzinfo=UTC)
        documents.append({
            "uuid": str(UUID(int=rng.getrandbits(128), version=4)), "vcon": "0.0.1", "created_at": at.isoformat(),
            "parties": [agent, customer],
            "dialog": [
                {"type": "text", "start": (at + timedelta(seconds=20 * k)).isoformat(), "parties": [who], "originator": who,
                 "mimetype": "text/plain", "body": text} for k, (who, text) in enumerate(talk)
            ], "analysis": [], "attachments": [],
        })  # fmt: skip
    return documents


def customer_of(document: dict[str, Any]) -> dict[str, Any]:
    """The party who is not the agent."""
    return next(p for p in document["parties"] if p.get("role") != "agent")


def corpus(documents: list[dict[str, Any]]) -> Corpus:
    """The people of these conversations whose number and address belong to each other alone."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for n, document in enumerate(documents):
        party = customer_of(document)
        if party.get("tel") and party.get("mailto"):
            pairs.setdefault((party["tel"], party["mailto"].lower()), []).append(n)
    tels = [tel for tel, _ in pairs]
    mails = [mail for _, mail in pairs]
    others = {
        p.get(key, "").lower() for d in documents for p in d["parties"] if p is not customer_of(d) for key in ("tel", "mailto")
    }
    people = []
    for (tel, email), calls in sorted(pairs.items()):
        if tels.count(tel) == mails.count(email) == 1 and tel not in others and email not in others:
            party = customer_of(documents[calls[0]])
            name = party.get("name") or ""
            if not name or name == tel:
                name = " ".join(part.capitalize() for part in email.partition("@")[0].split("."))
            people.append(Person(tel, party["mailto"], name, tuple(calls)))
    return Corpus(documents, people)


def texts_of(document: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """(whether the agent said it, what was said) of a document."""
    agents = {n for n, p in enumerate(document["parties"]) if p.get("role") == "agent"}
    for dialog in document["dialog"]:
        if dialog["type"] == "text" and isinstance(dialog.get("body"), str):
            speaker = dialog.get("originator", (dialog.get("parties") or [None])[0])
            yield speaker in agents, dialog["body"]


def needles_of(who: Person, corpus: Corpus, kept: list[bytes]) -> list[str]:
    """What must be gone: identifiers, name, own sentences, and the agent's that name the person; none that `kept` have."""
    found = [who.tel, who.email]
    if len(who.name) >= NAME_CHARS_MIN and " " in who.name:
        found.append(who.name)
    words = [word for word in who.name.split() if len(word) >= 3]
    for n in who.calls:
        for agent, text in texts_of(corpus.documents[n]):
            for match in SENTENCE.finditer(text):
                sentence = match[0].strip()
                if len(sentence) >= SENTENCE_CHARS_MIN and (not agent or any(word in sentence for word in words)):
                    found.append(sentence)
    folded = [(needle, msgspec.json.encode(needle)[1:-1].decode().casefold().encode()) for needle in dict.fromkeys(found)]
    return [needle for needle, form in folded if not any(form in document for document in kept)]
