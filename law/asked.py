"""Which rules code asks for by name, per pack: a version of the pack that lacks one is refused when it is read."""

ASKED: dict[str, tuple[str, ...]] = {
    "gdpr": ("gdpr.art12.response", "gdpr.art12.extended", "gdpr.art21.marketing_purposes"),
    "uk_gdpr": ("uk_gdpr.art12.response", "uk_gdpr.art12.extended"),
    "ccpa": ("ccpa.confirm", "ccpa.respond", "ccpa.respond_extended", "ccpa.opt_out"),
    "tcpa_tsr": ("tcpa.revocation",),
    "breach": ("gdpr.art33.authority", "us_ca.breach_residents"),
}
