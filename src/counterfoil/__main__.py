"""`python -m counterfoil`."""

from counterfoil.cli.main import main

main()
