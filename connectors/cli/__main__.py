"""`python -m connectors.cli` is the program `consentinel`."""

from connectors.cli import main

if __name__ == "__main__":
    main()
