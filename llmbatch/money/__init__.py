"""What calls cost: prices, the bill of a call, and the cap of ``--max-cost``. All amounts are US$, as ``Decimal``."""
