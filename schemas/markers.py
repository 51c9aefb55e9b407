"""What people see in the place of something that was erased (contract, section 3)."""

from typing import Final

PHONE: Final = "[anonphonenumber]"
ADDRESS: Final = "[anondigitaladdress]"
CONTENT: Final = "[anonconversationcontent]"
IP: Final = "0.0.0.0"  # noqa: S104 -- a marker, nothing binds to it
OTHER: Final = "[anonymized]"
_BY_KIND = {"tel": PHONE, "email": ADDRESS, "social": ADDRESS, "device": ADDRESS, "ip": IP}
# A category speaks for those below it. `user.contact` is left out: a list of identifiers holds any kind.
_BY_CATEGORY = {
    "user.contact.phone_number": PHONE, "user.contact.fax_number": PHONE, "user.contact.email": ADDRESS,
    "user.contact.url": ADDRESS, "user.social": ADDRESS, "user.device": ADDRESS, "user.device.ip_address": IP,
    "user.content": CONTENT,
}  # fmt: skip


def marker_for(category: str, kind: str = "") -> str:
    """Choose an erased value's marker: by the identifier's kind where known, else by the nearest category above it."""
    if kind:
        return _BY_KIND.get(kind, OTHER)
    while category and category not in _BY_CATEGORY:
        category = category.rpartition(".")[0]
    return _BY_CATEGORY.get(category, OTHER)
