"""The command line: it asks a running service or opens a stopped one, prints tables or JSON, and holds no rule of its own."""


def main() -> None:
    """Be the program `consentinel`."""
    from connectors.cli.app import main as run  # noqa: PLC0415 -- importing a part must not build the whole program

    run()
