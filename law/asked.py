"""Which rules code asks for by name, per pack, and where at least: a version of the pack that lacks one is refused."""

ASKED: dict[str, dict[str, str]] = {
    "gdpr": {"gdpr.art12.response": "EU", "gdpr.art12.extended": "EU"},
    "uk_gdpr": {"uk_gdpr.art12.response": "GB", "uk_gdpr.art12.extended": "GB"},
    "ccpa": {
        "ccpa.confirm": "US-CA", "ccpa.respond": "US-CA", "ccpa.respond_extended": "US-CA", "ccpa.opt_out": "US-CA",
        "ccpa.limit": "US-CA",
    },
    "tcpa_tsr": {"tcpa.revocation": "US"},
    "breach": {"gdpr.art33.authority": "EU", "uk_gdpr.art33.authority": "GB", "us_ca.breach_residents": "US-CA"},
}  # fmt: skip
