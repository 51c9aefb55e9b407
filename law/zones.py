"""Time zones of places that have several, or that zone.tab lists as a country only: tz names by ISO 3166 code.

Zones that have kept the same time since 2015 stand for each other, so a list is as short as its clocks are different. A
subdivision that is not here has all zones of its country, which only makes a due time earlier and calling hours narrower.
"""

_EASTERN, _CENTRAL, _MOUNTAIN, _PACIFIC = "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles"

# By 49 CFR Part 71. Communities that keep a neighbour's time unofficially are left out.
_STATES = {
    (_EASTERN,): "CT DC DE GA MA MD ME NC NH NJ NY OH PA RI SC VA VT WV",
    (_CENTRAL,): "AL AR IA IL LA MN MO MS OK WI",
    (_MOUNTAIN,): "CO MT NM UT WY",
    (_PACIFIC,): "CA WA",
    (_EASTERN, _CENTRAL): "FL IN KY MI TN",
    (_CENTRAL, _MOUNTAIN): "KS ND NE SD TX",
    (_MOUNTAIN, _PACIFIC): "ID NV OR",
    ("America/Phoenix", _MOUNTAIN): "AZ",  # the Navajo Nation keeps daylight saving time
    ("America/Anchorage", "America/Adak"): "AK",
    ("Pacific/Honolulu",): "HI",
    ("America/Puerto_Rico",): "PR VI",
    ("Pacific/Guam",): "GU MP",
    ("Pacific/Pago_Pago",): "AS",
}

ZONES: dict[str, tuple[str, ...]] = {
    # Anywhere: the days that end first on Earth and those that end last.
    "*": ("Pacific/Kiritimati", "Etc/GMT+12"),
    # The Union from Cyprus and Finland to the Azores; the outermost regions overseas have country codes of their own.
    "EU": ("Europe/Athens", "Europe/Brussels", "Europe/Lisbon", "Atlantic/Azores"),
    "US": (
        _EASTERN, _CENTRAL, _MOUNTAIN, "America/Phoenix", _PACIFIC, "America/Anchorage", "America/Adak", "Pacific/Honolulu",
    ),
    **{f"US-{state}": zones for zones, states in _STATES.items() for state in states.split()},
    "CA-AB": ("America/Edmonton",),
    "CA-BC": ("America/Vancouver", "America/Edmonton", "America/Dawson_Creek", "America/Creston"),
    "CA-MB": ("America/Winnipeg",),
    "CA-NB": ("America/Moncton",),
    "CA-NL": ("America/St_Johns", "America/Goose_Bay"),
    "CA-NS": ("America/Halifax",),
    "CA-NT": ("America/Inuvik", "America/Edmonton"),
    "CA-NU": ("America/Iqaluit", "America/Rankin_Inlet", "America/Resolute", "America/Cambridge_Bay", "America/Atikokan"),
    "CA-ON": ("America/Toronto", "America/Winnipeg", "America/Atikokan"),
    "CA-PE": ("America/Halifax",),
    "CA-QC": ("America/Toronto", "America/Halifax", "America/Blanc-Sablon"),
    "CA-SK": ("America/Regina", "America/Edmonton"),  # Lloydminster keeps Alberta's time
    "CA-YT": ("America/Whitehorse",),
    "AU-ACT": ("Australia/Sydney",),
    "AU-NSW": ("Australia/Sydney", "Australia/Broken_Hill", "Australia/Lord_Howe"),
    "AU-NT": ("Australia/Darwin",),
    "AU-QLD": ("Australia/Brisbane",),
    "AU-SA": ("Australia/Adelaide",),
    "AU-TAS": ("Australia/Hobart",),
    "AU-VIC": ("Australia/Melbourne",),
    "AU-WA": ("Australia/Perth", "Australia/Eucla"),
    "ES-CE": ("Africa/Ceuta",),
    "ES-CN": ("Atlantic/Canary",),
    "ES-ML": ("Africa/Ceuta",),
    **{f"ES-{region}": ("Europe/Madrid",) for region in "AN AR AS CB CL CM CT EX GA IB MC MD NC PV RI VC".split()},
    # The French overseas: by their numbers, and by the letters that were their codes before.
    **{
        f"FR-{code}": (f"{ocean}/{island}",)
        for ocean, island, codes in (
            ("America", "Guadeloupe", "971 GP"), ("America", "Martinique", "972 MQ"), ("America", "Cayenne", "973 GF"),
            ("Indian", "Reunion", "974 RE"), ("Indian", "Mayotte", "976 YT"), ("America", "St_Barthelemy", "BL"),
            ("America", "Marigot", "MF"), ("America", "Miquelon", "PM"), ("Pacific", "Noumea", "NC"), ("Pacific", "Wallis", "WF"),
        )
        for code in codes.split()
    },
    "FR-PF": ("Pacific/Tahiti", "Pacific/Marquesas", "Pacific/Gambier"),
    "FR-TF": ("Indian/Kerguelen",),
    "PT-20": ("Atlantic/Azores",),
    "PT-30": ("Atlantic/Madeira",),
    **{f"PT-{district:02}": ("Europe/Lisbon",) for district in range(1, 19)},
}
