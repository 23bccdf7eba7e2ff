"""The report card: files of runs in, `report.md` and one self-contained `report.html` out; no torch, no network."""
