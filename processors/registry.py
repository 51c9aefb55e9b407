"""Every processor by its name, which is also its file, its section of `topology.yaml`, its cases and its metric label."""

from processors.admit_event import AdmitEvent
from processors.configure_controller import ConfigureController
from processors.enforce_retention import EnforceRetention
from processors.erase_subject import EraseSubject
from processors.heed_objection import HeedObjection
from processors.hold_media import HoldMedia
from processors.keep_consent import KeepConsent
from processors.keep_hold import KeepHold
from processors.keep_roster import KeepRoster
from processors.kernel import Processor
from processors.link_identity import LinkIdentity
from processors.mask_item import MaskItem
from processors.order_media import OrderMedia
from processors.protect_item import ProtectItem
from processors.run_breach import RunBreach
from processors.run_request import RunRequest


def processors() -> dict[str, Processor]:
    """A fresh instance of each processor; `decide_use` is a pure function and is none of them."""
    every: list[Processor] = [
        AdmitEvent(), LinkIdentity(), KeepConsent(), ProtectItem(), EnforceRetention(), EraseSubject(), MaskItem(), HoldMedia(),
        HeedObjection(),
        KeepRoster(), OrderMedia(), RunRequest(), KeepHold(), RunBreach(), ConfigureController(),
    ]  # fmt: skip
    return {p.name: p for p in every}
