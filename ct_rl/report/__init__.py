"""One self-contained page about one or several runs: `python -m ct_rl.report RUN... --out report.html`."""
