"""`python -m bitbudget.app.cli`."""

from __future__ import annotations

from bitbudget.app.cli.main import main

if __name__ == "__main__":
    main()
