"""By which rule a request is made, and by which rules what is held back of it is held: said in the audit log, with the pack."""

from collections.abc import Generator

import msgspec

from law.rights import available, exceptions
from processors.kernel import Audit, Effect, Receipt
from processors.request_case import RequestCase
from processors.terms import day
from schemas.events import RequestOpened


def right_of(event: RequestOpened, at: Receipt) -> dict[str, str]:
    """The rule of the right as facts of an audit entry, and the ground of Art. 17(1) where one was given.

    A basis alone never refuses: the data of one person rest on many, so it is asked whether the right exists on any.
    """
    right = available(event.right, "", event.regime, at.law(at.controller), day(at.receipt_ms))
    told = {"right_rule": right.rule or "none"}
    return told | ({"on_ground": event.ground} if event.ground else {})


def exempted(case: RequestCase, at: Receipt) -> Generator[Effect, None, RequestCase]:
    """Put the exceptions on record by which items and recordings of a request are held, each once.

    A ground that no row knows holds as well, and is `other`: whoever placed the hold answers for it.
    """
    kept = [item for items in case.kept.values() for item in items] + list(case.kept_media.values())
    fresh = sorted({ground for item in kept for ground in item.grounds} - {*case.exempt})
    if not fresh:
        return case
    book = at.law(case.controller)
    found = exceptions(case.right, case.regime, fresh, book, day(at.receipt_ms))
    rules = {f"rule.{exempt.code}": exempt.rule or "none" for exempt in found}
    articles = {f"article.{exempt.code}": exempt.article for exempt in found if exempt.article}
    facts = {"request": case.request_id} | rules | articles
    yield Audit("request.exceptions", case.controller, facts, named=False, law=book.names)
    return msgspec.structs.replace(case, exempt=sorted({*case.exempt, *fresh}))
