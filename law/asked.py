"""Which rules are asked for by name, per pack: by code, or by others, to whom the contract promises them (`law due`).

A version of the pack that lacks one is refused when it is read.
"""

ASKED: dict[str, tuple[str, ...]] = {
    "gdpr": ("gdpr.art12.response", "gdpr.art12.extended", "gdpr.art21.marketing_purposes"),
    "uk_gdpr": ("uk_gdpr.art12.response", "uk_gdpr.art12.extended"),
    "ccpa": ("ccpa.confirm", "ccpa.respond", "ccpa.respond_extended", "ccpa.opt_out"),
    "tcpa_tsr": ("tcpa.revocation", "tcpa.revoke_all", "tcpa.national_dnc.age_days", "tcpa.64_1200_c_1.hours"),
    "eu_telephony": ("eu.marketing.opt_in", "eu.training.prior_consent"),
    "us_recording": ("us.recording.all_party",),
    "mifid": ("mifid.16_7.duty",),
    "breach": ("gdpr.art33.authority", "us_ca.breach_residents"),
}

# Clocks that run without anybody looking: each has a period as law, at this place at least.
CLOCKS: dict[str, dict[str, str]] = {
    "gdpr": {"gdpr.art12.response": "EU"},
    "uk_gdpr": {"uk_gdpr.art12.response": "GB"},
    "ccpa": {"ccpa.respond": "US-CA", "ccpa.opt_out": "US-CA", "ccpa.limit": "US-CA"},
    "breach": {"gdpr.art33.authority": "EU", "uk_gdpr.art33.authority": "GB"},
}
